// Where the page is scrolled to stands in the history: a way forth, or a reload, leads there too.

const RESTED_MS = 150;

// `isPlace`: whether what is seen is of the address, and not of one that is looked up yet.
export function watchScroll(isPlace) {
  let timer = 0;
  addEventListener("popstate", () => clearTimeout(timer)); // it was the other entry's
  addEventListener("scroll", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (isPlace()) history.replaceState({ ...history.state, scroll: scrollY }, "");
    }, RESTED_MS);
  }, { passive: true });
}
