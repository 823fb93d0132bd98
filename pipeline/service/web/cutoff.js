// The cut-off: a slider between the scores that are loaded.

import { byId } from "./elements.js";

const COARSE = 0.01, FINE = 0.001;
const NARROW = 0.1; // between the highest and the lowest score, from here on in coarse steps
const SAID_AFTER_MS = 500;

const slider = byId("cut"), at = byId("cut-at");

// Spans the scores and, wherever it is, the cut-off itself. At its lower end nothing is cut off.
export function cutTo(rows, min) {
  const highest = Math.max(rows[0]?.score ?? 1, min ?? -1);
  const lowest = Math.min(rows.at(-1)?.score ?? 0, min ?? 1);
  const step = highest - lowest < NARROW ? FINE : COARSE;
  const low = Math.floor(lowest / step) * step;
  slider.step = String(step);
  slider.min = low.toFixed(3);
  slider.max = Math.max(low + step, Math.ceil(highest / step) * step).toFixed(3);
  slider.value = String(min ?? low);
  tell(min);
}

function tell(min) {
  const words = min === null ? "all" : min.toFixed(3);
  at.textContent = words;
  slider.setAttribute("aria-valuetext", words);
}

// `onMove` while it moves, `onRest` when it rests; gives what lets it rest at once, and what forgets it.
export function watchCut(onMove, onRest) {
  let timer = null;
  const stop = () => { clearTimeout(timer); timer = null; };
  const rest = () => { stop(); onRest(); };
  slider.addEventListener("input", () => {
    const min = Number(slider.value) === Number(slider.min) ? null : Number(slider.value);
    tell(min);
    onMove(min);
    stop();
    timer = setTimeout(rest, SAID_AFTER_MS);
  });
  return { settle: () => timer !== null && rest(), forget: stop };
}
