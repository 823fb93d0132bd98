// An image of the collection as an element: its thumbnail, or words where there is none.

import { addressOf, ask } from "./asking.js";
import { make } from "./elements.js";
import { token } from "./token.js";

const COARSE = 48; // pixels: smaller ones are drawn as they are, not blurred

const nameOf = (row) => row.source.split(/[/\\]/).pop() || row.source;

export function describe(row) {
  return `${row.class_name === null ? "" : `class ${row.class_name}, `}${row.split} image ${row.id}`;
}

// A picture that can be shown, else a placeholder. `thumbnails`: whether the collection has any.
export function pictureOf(row, { thumbnails, manifest, lazy = true }) {
  if (!thumbnails) return placeholder(row);
  const picture = make("img", { className: "pic", alt: describe(row), draggable: "false" });
  if (lazy) picture.loading = "lazy";
  picture.decoding = "async";
  picture.addEventListener("error", () => picture.replaceWith(placeholder(row)));
  picture.addEventListener("load", () => {
    picture.classList.toggle("coarse", picture.naturalWidth < COARSE);
  });
  if (token()) fetchInto(picture, row.id, manifest); // an image cannot bear a token
  else picture.src = addressOf(`images/${row.id}`, { manifest });
  return picture;
}

// `manifest`: of the collection in which the image has this id; none comes from another.
export async function thumbnailOf(id, manifest, signal) {
  return (await ask(`images/${id}`, { query: { manifest }, signal })).blob();
}

function fetchInto(picture, id, manifest) {
  thumbnailOf(id, manifest)
    .then(dataOf)
    .then((data) => { picture.src = data; })
    .catch(() => picture.dispatchEvent(new Event("error")));
}

// An address that goes with its picture; a blob's would stay if that is never seen.
function dataOf(blob) {
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(reader.error);
    reader.readAsDataURL(blob);
  });
}

function placeholder(row) {
  const words = [make("span", { text: nameOf(row) })];
  if (row.class_name !== null) words.unshift(make("b", { text: row.class_name }));
  const blank = make("span", { className: "blank", role: "img", "aria-label": describe(row) });
  blank.append(make("span", { "aria-hidden": "true" }, ...words));
  return blank;
}

export function tileOf(row, address, options) {
  const link = make("a", { className: "tile", href: address }, pictureOf(row, options));
  const title = row.class_name ?? `image ${row.id}`;
  const under = make("span", { className: "under" });
  if (row.score !== undefined) under.append(make("span", { className: "score", text: row.score.toFixed(3) }));
  under.append(make("span", { className: "source", text: nameOf(row), title: row.source }));
  link.append(make("span", { className: "caption", text: title, title, "aria-hidden": "true" }), under);
  return make("li", { "data-id": row.id }, link);
}
