// Which images are shown: of a class, of a split. Many classes are searched by name, not listed.

import { byId, make } from "./elements.js";

const LISTED = 40; // classes in a menu; of more, the names that match what is typed
const OFFERED = 50;

const menu = byId("class"), field = byId("class-search"), offered = byId("classes");
const splits = byId("split");
let names = [];
let isTyped = false;

const option = (value, count) => {
  const text = count === undefined ? value : `${value} (${count.toLocaleString("en")})`;
  return make("option", { text, value });
};

export function fillFilters(collection) {
  const classes = Object.entries(collection.classes);
  names = classes.map(([name]) => name);
  isTyped = names.length > LISTED;
  menu.hidden = isTyped;
  field.hidden = !isTyped;
  byId("class-control").hidden = names.length === 0;
  byId("class-control").firstElementChild.htmlFor = isTyped ? "class-search" : "class";
  menu.replaceChildren(make("option", { text: "all", value: "" }));
  if (!isTyped) menu.append(...classes.map(([name, count]) => option(name, count)));
  const parts = Object.entries(collection.splits);
  byId("split-control").hidden = parts.length < 2;
  splits.replaceChildren(make("option", { text: "all", value: "" }));
  splits.append(...parts.map(([name, count]) => option(name, count)));
  offer("");
}

function offer(typed) {
  const wanted = typed.toLowerCase();
  const found = [];
  for (const name of names) {
    if (name.toLowerCase().includes(wanted)) found.push(option(name));
    if (found.length === OFFERED) break;
  }
  offered.replaceChildren(...found);
}

// What an address names may be none of the collection: it is shown all the same, and the server says so.
function choose(select, value) {
  if (![...select.options].some((one) => one.value === value)) select.append(option(value));
  select.value = value;
}

export function showFilters(view) {
  if (isTyped) field.value = view.class;
  else choose(menu, view.class);
  choose(splits, view.split);
}

export function watchFilters(onChange, onWords) {
  // both at once: the one that was chosen before may be under way yet
  const change = (event) => {
    const name = isTyped ? field.value : menu.value;
    const isNone = isTyped && name && !names.includes(name);
    if (isNone && event.target === field) onWords(`There is no class ${name}.`);
    else onChange({ ...(isNone ? {} : { class: name }), split: splits.value });
  };
  for (const one of [menu, field, splits]) one.addEventListener("change", change);
  field.addEventListener("input", () => offer(field.value));
}
