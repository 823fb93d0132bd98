// The grid of images: as many as were scrolled to, and of them those that the cut-off leaves.

import { byId } from "./elements.js";
import { tileOf } from "./tiles.js";

const AHEAD = "600px"; // more is asked for before the end is in sight

const list = byId("images");
let shown = { rows: [], options: {}, addressOf: () => "" };
let left = 0; // of the rows, those at or above the cut-off, which come first

// Draws rows; keeps the tiles of those that are there already.
export function draw(rows, options, addressOf) {
  const isSame = options.generation === shown.options.generation && options.key === shown.options.key
    && shown.rows.length <= rows.length && shown.rows.every((row, i) => row.id === rows[i].id);
  const kept = isSame ? shown.rows.length : 0;
  const tiles = rows.slice(kept).map((row) => tileOf(row, addressOf(row), options));
  if (isSame) list.append(...tiles);
  else list.replaceChildren(...tiles);
  shown = { rows, options, addressOf };
  left = rows.length;
}

// Hides what has a lower score; gives how many are left. Rows without scores all stay.
export function cut(least) {
  const { rows } = shown;
  let next = rows.length;
  if (least !== null) {
    const first = rows.findIndex((row) => row.score < least);
    next = first < 0 ? rows.length : first;
  }
  for (let i = Math.min(left, next); i < Math.max(left, next); i += 1) list.children[i].hidden = i >= next;
  left = next;
  return left;
}

// Their addresses name the cut-off.
export function readdress() {
  shown.rows.forEach((row, i) => { list.children[i].firstElementChild.href = shown.addressOf(row); });
}

export const rowOfTile = (tile) => shown.rows[[...list.children].indexOf(tile.closest("li"))];

export function focusImage(id) {
  list.querySelector(`li[data-id="${id}"] a`)?.focus({ preventScroll: true });
}

export function watchGrid({ onOpen, onEnd }) {
  list.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    // with a modifier the browser opens a tab, which has an address to go to
    if (!tile || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    if (event.detail > 1) return; // of a double click, the second would open what has come under the pointer
    onOpen(rowOfTile(tile));
  });
  list.addEventListener("keydown", step);
  const end = byId("more").parentElement;
  const observer = new IntersectionObserver(
    (entries) => entries.at(-1).isIntersecting && !byId("more").hidden && onEnd(),
    { rootMargin: AHEAD },
  );
  observer.observe(end);
  byId("more").addEventListener("click", () => onEnd({ isAsked: true }));
  // it speaks of changes alone: looked at again, it says whether the end is still in sight
  return () => { observer.unobserve(end); observer.observe(end); };
}

function step(event) {
  const tiles = [...list.children].slice(0, left).map((item) => item.firstElementChild);
  const at = tiles.indexOf(document.activeElement);
  if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const row = getComputedStyle(list).gridTemplateColumns.split(" ").length;
  const to = {
    ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - row, ArrowDown: at + row,
    Home: 0, End: tiles.length - 1,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  tiles[to]?.focus();
}
