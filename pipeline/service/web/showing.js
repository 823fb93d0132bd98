// What stands around the grid, and in it: the title, the query, the counts, the end.

import { cutTo } from "./cutoff.js";
import { byId, counted } from "./elements.js";
import { fillFilters, showFilters } from "./filters.js";
import { cut, draw } from "./grid.js";
import { nameOfQuery, showQuery } from "./query.js";
import { addressOfView, isSearch, keyOf } from "./view.js";

export function showCollection(collection) {
  fillFilters(collection);
  const classes = Object.keys(collection.classes).length;
  const among = classes ? ` in ${counted(classes, "class", "classes")}` : "";
  byId("eyebrow").textContent = `${counted(collection.count, "image")}${among}`;
}

export function showModel(model, collection) {
  const words = [model.name, model.version, model.method, model.backbone].filter(Boolean).join(" · ");
  byId("made").textContent = `Encoder ${words} · generation ${collection.generation}`;
}

const looks = ({ encoder, thumbnails, manifest, generation }) =>
  ({ encoder, thumbnails, manifest, generation });

// All but the rows.
export function showPlace({ view, upload, row }, collection) {
  const isAsked = isSearch(view);
  byId("intake").hidden = isAsked || !collection.encoder;
  byId("no-encoder").hidden = collection.encoder;
  for (const id of ["another", "photograph-another"]) byId(id).hidden = !collection.encoder;
  for (const id of ["query", "query-picture", "cut-control", "tools"]) byId(id).hidden = !isAsked;
  const title = isAsked ? `What looks like ${nameOfQuery(view, upload)}` : "Find images that look alike";
  byId("title").textContent = title;
  document.title = isAsked ? `${title} – Lookalike` : "Lookalike";
  const begin = `${collection.encoder ? "Or begin" : "Begin"} with one of the collection`;
  byId("images-title").textContent = isAsked ? "The nearest first" : begin;
  for (const id of ["images-title", "controls", "bar"]) byId(id).hidden = !collection.count;
  if (isAsked) showQuery(view, upload, row, looks(collection));
  byId("copy").hidden = upload !== null;
  byId("address").hidden = true;
  if (isAsked) byId("browse").removeAttribute("aria-current");
  else byId("browse").setAttribute("aria-current", "page");
  showFilters(view);
}

// The rows that there are by now. `shown.view` may change under their addresses: see `readdress`.
export function showRows(shown, collection) {
  const { view, source } = shown;
  draw(source.rows, { ...looks(collection), key: keyOf(view) }, (row) =>
    addressOfView({ ...shown.view, id: String(row.id), upload: null }));
  if (isSearch(view)) cutTo(source.rows, view.min);
  showCut(shown, collection);
}

// Of those the ones that the cut-off leaves, and whether there are more.
export function showCut({ view, source }, collection) {
  const left = cut(isSearch(view) ? view.min : null);
  const isCut = left < source.rows.length;
  byId("count").textContent = countWords(left, view, source);
  byId("more").hidden = source.isAll || isCut;
  byId("nothing").hidden = left > 0;
  byId("nothing").textContent = nothingWords(view, source, collection);
  const most = collection.limits.k;
  byId("end").hidden = !isSearch(view) || isCut || source.rows.length < most;
  byId("end").textContent = `A search gives at most ${counted(most, "image")}.`;
  byId("download").disabled = left === 0;
}

// Where a view could not be had: why.
export function showNoRows(shown, collection, words) {
  showPlace(shown, collection);
  draw([], { ...looks(collection), key: "" }, () => "");
  byId("count").textContent = "";
  for (const id of ["more", "end", "crop", "cut-control", "tools"]) byId(id).hidden = true;
  byId("nothing").hidden = false;
  byId("nothing").textContent = words;
}

// What there is to see, for who listens.
export const seenWords = () => byId("count").textContent || byId("nothing").textContent;

function countWords(left, view, source) {
  if (!left) return "";
  if (!isSearch(view)) {
    const all = counted(source.total, "image");
    return source.isAll ? counted(left, "image") : `${left.toLocaleString("en")} of ${all}`;
  }
  const [first, last] = [source.rows[0], source.rows[left - 1]].map((row) => row.score.toFixed(3));
  const among = left < source.rows.length ? ` of ${source.rows.length}` : "";
  return `${counted(left, "image")}${among}, scores ${first} to ${last}`;
}

function nothingWords(view, source, collection) {
  if (!collection.count) return "The collection is empty: “lookalike index add PATH” adds images to it.";
  if (source.rows.length) return "No neighbour has such a score: move the cut-off down.";
  return isSearch(view) ? "There is no such neighbour." : "There is no such image.";
}
