// The pictures that were brought here, as long as the page is open and there are not too many.

const KEPT = 20;
const uploads = new Map();
let count = 0;

// The file as it is now, in memory: on its disk it may change, or be a folder, which nobody can read.
export const read = async (file) => new Blob([await file.arrayBuffer()], { type: file.type });

// `whole` is the upload that this one is a part of, `frame` the part.
export function keep(blob, name, { whole = null, frame = null, from = null } = {}) {
  count += 1;
  // the history outlives the page: its numbers must not be found again after a reload
  const key = `${Math.round(performance.timeOrigin)}-${count}`;
  uploads.set(key, { key, blob, name, whole, frame, from, url: URL.createObjectURL(blob) });
  if (uploads.size > KEPT) {
    const [oldest] = uploads.keys();
    URL.revokeObjectURL(uploads.get(oldest).url);
    uploads.delete(oldest);
  }
  return uploads.get(key);
}

export const uploadOf = (key) => uploads.get(key) ?? null;
