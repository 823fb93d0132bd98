// Where the images of the grid come from: the neighbours of one, or the collection in the order of its ids.

import { UNNAMED, askJson } from "./asking.js";
import { isSearch } from "./view.js";

const PAGE = 60;

// Rows so far, and whether they are all. `more` asks for the next ones, up to `most`.
class Neighbors {
  constructor(view, upload) {
    Object.assign(this, { view, upload, most: Infinity, rows: [], isAll: false, generation: null });
  }

  async more(options) {
    const k = Math.max(1, Math.min(this.most, this.rows.length * 2 || PAGE));
    const { id, class: class_, split } = this.view;
    let body;
    if (this.upload) {
      body = new FormData();
      body.append("image", this.upload.blob, UNNAMED);
    }
    const query = { id: this.upload ? null : id, k, class: class_, split };
    const asked = { ...options, method: "POST", query, body, name: this.upload?.name };
    const { generation, answers } = await askJson("search", asked);
    this.rows = answers[0].neighbors;
    this.generation = generation;
    this.isAll = this.rows.length < k || k >= this.most;
    return this;
  }
}

class Listing {
  constructor(view) {
    Object.assign(this, { view, rows: [], total: 0, isAll: false, generation: null });
  }

  async more(options) {
    const { class: class_, split } = this.view;
    const listed = async (offset) =>
      askJson("images", { ...options, query: { offset, limit: PAGE, class: class_, split } });
    let { generation, total, images } = await listed(this.rows.length);
    if (this.generation !== null && generation !== this.generation) {
      this.rows = []; // of another generation: from the beginning
      ({ generation, total, images } = await listed(0));
    }
    this.rows = [...this.rows, ...images];
    Object.assign(this, { generation, total, isAll: images.length < PAGE || this.rows.length >= total });
    return this;
  }
}

export const rowsOf = (view, upload) => (isSearch(view) ? new Neighbors(view, upload) : new Listing(view));

// What is known of one image of the collection.
export async function rowOf(id, options) {
  const { images } = await askJson("images", { ...options, query: { id } });
  return images[0];
}
