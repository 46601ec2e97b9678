// The class map over the picture: a layer of its own with hard edges, a legend, an opacity, and a divider to compare.
//
// The map is one small indexed image that covers the picture exactly. It comes inside a script, as a data: URL, because
// a page opened from disk may show any image but read only such a one; it is loaded when first asked for.
"use strict";

(() => {
  const page = window.hypermosaic;
  if (!page) return;
  const { viewer, picture, byId } = page;
  const known = picture.classes;
  const panel = page.panels.get("layers");
  const state = { shown: false, opacity: 0.7, compare: null }; // compare: the divider's place, a share of the width
  let map = null; // {width, height, ids, shares, painted}
  let highlighted = null; // the id of a class, the others fade

  const NO_CLASS = 255;
  const STRIP = 256; // rows read at once

  // --- reading the map -------------------------------------------------------------------------------------------

  const script = (address) => new Promise((done, fail) => {
    const element = document.createElement("script");
    element.src = address;
    element.onload = done;
    element.onerror = () => fail(new Error("The class map is written when the picture is finished."));
    document.body.append(element);
  });

  async function readMap() {
    if (!window.hypermosaicClasses) await script(known.script);
    const image = new Image();
    image.src = window.hypermosaicClasses.png;
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    const ids = new Uint8Array(width * height);
    const counts = new Array(256).fill(0);
    for (let top = 0; top < height; top += STRIP) {
      const rows = Math.min(STRIP, height - top);
      const read = classesOf(image, top, rows);
      ids.set(read, top * width);
      for (const id of read) counts[id] += 1;
    }
    const shares = counts.map((count) => count / ids.length);
    return { width, height, ids, shares, painted: paint(width, height, ids) };
  }

  // The class ids of some rows: the palette is the legend's, so a colour names its class.
  function classesOf(image, top, rows) {
    const context = plainCanvas(image.naturalWidth, rows).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, -top);
    const { data } = context.getImageData(0, 0, image.naturalWidth, rows);
    const idOf = new Map(known.colours.map((colour, id) => [parseInt(colour.slice(1), 16), id]).reverse());
    const ids = new Uint8Array(data.length / 4);
    for (let at = 0; at < ids.length; at += 1) {
      const [red, green, blue, alpha] = [data[4 * at], data[4 * at + 1], data[4 * at + 2], data[4 * at + 3]];
      ids[at] = alpha ? idOf.get((red << 16) | (green << 8) | blue) ?? NO_CLASS : NO_CLASS;
    }
    return ids;
  }

  function plainCanvas(width, height) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    return canvas;
  }

  // The map in its colours; with a class highlighted, the others nearly gone.
  function paint(width, height, ids) {
    const colours = new Uint32Array(256); // little-endian ABGR, as canvases hold it
    known.colours.forEach((colour, id) => {
      const value = parseInt(colour.slice(1), 16);
      const alpha = highlighted === null || highlighted === id ? 255 : 40;
      colours[id] = ((alpha << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
    });
    const canvas = plainCanvas(width, height);
    const context = canvas.getContext("2d");
    for (let top = 0; top < height; top += STRIP) {
      const strip = context.createImageData(width, Math.min(STRIP, height - top));
      const pixels = new Uint32Array(strip.data.buffer);
      for (let at = 0; at < pixels.length; at += 1) pixels[at] = colours[ids[top * width + at]];
      context.putImageData(strip, 0, top);
    }
    return canvas;
  }

  let reading = null;
  async function ensureMap() {
    reading ??= readMap();
    try {
      map = await reading;
      showLegend();
      byId("layers-note").hidden = true;
    } catch (error) {
      reading = null;
      byId("layers-note").textContent = error.message;
      byId("layers-note").hidden = false;
      page.say(error.message);
    }
    return map;
  }

  // The class at a pixel of the picture: {name, colour}, or null.
  async function classAt(x, y) {
    if (!known || !await ensureMap()) return null;
    const column = Math.floor(x * map.width / picture.width);
    const row = Math.floor(y * map.height / picture.height);
    const id = map.ids[row * map.width + column];
    return id === undefined || id >= known.names.length ? null : { name: known.names[id], colour: known.colours[id] };
  }

  // --- drawing it ------------------------------------------------------------------------------------------------

  const layer = document.createElement("canvas");
  layer.id = "class-layer";

  function draw() {
    const visible = state.shown && map;
    layer.hidden = !visible;
    if (!visible) return;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [viewer.container.clientWidth, viewer.container.clientHeight];
    const [columns, rows] = [Math.round(width * density), Math.round(height * density)];
    if (layer.width !== columns || layer.height !== rows) [layer.width, layer.height] = [columns, rows];
    const context = layer.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, columns, rows);
    context.setTransform(density, 0, 0, density, 0, 0);
    context.globalAlpha = state.opacity;
    context.imageSmoothingEnabled = page.zoomNow() * picture.width < map.width; // hard edges when enlarged
    for (const turn of turnsInView(width)) drawTurn(context, turn * picture.width, width, height);
  }

  function turnsInView(width) {
    if (!picture.wrapsX) return [0];
    const [first, last] = [0, width].map((x) => Math.floor(page.toPicture(x, 0).x / picture.width));
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  }

  // Only what is on the screen, in whole pixels of the map, so that huge magnifications stay exact.
  function drawTurn(context, offset, width, height) {
    const [acrossScale, downScale] = [map.width / picture.width, map.height / picture.height];
    const [start, end] = [page.toPicture(0, 0), page.toPicture(dividerAt(width), height)];
    const left = Math.max(0, Math.floor((start.x - offset) * acrossScale));
    const top = Math.max(0, Math.floor(start.y * downScale));
    const right = Math.min(map.width, Math.ceil((end.x - offset) * acrossScale));
    const bottom = Math.min(map.height, Math.ceil(end.y * downScale));
    if (right <= left || bottom <= top) return;
    const from = page.toScreen(offset + left / acrossScale, top / downScale);
    const to = page.toScreen(offset + right / acrossScale, bottom / downScale);
    context.save();
    context.beginPath();
    context.rect(0, 0, dividerAt(width), height);
    context.clip();
    context.drawImage(
      map.painted, left, top, right - left, bottom - top, from.x, from.y, to.x - from.x, to.y - from.y,
    );
    context.restore();
  }

  const dividerAt = (width) => (state.compare === null ? width : state.compare * width);

  // --- legend ----------------------------------------------------------------------------------------------------

  // Whoever sees the map sees what its colours mean: in the panel where that is open, else beside the picture.
  function placeLegend() {
    const alone = Boolean(state.shown && map) && !panel.isOpen;
    (alone ? byId("shown-classes") : panel.element).append(byId("legend"));
    byId("shown-classes").hidden = !alone;
    document.body.classList.toggle("legended", alone);
  }

  const inWords = (share) => (share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);

  function showLegend() {
    if (byId("legend").childElementCount) return;
    const all = known.names.map((name, id) => ({ name, id, share: map.shares[id] }));
    for (const { name, id, share } of all.filter((each) => each.share > 0).sort((a, b) => b.share - a.share)) {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.dataset.id = id;
      const chip = document.createElement("i");
      chip.className = "chip";
      chip.style.background = known.colours[id];
      const [label, amount] = [document.createElement("span"), document.createElement("small")];
      [label.textContent, amount.textContent] = [name, inWords(share)];
      button.append(chip, label, amount);
      item.append(button);
      byId("legend").append(item);
    }
  }

  let pinned = null; // the class that a click keeps highlighted
  let repaint = 0;
  function highlight(id) {
    if (id === highlighted) return;
    highlighted = id;
    cancelAnimationFrame(repaint);
    repaint = requestAnimationFrame(() => {
      map.painted = paint(map.width, map.height, map.ids);
      draw();
    });
  }

  function pin(button) {
    const id = Number(button.dataset.id);
    pinned = pinned === id ? null : id;
    for (const other of byId("legend").querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(Number(other.dataset.id) === pinned));
    }
    if (pinned !== null && !state.shown) set({ shown: true });
    highlight(pinned);
  }

  byId("legend").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) pin(button);
  });
  byId("legend").addEventListener("pointerover", (event) => {
    const button = event.target.closest("button");
    if (event.pointerType === "mouse") highlight(button ? Number(button.dataset.id) : pinned);
  });
  byId("legend").addEventListener("pointerleave", () => map && highlight(pinned));

  // --- state, and what shows it ----------------------------------------------------------------------------------

  const divider = byId("divider");

  // change: some of shown, opacity, compare. Resolves when it is on the screen.
  async function set(change) {
    Object.assign(state, change);
    if (state.compare !== null) state.compare = Math.min(Math.max(state.compare, 0), 1);
    if (state.shown && !await ensureMap()) state.shown = false;
    if (!state.shown) state.compare = null;
    byId("overlay").checked = state.shown;
    byId("compare").checked = state.compare !== null;
    byId("opacity").value = Math.round(100 * state.opacity);
    byId("opacity-value").textContent = `${Math.round(100 * state.opacity)} %`;
    placeLegend();
    showDivider();
    draw();
    document.dispatchEvent(new Event("hypermosaic-layers"));
  }

  function showDivider() {
    divider.hidden = state.compare === null;
    if (divider.hidden) return;
    const percent = Math.round(100 * state.compare);
    divider.style.left = `${100 * state.compare}%`;
    divider.setAttribute("aria-valuenow", percent);
    divider.setAttribute("aria-valuetext", `class map on the left ${percent} % of the view`);
  }

  divider.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    divider.focus();
    divider.setPointerCapture(event.pointerId);
  });
  divider.addEventListener("pointermove", (event) => {
    if (divider.hasPointerCapture(event.pointerId)) set({ compare: event.clientX / viewer.container.clientWidth });
  });
  const steps = { ArrowLeft: -0.02, ArrowRight: 0.02, ArrowDown: -0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 };
  divider.addEventListener("keydown", (event) => {
    const ends = { Home: 0, End: 1 };
    const to = event.key in steps ? state.compare + steps[event.key] : ends[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    set({ compare: to });
  });

  // --- what people touch -----------------------------------------------------------------------------------------

  const compareNow = (on) => set(on ? { shown: true, opacity: 1, compare: 0.5 } : { opacity: 0.7, compare: null });

  page.layers = { state, set, classAt, hasClasses: Boolean(known) };
  if (!known) {
    for (const part of document.querySelectorAll("[data-needs=classes]")) part.hidden = true;
    return;
  }

  viewer.canvas.append(layer);
  for (const change of ["update-viewport", "resize", "open"]) viewer.addHandler(change, draw);
  panel.button.hidden = false;
  panel.onOpen = () => { placeLegend(); if (!state.shown) set({ shown: true }); };
  panel.onClose = placeLegend;
  byId("overlay").addEventListener("change", (event) => set({ shown: event.target.checked }));
  byId("opacity").addEventListener("input", (event) => set({ shown: true, opacity: event.target.value / 100 }));
  byId("compare").addEventListener("change", (event) => compareNow(event.target.checked));
  page.keys.c = () => {
    set({ shown: !state.shown }).then(() => page.say(state.shown ? "Class map shown" : "Class map hidden"));
  };
  page.keys.x = () => compareNow(state.compare === null);
})();
