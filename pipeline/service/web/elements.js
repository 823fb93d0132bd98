// Elements of the page, and new ones. Names from outside go through textContent alone: words, never markup.

export const byId = (id) => document.getElementById(id);

export function make(kind, { text, className, ...attributes } = {}, ...children) {
  const element = document.createElement(kind);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const counted = (count, one, many = `${one}s`) =>
  `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
