// The search page: what is asked for, what comes back, and the way there and back again.

import { Refusal, askJson } from "./asking.js";
import { chooseCrop } from "./crop.js";
import { csvOf, download } from "./csv.js";
import { watchCut } from "./cutoff.js";
import { doing, isUnderWay, patience } from "./doing.js";
import { byId, counted } from "./elements.js";
import { showFilters, watchFilters } from "./filters.js";
import { focusImage, readdress, watchGrid } from "./grid.js";
import { watchIntake } from "./intake.js";
import { rowOf, rowsOf } from "./rows.js";
import { lastWords, pill, say } from "./saying.js";
import { watchScroll } from "./scrolling.js";
import { seenWords, showCollection, showCut, showModel, showNoRows, showPlace, showRows } from "./showing.js";
import { thumbnailOf } from "./tiles.js";
import { keep, read, uploadOf } from "./uploads.js";
import { EVERYTHING, addressOfView, isSearch, keyOf, viewOf } from "./view.js";

const REMEMBERED = 30; // answers, for the way back
const GONE = "That picture was kept only while the page was open: choose it again to search with it.";

let collection = null; // what the server says of it
let shown = null; // {view, source, upload, row}: what the page shows
let isBehind = false; // the address is of another view, which is being looked up
let lookAgain = () => {}; // whether the end of the grid is in sight
const answers = new Map();
const seen = new Map(); // rows of images that were opened here, by id

async function describeCollection(signal) {
  collection = await askJson("collection", patience(signal));
  showCollection(collection);
  if (!collection.encoder) return;
  askJson("model").then((model) => showModel(model, collection), () => {}); // the page can do without
}

// What a view shows, from memory or from the server.
async function find(view, signal) {
  const upload = uploadOf(view.upload);
  const source = answers.get(keyOf(view)) ?? rowsOf(view, upload);
  const row = view.id === null ? null : seen.get(view.id) ?? rowOf(view.id, { signal }).catch(() => null);
  const asked = source.rows.length ? null : source.more(patience(signal));
  asked?.catch(() => {}); // it is told below, when there is a collection to tell it beside
  if (!collection) await describeCollection(signal);
  await asked;
  source.most = Math.min(collection.limits.k, collection.count);
  signal.throwIfAborted();
  answers.delete(keyOf(view));
  answers.set(keyOf(view), source); // the newest last
  if (answers.size > REMEMBERED) answers.delete(answers.keys().next().value);
  await keepUp(source, signal);
  return { view, source, upload, row: await row };
}

// With rows of another generation: what is known of the one before is forgotten.
async function keepUp(source, signal) {
  if (source.generation === collection.generation) return;
  await describeCollection(signal);
  for (const [key, other] of answers) if (other !== source) answers.delete(key);
  seen.clear();
}

const isSameQuery = (view, other) => other && view.id === other.id && view.upload === other.upload;

// Goes to a view: the page changes when there is something to show, and not before.
async function go(view, words) {
  cutting.settle(); // before the address is another
  const found = await doing(words, (signal) => find(view, signal), () => go(view, words));
  if (found === null) stay();
  if (!found) return;
  const isOther = !isSameQuery(view, shown?.view);
  history.replaceState({ ...history.state, scroll: scrollY, image: view.id }, "");
  history.pushState({ upload: view.upload }, "", addressOfView(view));
  show(found);
  if (!isOther) return; // a filter keeps the focus, and its place in the window
  byId("title").focus({ preventScroll: true });
  scrollTo(0, 0);
}

// What was asked for does not come: the page goes on to be what its address says, and its menus too.
async function stay() {
  if (shown) showFilters(shown.view);
  if (!isBehind) return;
  const wrong = pill.wrong();
  await come();
  if (wrong !== null) pill.bad(wrong);
}

// Shows what the address says: when the page opens, and on the way back and forth.
async function come({ isOpening = false } = {}) {
  isBehind = true;
  cutting.forget(); // it is of the view before, whose address has gone
  const { upload, ...rest } = viewOf(location, history.state);
  const isGone = upload !== null && !uploadOf(upload);
  const view = { ...rest, upload: isGone ? null : upload };
  const found = await doing("Looking it up …", (signal) => find(view, signal), come);
  if (found === undefined) return;
  isBehind = false;
  if (!found) {
    if (!collection) return;
    shown = { view, source: { rows: [], isAll: true }, upload: uploadOf(view.upload), row: null };
    showNoRows(shown, collection, lastWords());
    return;
  }
  show(found);
  scrollTo(0, history.state?.scroll ?? 0);
  if (!isOpening) focusImage(history.state?.image ?? "");
  if (isGone) pill.bad(GONE);
}

function show(found) {
  shown = found;
  isBehind = false;
  showPlace(shown, collection);
  showRows(shown, collection);
  say(`${byId("title").textContent}. ${seenWords()}`);
  lookAgain();
}

async function grow({ isAsked = false } = {}) {
  if (isUnderWay() || !shown || shown.source.isAll) return;
  const { source } = shown;
  const { generation } = collection;
  const before = source.rows.length;
  const work = async (signal) => {
    await source.more(patience(signal));
    await keepUp(source, signal);
    return source;
  };
  if (await doing("Fetching more …", work, grow) !== shown.source) return;
  if (collection.generation !== generation) showPlace(shown, collection);
  showRows(shown, collection);
  if (isAsked) byId("images").children[before]?.querySelector("a").focus();
  say(seenWords());
  lookAgain();
}

async function take(file) {
  if (collection && !collection.encoder) {
    pill.bad(byId("no-encoder").textContent);
    return;
  }
  const isCropped = byId("crop-first").checked && !byId("intake").hidden;
  if (!isCropped && isTooLarge(file, file.name)) return;
  const blob = await doing(`Reading ${file.name} …`, () => read(file).catch(() => {
    throw new Refusal(`${file.name} cannot be read: it is a folder, or has changed since it was chosen.`);
  }));
  if (blob === null) stay();
  if (!blob) return;
  const upload = keep(blob, file.name);
  if (isCropped) {
    const isSeen = await cropAndSearch(upload).then(() => true, () => false);
    if (isSeen) return;
    say(`This browser cannot show ${file.name}: the whole of it is searched with.`);
  }
  searchWith(upload);
}

function isTooLarge(blob, name) {
  const most = collection?.limits.body_bytes ?? Infinity;
  if (blob.size <= most) return false;
  const size = counted(blob.size, "byte");
  pill.bad(`${name} has ${size}, the server takes at most ${most.toLocaleString("en")}.`);
  return true;
}

function searchWith(upload) {
  if (isTooLarge(upload.blob, upload.name)) return void stay();
  const { class: class_, split } = shown?.view ?? EVERYTHING;
  go({ ...EVERYTHING, class: class_, split, upload: upload.key }, `Searching with ${upload.name} …`);
}

// Lets a part be chosen and searches with it; raises where the browser cannot show the picture.
async function cropAndSearch({ whole, blob, name, frame = null }) {
  const picture = whole ?? blob;
  const part = await chooseCrop(picture, { start: frame, mostBytes: collection?.limits.body_bytes });
  if (part) searchWith(keep(part.blob, name, { whole: part.frame ? picture : null, frame: part.frame }));
  else stay();
}

async function cropShown() {
  const { upload, view } = shown;
  try {
    const fetched = (signal) => thumbnailOf(view.id, collection.manifest, signal);
    const blob = upload ? upload.blob : await doing("Fetching the picture …", fetched, cropShown);
    if (!blob) return;
    await cropAndSearch(upload ?? { blob, name: `image ${view.id}` });
  } catch (error) {
    pill.bad(error instanceof Refusal ? error.message : "This browser cannot show that picture.");
  }
}

async function copyAddress() {
  const field = byId("address");
  field.value = location.href;
  try {
    await navigator.clipboard.writeText(field.value);
    say("The address is copied.");
    byId("copy").textContent = "Copied";
    setTimeout(() => { byId("copy").textContent = "Copy address"; }, 1500);
  } catch {
    // no permission, or no https: the address is shown and chosen, so that Ctrl+C copies it
    field.hidden = false;
    field.select();
    say("The address is shown and selected: copy it.");
  }
}

function downloadRows() {
  const { view, source, upload } = shown;
  const rows = view.min === null ? source.rows : source.rows.filter((row) => row.score >= view.min);
  download(`lookalike-${upload ? "upload" : view.id}.csv`, csvOf(upload ? upload.name : view.id, rows));
  say(`${counted(rows.length, "row")} as CSV.`);
}

function moveCut(min) {
  if (!shown || !isSearch(shown.view)) return;
  shown.view = { ...shown.view, min };
  showCut(shown, collection);
}

function restCut() {
  history.replaceState(history.state, "", addressOfView(shown.view));
  readdress();
  say(seenWords());
  lookAgain();
}

function browse(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(EVERYTHING, "Looking it up …");
}

// Not as a link does it: an entry of the history without a state would be another view.
function skip(event) {
  event.preventDefault();
  byId("images").scrollIntoView();
  byId("images").focus();
}

history.scrollRestoration = "manual"; // the rows are there before the browser would scroll
lookAgain = watchGrid({
  onOpen(row) {
    seen.set(String(row.id), row);
    go({ ...shown.view, id: String(row.id), upload: null }, "Searching …");
  },
  onEnd: grow,
});
watchIntake(take, pill.note);
watchFilters((change) => shown && go({ ...shown.view, ...change }, "Searching …"), pill.bad);
const cutting = watchCut(moveCut, restCut);
byId("crop").addEventListener("click", cropShown);
byId("copy").addEventListener("click", copyAddress);
byId("download").addEventListener("click", downloadRows);
for (const link of [byId("browse"), document.querySelector(".home")]) link.addEventListener("click", browse);
document.querySelector(".skip").addEventListener("click", skip);
addEventListener("popstate", come);
watchScroll(() => shown && !isBehind && !isUnderWay());
come({ isOpening: true });
