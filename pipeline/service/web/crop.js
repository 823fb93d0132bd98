// The part of a picture that matters, chosen on a canvas by pointer or keyboard, cut out at full resolution.

import { byId } from "./elements.js";
import { drawn, gripAt, held, isWhole, stepped, wholeOf } from "./frame.js";

const REACH = 14; // pixels of the screen that an edge is gripped from
const TALLEST = 0.52; // of the window
const NEARLY_ALL = 0.94;
const SLIP = 4; // pixels of the screen: a shorter drag beside the frame was a click
const JPEG_QUALITY = 0.95;
const SIDES = ["x", "y", "width", "height"];

const dialog = byId("crop-dialog"), canvas = byId("crop-canvas"), form = byId("crop-form");
const fields = Object.fromEntries(SIDES.map((side) => [side, byId(`crop-${side}`)]));
let picture = null, frame = null, scale = 1, grip = null, from = null, before = null;
let isFresh = true; // the frame is ours yet: to drag on the picture draws another

// The part as a Blob, and its frame; the whole, and null; or null where the person thought better of it.
//
// `mostBytes` the server takes: a part that is larger as PNG goes as JPEG.
export async function chooseCrop(blob, { start = null, mostBytes = Infinity } = {}) {
  picture = await createImageBitmap(blob); // upright, as EXIF has it
  try {
    frame = start ?? inner();
    isFresh = start === null;
    dialog.showModal();
    fit();
    canvas.focus();
    const isChosen = await new Promise((done) => {
      form.onsubmit = (event) => { event.preventDefault(); done(true); };
      byId("crop-cancel").onclick = () => done(false);
      dialog.onclose = () => done(false); // Escape
    });
    if (!isChosen) return null;
    if (isWhole(frame, picture)) return { blob, frame: null };
    return { blob: await cutOut(mostBytes), frame };
  } finally {
    dialog.close();
    picture.close();
    picture = null;
  }
}

// So that it can be seen that there is a frame, and gripped.
function inner() {
  const [width, height] = [picture.width * NEARLY_ALL, picture.height * NEARLY_ALL];
  return held({ x: (picture.width - width) / 2, y: (picture.height - height) / 2, width, height }, picture);
}

async function cutOut(mostBytes) {
  const part = document.createElement("canvas");
  [part.width, part.height] = [frame.width, frame.height];
  part.getContext("2d").drawImage(picture, -frame.x, -frame.y);
  const as = (type, quality) => new Promise((done) => { part.toBlob(done, type, quality); });
  const png = await as("image/png");
  return png && png.size <= mostBytes ? png : as("image/jpeg", JPEG_QUALITY);
}

function fit() {
  const style = getComputedStyle(dialog);
  const width = dialog.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  scale = Math.min(width / picture.width, (innerHeight * TALLEST) / picture.height);
  const ratio = devicePixelRatio || 1;
  canvas.style.width = `${Math.round(picture.width * scale)}px`;
  canvas.style.height = `${Math.round(picture.height * scale)}px`;
  canvas.width = Math.round(picture.width * scale * ratio);
  canvas.height = Math.round(picture.height * scale * ratio);
  paint();
}

function change(to) {
  isFresh &&= to === frame;
  frame = to;
  paint();
}

function paint() {
  const pen = canvas.getContext("2d");
  const unit = canvas.width / picture.width;
  const [x, y, width, height] = SIDES.map((side) => frame[side] * unit);
  pen.imageSmoothingEnabled = unit < 4; // of a thumbnail the pixels are seen
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.fillStyle = "rgb(10 12 16 / .6)";
  const shade = new Path2D();
  shade.rect(0, 0, canvas.width, canvas.height);
  shade.rect(x, y, width, height);
  pen.fill(shade, "evenodd");
  const ratio = devicePixelRatio || 1;
  for (const [style, thickness] of [["rgb(0 0 0 / .6)", 4], ["#fff", 2]]) {
    pen.strokeStyle = style;
    pen.lineWidth = thickness * ratio;
    pen.strokeRect(x, y, width, height);
  }
  pen.fillStyle = "#fff";
  const knob = 9 * ratio;
  for (const across of [0, 0.5, 1]) {
    for (const down of [0, 0.5, 1]) {
      if (across === 0.5 && down === 0.5) continue;
      pen.fillRect(x + across * width - knob / 2, y + down * height - knob / 2, knob, knob);
    }
  }
  tell();
}

function tell() {
  const { x, y, width, height } = frame;
  for (const side of SIDES) {
    fields[side].max = String(side === "x" || side === "width" ? picture.width : picture.height);
    if (document.activeElement !== fields[side]) fields[side].value = String(frame[side]);
  }
  byId("crop-size").textContent = `${width} × ${height} of ${picture.width} × ${picture.height} pixels`;
  const words = `Frame of ${width} × ${height} pixels, ${x} from the left, ${y} from the top`;
  canvas.setAttribute("aria-label", words);
}

const pointOf = (event) => ({ x: event.offsetX / scale, y: event.offsetY / scale });

const CURSORS = {
  "-1,-1": "nwse", "1,1": "nwse", "-1,1": "nesw", "1,-1": "nesw",
  "-1,0": "ew", "1,0": "ew", "0,-1": "ns", "0,1": "ns",
};

function cursorOf(over) {
  if (over === null) return "crosshair";
  return over === "move" ? "move" : `${CURSORS[String(over)]}-resize`;
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  from = pointOf(event);
  before = frame;
  grip = isFresh ? null : gripAt(frame, from.x, from.y, REACH / scale);
});
canvas.addEventListener("pointermove", (event) => {
  const to = pointOf(event);
  if (!from) {
    canvas.style.cursor = cursorOf(isFresh ? null : gripAt(frame, to.x, to.y, REACH / scale));
    return;
  }
  const isSlip = grip === null && Math.hypot(to.x - from.x, to.y - from.y) * scale < SLIP;
  change(isSlip ? before : drawn(before, grip, from, to, picture));
});
for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, () => { from = null; });
}
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter") {
    event.preventDefault();
    form.requestSubmit();
  }
  const to = stepped(frame, event.key, event.shiftKey, picture);
  if (!to) return;
  event.preventDefault();
  change(to);
});
for (const side of SIDES) {
  fields[side].addEventListener("input", () => {
    if (fields[side].value !== "") change(held({ ...frame, [side]: Number(fields[side].value) }, picture));
  });
  fields[side].addEventListener("blur", () => picture && tell());
}
byId("crop-all").addEventListener("click", () => change(wholeOf(picture)));
addEventListener("resize", () => picture && fit());
