// The reference of the API, read off /openapi.json.

import { byId, make } from "./elements.js";
import { kindOf, resolved, shapeOf } from "./shape.js";

const FIRST_REFUSAL = 400;

const anchorOf = (method, path) => `${method}-${path.replace(/[^a-z0-9]+/gi, "-").replace(/^-|-$/g, "")}`;

// Code in backticks is code; all else is words.
function sentence(text) {
  const parts = (text ?? "").split("`");
  return make("p", {}, ...parts.map((part, i) => (i % 2 ? make("code", { text: part }) : part)));
}

function parametersOf(operation) {
  const rows = (operation.parameters ?? []).map(({ name, in: place, required, description, schema }) => {
    const kind = kindOf(schema).replace(/ or null$/, "");
    const left = schema.default === undefined ? "optional" : `default ${JSON.stringify(schema.default)}`;
    return make("tr", {},
      make("th", { scope: "row" }, make("code", { text: name })),
      make("td", { text: place }),
      make("td", { text: `${kind}; ${required ? "required" : left}` }),
      make("td", { text: description ?? schema.description ?? "" }));
  });
  if (!rows.length) return [];
  const heads = ["Parameter", "In", "Value", "Means"].map((text) => make("th", { scope: "col", text }));
  const table = make("table", {},
    make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
  const label = `Parameters of ${operation.operationId}`;
  const around = { className: "scroll", tabindex: "0", role: "region", "aria-label": label };
  return [make("h3", { text: "Parameters" }), make("div", around, table)];
}

// Text that may be wider than the window: the keyboard reaches it to scroll it.
const block = (text, label) => make("pre", { text, tabindex: "0", role: "region", "aria-label": label });

function contentOf(content, label) {
  return Object.entries(content ?? {}).flatMap(([type, { schema }]) => [
    make("p", { className: "note" }, make("code", { text: type })),
    block(shapeOf(schema ?? {}), `${label}, ${type}`),
  ]);
}

function bodyOf(operation) {
  const body = operation.requestBody;
  if (!body) return [];
  const title = make("h3", { text: body.required ? "Body" : "Body, if any" });
  return [title, ...contentOf(body.content, `Body of ${operation.operationId}`)];
}

function answersOf(operation) {
  const all = Object.entries(operation.responses).sort(([a], [b]) => a.localeCompare(b));
  const good = all.filter(([status]) => Number(status) < FIRST_REFUSAL);
  const refusals = all.filter(([status]) => Number(status) >= FIRST_REFUSAL);
  const shown = good.flatMap(([status, { description, content }]) => [
    make("p", {}, make("b", { text: status }), ` ${description}`),
    ...contentOf(content, `Answer ${status} of ${operation.operationId}`),
  ]);
  const told = refusals.flatMap(([status, { description }]) => [
    make("dt", {}, make("code", { text: status })), make("dd", { text: description }),
  ]);
  const details = make("details", {}, make("summary", { text: "Refusals" }), make("dl", {}, ...told));
  return [make("h3", { text: "Answer" }), ...shown, ...(told.length ? [details] : [])];
}

// A command that asks it, with what has to be said and no more.
function exampleOf(method, path, operation) {
  const filled = path.replaceAll(/\{[^}]*\}/g, "0");
  const url = new URL(filled.slice(1), document.baseURI);
  const types = Object.keys(operation.requestBody?.content ?? {});
  const parts = ["curl"];
  if (types.includes("multipart/form-data")) parts.push("-F image=@photo.jpg");
  else if (method !== "get") parts.push(`-X ${method.toUpperCase()}`);
  parts.push(`'${url}'`);
  if (operation.responses["200"]?.content?.["image/jpeg"]) parts.push("-o image.jpg");
  return block(parts.join(" "), `Example of ${path}`);
}

function operationOf(method, path, operation) {
  const id = anchorOf(method, path);
  const verb = make("span", { className: `method ${method}`, text: method.toUpperCase() });
  const title = make("h2", { id: `${id}-title` }, verb, " ", make("code", { text: path }));
  return make("section", { className: "operation", id, "aria-labelledby": `${id}-title` },
    title, sentence(operation.description ?? operation.summary), exampleOf(method, path, operation),
    ...parametersOf(operation), ...bodyOf(operation), ...answersOf(operation));
}

function contentsOf(operations) {
  const groups = new Map();
  for (const one of operations) {
    const tag = one[2].tags?.[0] ?? "others";
    groups.set(tag, [...(groups.get(tag) ?? []), one]);
  }
  return [...groups].flatMap(([tag, members]) => [
    make("p", { text: `${tag[0].toUpperCase()}${tag.slice(1)}` }),
    make("ul", {}, ...members.map(([method, path]) => make("li", {},
      make("a", { href: `docs#${anchorOf(method, path)}`, text: `${method.toUpperCase()} ${path}` })))),
  ]);
}

async function main() {
  const response = await fetch(new URL("openapi.json", document.baseURI));
  if (!response.ok) throw new Error(`status ${response.status}`);
  const document_ = await response.json();
  const api = resolved(document_, document_);
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => [method, path, operation]));
  byId("version").textContent = `${api.info.title} ${api.info.version}`;
  byId("contents").replaceChildren(...contentsOf(operations));
  byId("operations").replaceChildren(...operations.map((one) => operationOf(...one)));
  // the address may name one that was not there before
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

main().catch((error) => {
  byId("failed").textContent = `The description of the API cannot be read: ${error.message}.`;
  byId("failed").hidden = false;
});
