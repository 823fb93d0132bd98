// What the page tells: aloud to who listens, and in a pill to who looks.

import { byId } from "./elements.js";

const PATIENCE_MS = 250; // what is answered sooner is not announced as under way

export function say(text) {
  const said = byId("said");
  // the same words again are news again
  said.textContent = said.textContent === text ? `${text}\u00a0` : text;
}

let timer = 0;

// What was said last.
export const lastWords = () => byId("said").textContent;

function show(kind, words, close, onClose, onAgain) {
  clearTimeout(timer);
  byId("pill").className = `pill ${kind}`;
  byId("pill-words").textContent = words;
  byId("pill-close").textContent = close;
  byId("pill-close").onclick = onClose;
  byId("pill-again").hidden = !onAgain;
  byId("pill-again").onclick = onAgain ?? null;
  byId("pill").hidden = false;
}

// The button that is about to go must not take the focus with it.
function hide() {
  clearTimeout(timer);
  if (byId("pill").contains(document.activeElement)) byId("title").focus({ preventScroll: true });
  byId("pill").hidden = true;
}

addEventListener("keydown", (event) => {
  const isFree = event.key === "Escape" && !byId("pill").hidden && !document.querySelector("dialog[open]");
  if (isFree) byId("pill-close").click();
});

export const pill = {
  hide,
  // What it says of what went wrong; null where nothing did.
  wrong: () => (byId("pill").matches(".bad:not([hidden])") ? byId("pill-words").textContent : null),
  // What was under way no longer is; what went wrong stays.
  rest() {
    if (byId("pill").hidden || byId("pill").classList.contains("busy")) hide();
  },
  busy(words, onCancel) {
    hide();
    timer = setTimeout(() => {
      show("busy", words, "Cancel", onCancel);
      say(words);
    }, PATIENCE_MS);
  },
  note(words) {
    show("", words, "Dismiss", hide);
    say(words);
  },
  bad(words, onAgain) {
    show("bad", words, "Dismiss", hide, onAgain && (() => { hide(); onAgain(); }));
    say(words);
  },
};
