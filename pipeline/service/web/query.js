// The image that is asked with: its picture, its words, and what can be done with it.

import { byId, make } from "./elements.js";
import { pictureOf } from "./tiles.js";

const LONGEST = 60, ENDING = 14; // characters
const FLEETING = "An uploaded picture has no address: it is kept only while this page is open.";

// What a search is of, in words; of a name that is long, the middle is left out.
export function nameOfQuery(view, upload) {
  if (!upload) return `image ${view.id}`;
  const { name } = upload;
  return name.length > LONGEST ? `${name.slice(0, LONGEST - ENDING)}…${name.slice(-ENDING)}` : name;
}

export function showQuery(view, upload, row, options) {
  byId("query-picture").replaceChildren(upload ? uploaded(upload) : indexed(view, row, options));
  byId("query-words").textContent = upload ? wordsOfUpload(upload) : wordsOfRow(row);
  byId("query-note").textContent = upload ? FLEETING : row?.source ?? "";
  byId("crop").hidden = !options.encoder || (!upload && !options.thumbnails);
}

function wordsOfUpload({ frame }) {
  return frame ? `A part of ${frame.width} × ${frame.height} pixels` : "";
}

function wordsOfRow(row) {
  if (row === null) return "";
  return row.class_name === null ? row.split : `${row.class_name}, ${row.split}`;
}

function uploaded({ url, name }) {
  const picture = make("img", { alt: `Asked with: ${name}` });
  picture.addEventListener("load", () => {
    const isSmall = picture.naturalWidth < 48 && picture.naturalHeight < 48;
    picture.classList.toggle("coarse", isSmall);
  });
  picture.addEventListener("error", () => {
    const words = "This browser cannot show it; the server can read it.";
    picture.replaceWith(make("span", { className: "blank", text: words }));
    byId("crop").hidden = true;
  });
  picture.src = url;
  return picture;
}

function indexed(view, row, options) {
  const known = row ?? { id: view.id, class_name: null, split: "", source: `image ${view.id}` };
  return pictureOf(known, { ...options, lazy: false });
}
