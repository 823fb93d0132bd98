// Requests to the API: its refusals in plain words, the token it may ask for, and patience when it is full.

import { counted } from "./elements.js";
import { askForToken, token } from "./token.js";

const TRIES = 4; // when the server is full

// What an image that is sent is called: its own name stays here, and in this page's words.
export const UNNAMED = "image";

// What the server, or the way to it, would not do; the message is for a person.
export class Refusal extends Error {
  constructor(words, { status = 0, title = "" } = {}) {
    super(words);
    this.status = status;
    this.title = title;
    this.isPassing = status === 0 || status === 401 || status >= 500; // it may be otherwise the next time
  }
}

export function addressOf(path, query = {}) {
  const url = new URL(`v1/${path}`, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

// The answer to a request; `onFull` is told in how many seconds it is asked again. `name`: of the image sent.
export async function ask(path, { method = "GET", query, body, name, signal, onFull } = {}) {
  for (let tries = 1; ; tries += 1) {
    const used = token();
    const headers = used ? { Authorization: `Bearer ${used}` } : {};
    let response;
    try {
      response = await fetch(addressOf(path, query), { method, body, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 401 && (await askForToken(used))) {
      signal?.throwIfAborted();
      continue;
    }
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !seconds || tries === TRIES) throw await refusalOf(response, name);
    onFull?.(seconds);
    await pause(seconds * 1000, signal);
  }
}

export const askJson = async (path, options) => (await ask(path, options)).json();

async function refusalOf(response, name) {
  const { status } = response;
  if (status === 401) return new Refusal("This server asks for a token.", { status });
  const isProblem = (response.headers.get("Content-Type") ?? "").includes("problem+json");
  const problem = isProblem ? await response.json().catch(() => ({})) : {};
  const { title = "", detail = "" } = problem;
  return new Refusal(wordsOf(status, title, detail, name), { status, title });
}

function wordsOf(status, title, detail, name) {
  if (status === 503) return `The server has too much to do: ${detail || "ask again in a moment"}.`;
  if (title === "unreadable image") {
    return `${name} is not an image that can be read: ${detail.replace(`${UNNAMED}: `, "")}.`;
  }
  if (!detail) return `The server refused with status ${status}${title ? `, ${title}` : ""}.`;
  // a value's own name, as class_name, stays as it is written
  const begun = /^\w+_\w/.test(detail) ? detail : `${detail[0].toUpperCase()}${detail.slice(1)}`;
  return `${begun}${/[.!?]$/.test(begun) ? "" : "."}`;
}

export const fullWords = (seconds) =>
  `The server has too much to do just now. It is asked again in ${counted(seconds, "second")}.`;

function pause(milliseconds, signal) {
  return new Promise((done, fail) => {
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); fail(signal.reason); }, { once: true });
  });
}
