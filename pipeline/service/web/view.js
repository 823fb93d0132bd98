// What is looked at, and its address: /?id=123&class=cat&split=train&min=0.5.
//
// An upload has no address: its key stands in the state of the history, its picture in the page's memory.

export const EVERYTHING = { id: null, upload: null, class: "", split: "", min: null };

export const isSearch = (view) => view.id !== null || view.upload !== null;

export function viewOf(location, state) {
  const query = new URLSearchParams(location.search);
  const id = query.get("id");
  const min = query.get("min");
  return {
    // a string: an id may be larger than a number of JavaScript holds
    id: id !== null && /^\d{1,19}$/.test(id) ? id : null,
    upload: state?.upload ?? null,
    class: query.get("class") ?? "",
    split: query.get("split") ?? "",
    min: min && Number.isFinite(Number(min)) ? Math.min(1, Math.max(-1, Number(min))) : null,
  };
}

export function addressOfView(view) {
  const query = new URLSearchParams();
  if (view.id !== null) query.set("id", view.id);
  if (view.class) query.set("class", view.class);
  if (view.split) query.set("split", view.split);
  if (view.min !== null && isSearch(view)) query.set("min", String(view.min));
  const words = query.toString();
  return words ? `./?${words}` : "./";
}

// Two views with one key have the same rows; the cut-off chooses among them.
export const keyOf = (view) => JSON.stringify([view.id, view.upload, view.class, view.split]);
