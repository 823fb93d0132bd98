"use strict";
// Charts in the page's colours, and what stands in each figure as CSV.

const figures = JSON.parse(document.getElementById("figures").textContent);
const isNarrow = matchMedia("(max-width: 40rem)");
const wantsDark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function theme() {
  const [soft, line, ink] = ["soft", "line", "ink"].map(colour);
  const font = getComputedStyle(document.body).fontFamily;
  const subjects = ["c1", "c2", "c3", "c4"].map(colour);
  const ramp = [colour("ramp0"), colour("ramp1")];
  return {
    background: null,
    font,
    padding: 2,
    view: { stroke: null },
    axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line,
            labelFontSize: 11, titleFontSize: 11, titleFontWeight: 400, labelLimit: 190 },
    legend: { labelColor: ink, orient: "top", labelFontSize: 12, labelLimit: 140, columns: 0, offset: 4 },
    mark: { color: subjects[0], tooltip: null },
    rule: { color: soft },
    text: { color: ink },
    range: { category: subjects, ramp: ramp, heatmap: ramp },
  };
}

function named(figure) {
  return figure.rows.map((row) => Object.fromEntries(figure.columns.map((name, i) => [name, row[i]])));
}

// Colours that a mark names in words stand for the page's own.
function coloured(spec) {
  const text = JSON.stringify(spec).replaceAll('"onstrong"', JSON.stringify(colour("onstrong")))
    .replaceAll('"onweak"', JSON.stringify(colour("onweak")));
  return JSON.parse(text);
}

const drawn = new Map();

async function draw(place) {
  const figure = figures[place.dataset.figure];
  const config = theme();
  config.legend.columns = isNarrow.matches ? 2 : 0;
  const spec = { ...coloured(figure.chart), width: "container", data: { values: named(figure) } };
  // `ast`: expressions are interpreted, so the page's policy can forbid to evaluate text
  // within, since Vega gives its own words to the element that it is given
  const view = await window.vegaEmbed(place.firstElementChild, spec, {
    actions: false, ast: true, config, defaultStyle: false, mode: "vega-lite", renderer: "svg",
    tooltip: { theme: wantsDark.matches ? "dark" : "light" },
  });
  drawn.get(place)?.finalize();
  drawn.set(place, view);
  place.dataset.drawn = "yes";
}

const charts = [...document.querySelectorAll(".chart")];
const allDrawn = Promise.all(charts.map(draw));
for (const query of [wantsDark, isNarrow]) query.addEventListener("change", () => charts.forEach(draw));

// RFC 4180; a text that a spreadsheet would take for a formula is quoted as text.
function cell(value) {
  if (value === null) return "";
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csv(name) {
  const { columns, rows } = figures[name];
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function say(text) {
  document.getElementById("said").textContent = text;
}

function show(details) {
  const place = details.querySelector("pre");
  if (!place.textContent) place.textContent = csv(details.dataset.figure);
  return place;
}

for (const details of document.querySelectorAll(".csv")) {
  details.addEventListener("toggle", () => details.open && show(details));
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(csv(button.dataset.figure));
      say("Copied as CSV.");
      const words = button.firstChild;
      words.textContent = "Copied";
      setTimeout(() => { words.textContent = "Copy as CSV"; }, 1500);
    } catch {
      // no permission: the text is shown and chosen, so that Ctrl+C copies it
      const details = button.parentElement.querySelector(".csv");
      details.open = true;
      getSelection().selectAllChildren(show(details));
      say("The CSV is shown and selected: copy it.");
    }
  });
}
