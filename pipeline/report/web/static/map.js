"use strict";
// The map: ten thousand points on a canvas, by pointer, touch and keyboard.

const map = (() => {
  const { data, xs, ys, groups, cosines, labels, ids, sheets, places, colourOf, nearestOf, describe, picture, words } = images;
  const canvas = document.getElementById("map");
  const pen = canvas.getContext("2d");
  const tip = document.getElementById("map-tip");
  const detail = document.getElementById("map-detail");
  const pick = document.getElementById("map-pick");

  const LARGEST_ZOOM = 300, REACH = 16, THUMBNAILS = 160, THUMBNAIL = 30;
  const radius = data.count > 3000 ? 2 : data.count > 500 ? 2.8 : 4.5;

  let width = 0, height = 0, zoom = 1, cx = 0.5, cy = 0.5, chosen = -1, hovered = -1, waiting = false;

  const unit = () => zoom * (Math.min(width, height) - 24);
  const screenX = (i) => (xs[i] / 65535 - cx) * unit() + width / 2;
  const screenY = (i) => (ys[i] / 65535 - cy) * unit() + height / 2;
  const isPicked = (i) => pick.value === "" || groups[i] === Number(pick.value);
  const inside = (x, y, by = 0) => x >= -by && y >= -by && x <= width + by && y <= height + by;

  const pictures = data.sheets.map((_, number) => {
    const probe = document.createElement("i");
    probe.className = `s${number}`;
    document.body.append(probe);
    const picture = new Image();
    picture.onload = redraw;
    picture.src = getComputedStyle(probe).backgroundImage.replace(/^url\("?|"?\)$/g, "");
    probe.remove();
    return picture;
  });

  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); });
  }

  function paint() {
    const ratio = devicePixelRatio || 1;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const visible = [];
    const size = radius * Math.min(2.5, Math.sqrt(zoom));
    const paths = new Map();
    for (let i = 0; i < data.count; i += 1) {
      const x = screenX(i), y = screenY(i);
      if (!inside(x, y, THUMBNAIL)) continue;
      visible.push(i);
      const key = isPicked(i) ? groups[i] : -2;
      if (!paths.has(key)) paths.set(key, new Path2D());
      const path = paths.get(key);
      path.moveTo(x + size, y);
      path.arc(x, y, size, 0, 2 * Math.PI);
    }
    for (const [key, path] of [...paths].sort(([a], [b]) => a - b)) {
      pen.globalAlpha = key === -2 ? 0.25 : 0.85;
      pen.fillStyle = key === -2 ? colour("line") : colourOf(key);
      pen.fill(path);
    }
    pen.globalAlpha = 1;
    if (visible.length <= THUMBNAILS && zoom > 1) visible.filter(isPicked).forEach(paintThumbnail);
    if (chosen >= 0) paintChosen(size);
    if (hovered >= 0 && hovered !== chosen) ring(hovered, size + 3, 2);
    canvas.dataset.painted = String(visible.length);
  }

  function paintThumbnail(i) {
    const sheet = data.sheets[sheets[i]];
    if (!pictures[sheets[i]].complete) return;
    const x = screenX(i) - THUMBNAIL / 2, y = screenY(i) - THUMBNAIL / 2;
    const left = (places[i] % sheet.columns) * sheet.side, top = Math.floor(places[i] / sheet.columns) * sheet.side;
    pen.fillStyle = colourOf(groups[i]);
    pen.fillRect(x - 2, y - 2, THUMBNAIL + 4, THUMBNAIL + 4);
    pen.drawImage(pictures[sheets[i]], left, top, sheet.side, sheet.side, x, y, THUMBNAIL, THUMBNAIL);
  }

  function paintChosen(size) {
    pen.strokeStyle = colour("soft");
    pen.lineWidth = 1;
    for (const j of nearestOf(chosen)) {
      pen.beginPath();
      pen.moveTo(screenX(chosen), screenY(chosen));
      pen.lineTo(screenX(j), screenY(j));
      pen.stroke();
      ring(j, size + 2, 1.5);
    }
    ring(chosen, size + 5, 3);
  }

  function ring(i, size, thickness) {
    pen.beginPath();
    pen.arc(screenX(i), screenY(i), size, 0, 2 * Math.PI);
    pen.strokeStyle = colour("ink");
    pen.lineWidth = thickness;
    pen.stroke();
  }

  function at(x, y) {
    let best = -1, distance = REACH ** 2;
    for (let i = 0; i < data.count; i += 1) {
      const far = (screenX(i) - x) ** 2 + (screenY(i) - y) ** 2;
      if (far < distance && isPicked(i)) [best, distance] = [i, far];
    }
    return best;
  }

  function hover(i) {
    if (i !== hovered) {
      hovered = i;
      tip.hidden = i < 0;
      if (i >= 0) tip.replaceChildren(picture(i), words("div", labels[i] < 0 ? `image ${ids[i]}` : data.classes[labels[i]]));
      redraw();
    }
    if (i < 0) return;
    const x = Math.max(4, Math.min(width - 98, screenX(i) + 14)), y = Math.max(4, Math.min(height - 126, screenY(i) + 14));
    tip.style.transform = `translate(${x}px, ${y}px)`;
  }

  function choose(i, { scroll = true } = {}) {
    chosen = i;
    if (scroll && !inside(screenX(i), screenY(i), -20)) [cx, cy] = [xs[i] / 65535, ys[i] / 65535];
    redraw();
  }

  function showNeighbors(i) {
    choose(i);
    const big = document.createElement("div");
    big.className = "big";
    const text = document.createElement("div");
    text.append(words("p", describe(i)), words("p", data.sources[i], "names"), words("p", "Its nearest on the map, and their cosines:", "note"));
    big.append(picture(i), text);
    const others = document.createElement("div");
    others.className = "others";
    nearestOf(i).forEach((j, rank) => {
      const cosine = (cosines[i * data.k + rank] / 10000).toFixed(3);
      const button = document.createElement("button");
      button.type = "button";
      button.className = "tile";
      button.append(picture(j), words("span", `${labels[j] < 0 ? "" : data.classes[labels[j]]} ${cosine}`, "caption"));
      button.addEventListener("click", () => { showNeighbors(j); detail.querySelector("button")?.focus(); });
      others.append(button);
    });
    detail.replaceChildren(big, others);
  }

  function zoomBy(factor, x = width / 2, y = height / 2) {
    const before = unit();
    zoom = Math.max(1, Math.min(LARGEST_ZOOM, zoom * factor));
    const after = unit();
    cx += (x - width / 2) * (1 / before - 1 / after);
    cy += (y - height / 2) * (1 / before - 1 / after);
    redraw();
  }

  function whole() {
    [zoom, cx, cy] = [1, 0.5, 0.5];
    redraw();
  }

  // The nearest in a direction: what lies beside the way counts double.
  function step(dx, dy) {
    if (chosen < 0) return choose(at0());
    const x = screenX(chosen), y = screenY(chosen);
    let best = -1, cost = Infinity;
    for (let i = 0; i < data.count; i += 1) {
      const along = (screenX(i) - x) * dx + (screenY(i) - y) * dy;
      const beside = Math.abs((screenX(i) - x) * dy) + Math.abs((screenY(i) - y) * dx);
      if (along > 0 && beside <= along * 1.5 && along + 2 * beside < cost && isPicked(i)) [best, cost] = [i, along + 2 * beside];
    }
    if (best >= 0) choose(best);
  }

  // The image that is nearest to the middle of what is seen.
  function at0() {
    let best = 0, distance = Infinity;
    for (let i = 0; i < data.count; i += 1) {
      const far = (screenX(i) - width / 2) ** 2 + (screenY(i) - height / 2) ** 2;
      if (far < distance && isPicked(i)) [best, distance] = [i, far];
    }
    return best;
  }

  const keys = {
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: whole,
    PageDown: () => choose((chosen + 1) % data.count), PageUp: () => choose((chosen - 1 + data.count) % data.count),
    Enter: () => showNeighbors(chosen < 0 ? at0() : chosen),
    Escape: () => { chosen = -1; hover(-1); redraw(); },
  };

  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
    if (chosen >= 0) { hover(chosen); say(describe(chosen)); }
  });

  const pointers = new Map();
  let moved = 0;
  const span = () => { const [a, b] = [...pointers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };

  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    if (document.activeElement === canvas || event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return hover(at(event.offsetX, event.offsetY));
    const apart = pointers.size === 2 ? span() : 0;
    pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    moved += Math.hypot(event.offsetX - before.x, event.offsetY - before.y);
    if (pointers.size === 2) zoomBy(span() / Math.max(1, apart), event.offsetX, event.offsetY);
    else if (moved > 4) {
      cx -= (event.offsetX - before.x) / unit();
      cy -= (event.offsetY - before.y) / unit();
      hover(-1);
      redraw();
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    pointers.delete(event.pointerId);
    if (moved > 4) return;
    const i = at(event.offsetX, event.offsetY);
    if (i >= 0) { hover(i); showNeighbors(i); }
  });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => hover(-1));
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;  // else the page scrolls
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
  }, { passive: false });

  document.getElementById("map-in").addEventListener("click", () => zoomBy(1.5));
  document.getElementById("map-out").addEventListener("click", () => zoomBy(1 / 1.5));
  document.getElementById("map-all").addEventListener("click", whole);
  pick.addEventListener("change", redraw);

  function legend() {
    document.getElementById("map-legend").replaceChildren(...data.groups.map((name, number) => {
      const item = words("li", name);
      const dot = document.createElement("i");
      dot.style.background = colourOf(number);
      item.prepend(dot);
      return item;
    }));
  }
  pick.append(...data.groups.map((name, number) => new Option(name, String(number))));
  legend();
  wantsDark.addEventListener("change", () => { legend(); redraw(); });

  new ResizeObserver(() => {
    const ratio = devicePixelRatio || 1;
    hover(-1);  // it lies where the point was
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    redraw();
  }).observe(canvas);

  return { data, pictures, place: (i) => [screenX(i), screenY(i)], state: () => ({ zoom, cx, cy, chosen, hovered }) };
})();
