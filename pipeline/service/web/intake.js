// How an image comes in: dropped, pasted, chosen or photographed.

import { byId } from "./elements.js";

const NAMELESS = "pasted image"; // a clipboard calls everything image.png

// `onTaken` is given a File; `onWords` what to say where there was none.
export function watchIntake(onTaken, onWords) {
  // while a dialog asks something, that comes first
  const onFile = (file) => { if (!document.querySelector("dialog[open]")) onTaken(file); };
  for (const [button, input] of [
    ["choose", "file"], ["another", "file"], ["photograph", "camera"], ["photograph-another", "camera"],
  ]) {
    byId(button).addEventListener("click", () => byId(input).click());
  }
  for (const input of [byId("file"), byId("camera")]) {
    input.addEventListener("change", () => {
      const [file] = input.files;
      if (file) onFile(file);
      input.value = ""; // the same file again is a choice again
    });
  }
  watchDrops(onFile, onWords);
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file) return;
    event.preventDefault();
    onFile(file.name === "image.png" ? new File([file], NAMELESS, { type: file.type }) : file);
  });
}

function watchDrops(onFile, onWords) {
  let depth = 0; // entering a child comes before leaving its parent
  const isOfFiles = (event) => event.dataTransfer?.types.includes("Files");
  const over = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    byId("over").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => isOfFiles(event) && over(1));
  addEventListener("dragleave", (event) => isOfFiles(event) && over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would go to what was dropped
    over(0);
    const [file, ...others] = event.dataTransfer.files;
    if (!file) return onWords("That is no file: save the image first, or copy it and paste it here.");
    if (others.length) onWords(`One image at a time: the first, ${file.name}, is taken.`);
    onFile(file);
  });
}
