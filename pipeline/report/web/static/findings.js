"use strict";
// Galleries: the slider says from which score on findings are shown.

// What pipeline/report/sections/findings.py says of the page as it opens.
function isShown(score, until, threshold) {
  return score >= threshold && (until === null || until < threshold);
}

function counted(gallery, num, images) {
  const words = `${num.toLocaleString("en")} ${num === 1 ? gallery.dataset.one : gallery.dataset.many}`;
  return ["group", "pair"].includes(gallery.dataset.one) ? `${words}, ${images.toLocaleString("en")} images` : words;
}

function fill(gallery, threshold, most) {
  const { columns, rows } = figures[`findings-${gallery.dataset.kind}`];
  const [score, until, size] = ["score", "until", "num_images"].map((name) => columns.indexOf(name));
  const items = gallery.querySelectorAll(".groups > li");
  let num = 0, images = 0, seen = 0, waiting = 0;
  rows.forEach((row, place) => {
    const at = isShown(row[score], row[until], threshold);
    if (at) { num += 1; images += row[size]; }
    if (place >= items.length) return;
    const now = at && seen < most;
    items[place].hidden = !now;
    seen += now;
    waiting += at && !now;
  });
  const words = counted(gallery, num, images);
  const count = gallery.querySelector(".count");
  if (count.textContent !== words) count.textContent = words;
  gallery.querySelector(".further").hidden = waiting === 0;
  const left = gallery.querySelector(".left");
  left.hidden = seen === num;
  left.textContent = `${seen} of ${num.toLocaleString("en")} are shown; all stand in data/evaluation/findings.parquet.`;
}

for (const gallery of document.querySelectorAll(".finding")) {
  const atOnce = Number(gallery.dataset.shown);
  const slider = gallery.querySelector(".slider");
  let most = atOnce;
  const threshold = () => (slider ? Number(slider.value) : -Infinity);
  slider?.addEventListener("input", () => {
    most = atOnce;
    gallery.querySelector(".at").textContent = Number(slider.value).toFixed(Number(slider.step) < 0.01 ? 3 : 1);
    fill(gallery, threshold(), most);
  });
  gallery.querySelector(".further").addEventListener("click", () => {
    most += atOnce;
    fill(gallery, threshold(), most);
  });
  fill(gallery, threshold(), most);
}
