// Links to a view: #x,y,zoom and, where they are not as usual, the layers: #512,300,2&classes=0.7&compare=0.5
//
// x, y: the pixel of the picture in the middle; zoom: screen pixels for each of its pixels.
"use strict";

(() => {
  const page = window.hypermosaic;
  if (!page) return;
  const { viewer, layers } = page;
  const QUIET = 300; // milliseconds without movement before the address is written; browsers limit how often
  let later = 0;
  let began = false;

  // --- reading ---------------------------------------------------------------------------------------------------

  // "#x,y,zoom&classes=0.7" -> {place, shown, opacity, compare}; what is no number is as if it were not there.
  function parse(hash) {
    const [first, ...rest] = decodeURIComponent(hash.replace(/^#/, "")).split("&");
    const [x, y, zoom] = first.split(",").map(Number);
    const place = first.split(",").length === 3 && [x, y, zoom].every(Number.isFinite) && zoom > 0;
    const values = Object.fromEntries(rest.map((part) => part.split("=")));
    const share = (text) => (text !== undefined && Number(text) >= 0 && Number(text) <= 1 ? Number(text) : null);
    return { place: place ? { x, y, zoom } : null, opacity: share(values.classes), compare: share(values.compare) };
  }

  function follow(immediately) {
    let asked;
    try {
      asked = parse(location.hash);
    } catch {
      return; // a stray per cent sign
    }
    if (asked.place) page.go({ ...asked.place, x: page.inPicture(asked.place.x) }, immediately);
    else if (!immediately) viewer.viewport.goHome();
    if (!layers.hasClasses) return;
    if (asked.opacity !== null) {
      layers.set({ shown: true, opacity: Math.max(asked.opacity, 0.05), compare: asked.compare });
    } else if (layers.state.shown && !immediately) {
      layers.set({ shown: false });
    }
  }

  // --- writing ---------------------------------------------------------------------------------------------------

  const plain = (value, digits) => String(Number(value.toFixed(digits)));

  function hash() {
    const { x, y, zoom } = page.where(false);
    const digits = zoom > 1 ? 1 : 0;
    const place = [plain(page.inPicture(x), digits), plain(y, digits), Number(zoom.toPrecision(4))].join(",");
    const { shown, opacity, compare } = layers.state;
    const parts = [place];
    if (shown) parts.push(`classes=${plain(opacity, 2)}`);
    if (compare !== null) parts.push(`compare=${plain(compare, 2)}`);
    return parts.length === 1 && page.showsAll() ? "" : `#${parts.join("&")}`;
  }

  function write() {
    const next = hash();
    if (next === location.hash) return;
    try {
      history.replaceState(null, "", next || location.pathname + location.search);
    } catch {} // a page inside another page's frame may be forbidden to; the link can still be copied
  }

  function writeSoon() {
    if (!began) return;
    clearTimeout(later);
    later = setTimeout(write, QUIET);
  }

  viewer.addOnceHandler("open", () => {
    follow(true);
    began = true;
  });
  for (const change of ["animation-finish", "update-viewport"]) viewer.addHandler(change, writeSoon);
  document.addEventListener("hypermosaic-layers", writeSoon);
  // Typed, followed, or come back to; what `write` replaces is none of these.
  addEventListener("hashchange", () => follow(false));

  page.keys.l = () => page.copy(location.href.replace(/#.*/, "") + hash(), "Link");
  page.byId("link").addEventListener("click", page.keys.l);
  page.hash = hash;
})();
