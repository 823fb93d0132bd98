"use strict";
// What the map knows of its images, and how one is drawn as an element.

const images = (() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);

  const unpack = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const [xs, ys, neighbors] = [data.x, data.y, data.neighbors].map((text) => unpack(text, Uint16Array));
  const [groups, cosines] = [data.group, data.cosines].map((text) => unpack(text, Int16Array));
  const labels = unpack(data.label, Int32Array);
  const ids = unpack(data.id, Uint32Array);
  const [splits, sheets] = [data.split, data.sheet].map((text) => unpack(text, Uint8Array));
  const places = unpack(data.place, Uint16Array);

  const LIGHT = ["#2a5caa", "#c2570c", "#1b7340", "#b3261e", "#7b4ab8", "#8a5a2b", "#c23b82", "#5d6169", "#8a8600",
    "#0f8a9c", "#7da7e8", "#f0a35e", "#6fbf85", "#f08a80", "#b79ae0", "#c9a37d", "#eb96c4", "#a9adb6", "#cfc54a", "#6ccbdc"];
  const DARK = ["#6ea8ff", "#ff9a52", "#4cc983", "#ff6f65", "#b995ff", "#cf9f6b", "#ff86c2", "#b9bcc4", "#d8d243",
    "#45d0e5", "#3f6fb5", "#b5652a", "#2f8a56", "#b5453d", "#7a5cc0", "#8d6a45", "#b04f86", "#787c85", "#96902c", "#2a8fa0"];
  const colourOf = (group) => (group < 0 ? colour("c3") : (wantsDark.matches ? DARK : LIGHT)[group % LIGHT.length]);
  const nearestOf = (i) => [...neighbors.subarray(i * data.k, (i + 1) * data.k)];

  function describe(i) {
    const name = labels[i] < 0 ? "" : `class ${data.classes[labels[i]]}, `;
    const cluster = data.coloredBy === "cluster" ? `${data.groups[groups[i]]}, ` : "";
    return `${name}${cluster}${data.splits[splits[i]]} image ${ids[i]}`;
  }

  function picture(i) {
    const { columns } = data.sheets[sheets[i]];
    const place = document.createElement("span");
    place.className = `pic s${sheets[i]}`;
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", describe(i));
    place.style.setProperty("--x", places[i] % columns);
    place.style.setProperty("--y", Math.floor(places[i] / columns));
    return place;
  }

  function words(kind, text, className = "") {
    const element = document.createElement(kind);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // Made when it is asked for: ten thousand rows.
  Object.defineProperty(figures, "map", { get: () => ({
    columns: ["id", "x", "y", data.coloredBy, "class", "split", "source"],
    rows: [...ids].map((id, i) => [id, xs[i] / 65535, ys[i] / 65535, groups[i] < 0 ? null : data.groups[groups[i]],
      labels[i] < 0 ? null : data.classes[labels[i]], data.splits[splits[i]], data.sources[i]]),
  }) });

  return { data, xs, ys, groups, cosines, labels, ids, sheets, places, colourOf, nearestOf, describe, picture, words };
})();
