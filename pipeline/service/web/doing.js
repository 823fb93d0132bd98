// One thing at a time: a newer one supersedes the one under way, whose late answer is dropped.

import { Refusal, fullWords } from "./asking.js";
import { byId } from "./elements.js";
import { pill, say } from "./saying.js";

let task = new AbortController();
let underWay = false;

export const isUnderWay = () => underWay;

function cancel() {
  task.abort();
  pill.hide();
  say("Cancelled.");
}

// For `ask`: it ends with the task, and says when the server is full.
export const patience = (signal) => ({ signal, onFull: (seconds) => pill.busy(fullWords(seconds), cancel) });

// Does what takes a while; gives what came of it, null where it failed or was cancelled, and undefined where
// something newer took its place. `again` does it once more.
export async function doing(words, work, again) {
  task.abort();
  const mine = new AbortController();
  task = mine;
  const left = () => (task === mine ? null : undefined);
  underWay = true;
  pill.busy(words, cancel);
  byId("images").setAttribute("aria-busy", "true");
  try {
    const outcome = await work(mine.signal);
    return mine.signal.aborted ? left() : outcome;
  } catch (error) {
    if (mine.signal.aborted) return left();
    if (!(error instanceof Refusal)) {
      pill.bad(`Something went wrong: ${error.message}.`, again);
      throw error; // a fault of the page: for its console
    }
    pill.bad(error.message, error.isPassing ? again : null);
    return null;
  } finally {
    if (task === mine) {
      underWay = false;
      byId("images").setAttribute("aria-busy", "false");
      pill.rest();
    }
  }
}
