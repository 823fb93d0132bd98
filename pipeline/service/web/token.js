// The token that a server may ask for, kept as long as the tab is open.

import { byId } from "./elements.js";

const KEY = "lookalike-token";
let asking = null;

export const token = () => sessionStorage.getItem(KEY);

// Asks the person, once for all requests that wait. Whether there is another one now than `used`.
export function askForToken(used) {
  if (!asking && token() !== used) return Promise.resolve(token() !== null); // asked for meanwhile
  asking ??= askOnce(used).finally(() => { asking = null; });
  return asking;
}

function askOnce(used) {
  const [dialog, field] = [byId("token-dialog"), byId("token")];
  if (used !== null) byId("token-title").textContent = "The server does not take that token";
  sessionStorage.removeItem(KEY);
  field.value = "";
  dialog.showModal();
  return new Promise((answer) => {
    byId("token-cancel").onclick = () => dialog.close();
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, field.value.trim());
      dialog.close();
    };
    dialog.addEventListener("close", () => answer(token() !== null), { once: true });
  });
}
