// A region of the picture at full resolution: drawn with the pointer, typed, or what is on the screen.
//
// With a server, it cuts the region. From a plain web host the page puts the tiles together itself, within what a
// canvas can hold. From disk a page may not read pictures back: there it names the command that does.
"use strict";

(() => {
  const page = window.hypermosaic;
  if (!page) return;
  const { viewer, picture, byId } = page;
  const panel = page.panels.get("region");
  const fields = { x: byId("region-x"), y: byId("region-y"), w: byId("region-w"), h: byId("region-h") };
  const LARGEST_SIDE = 16_384; // of a canvas that browsers hold
  const LARGEST_AREA = 128e6;
  const FROM_DISK = "Browsers do not let a page opened from disk read pictures back; this command saves the region.";
  const SEAM = "This region goes over the seam, which exports do not cross: choose one on either side of it, "
    + "or save it from the page that \"hypermosaic view\" shows.";
  let region = null; // {x, y, w, h} in whole pixels; x within the picture, x + w beyond its edge over a ring's seam
  let start = null; // where a drag began

  // --- which region ----------------------------------------------------------------------------------------------

  const clip = (value, limit) => Math.min(Math.max(value, 0), limit);

  // [first, length] in whole pixels between two places along one side of the picture.
  function span(a, b, length) {
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    const first = clip(Math.floor(low), length - 1);
    return [first, Math.max(1, clip(Math.ceil(high), length) - first)];
  }

  // The same around a ring, at most one turn of it.
  function spanOfRing(a, b, length) {
    const [low, high] = [Math.floor(Math.min(a, b)), Math.ceil(Math.max(a, b))];
    const across = high - low;
    return across < length ? [page.inPicture(low), Math.max(1, across)] : [0, length];
  }

  // The part of the picture between two places.
  function between(a, b) {
    const [x, w] = (picture.wrapsX ? spanOfRing : span)(a.x, b.x, picture.width);
    const [y, h] = span(a.y, b.y, picture.height);
    return { x, y, w, h };
  }

  const overSeam = () => region.x + region.w > picture.width;

  function take(next) {
    region = next;
    for (const [name, field] of Object.entries(fields)) field.value = region[name];
    const megapixels = region.w * region.h / 1e6;
    const [width, height] = [region.w, region.h].map((side) => side.toLocaleString("en"));
    byId("region-size").textContent = `${width} \u00d7 ${height} pixels \u00b7 `
      + `${megapixels.toLocaleString("en", { maximumSignificantDigits: 3 })} megapixels`;
    const command = `hypermosaic export ${page.folder()} --format png --region ${Object.values(region).join(",")}`;
    byId("region-command").textContent = command;
    for (const name of ["region-command", "region-copy"]) byId(name).hidden = !page.fromDisk || overSeam();
    tell(page.fromDisk ? (overSeam() ? SEAM : FROM_DISK) : "");
    drawRectangle();
  }

  function takeView() {
    const { clientWidth, clientHeight } = viewer.container;
    take(between(page.toPicture(0, 0), page.toPicture(clientWidth, clientHeight)));
  }

  // What was typed, moved to where the picture is.
  function takeTyped() {
    const numbers = Object.entries(fields).map(([name, field]) => [name, Math.round(Number(field.value)) || 0]);
    const typed = Object.fromEntries(numbers);
    take(between(typed, { x: typed.x + Math.max(1, typed.w), y: typed.y + Math.max(1, typed.h) }));
  }

  function drawRectangle() {
    const box = byId("rectangle");
    box.hidden = !panel.isOpen || !region;
    if (box.hidden) return;
    const left = page.nearest(region.x + region.w / 2) - region.w / 2;
    const [from, to] = [page.toScreen(left, region.y), page.toScreen(left + region.w, region.y + region.h)];
    Object.assign(box.style, {
      left: `${from.x}px`, top: `${from.y}px`, width: `${to.x - from.x}px`, height: `${to.y - from.y}px`,
    });
  }

  // --- drawing it with the pointer -------------------------------------------------------------------------------

  const at = (event) => page.toPicture(event.position.x, event.position.y);

  viewer.addHandler("canvas-press", (event) => { start = page.capturing ? at(event) : null; });
  viewer.addHandler("canvas-drag", (event) => {
    if (!page.capturing || !start) return;
    event.preventDefaultAction = true;
    take(between(start, at(event)));
  });
  viewer.addHandler("canvas-drag-end", (event) => {
    if (page.capturing) event.preventDefaultAction = true; // no coasting
    start = null;
  });
  viewer.addHandler("canvas-pinch", () => { start = null; }); // two fingers move the picture, as always

  // --- saving it -------------------------------------------------------------------------------------------------

  function tell(text) {
    byId("region-note").textContent = text;
    byId("region-note").hidden = !text;
  }

  const fileName = (kind) => `region-${Object.values(region).join("-")}.${kind}`;

  async function fromServer(kind) {
    const { x, y, w, h } = region;
    const answer = await fetch(`region.${kind}?${new URLSearchParams({ x, y, w, h })}`);
    if (!answer.ok) throw new Error((await answer.text()).trim() || `The server answered ${answer.status}.`);
    return answer.blob();
  }

  const loadTile = (url) => new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => fail(new Error("A tile of this region is missing; try again when the picture is finished."));
    image.src = url;
  });

  // A part of the picture that crosses no seam, drawn so many pixels from the left.
  async function drawTiles(context, { x, y, w, h }, left) {
    const edge = picture.tile;
    for (let row = Math.floor(y / edge); row * edge < y + h; row += 1) {
      const columns = [];
      for (let column = Math.floor(x / edge); column * edge < x + w; column += 1) columns.push(column);
      const url = (column) => `${picture.tiles}${picture.maxLevel}/${column}_${row}.${picture.encoding}`;
      const tiles = await Promise.all(columns.map((column) => loadTile(url(column))));
      tiles.forEach((tile, index) => context.drawImage(tile, left + columns[index] * edge - x, row * edge - y));
    }
  }

  async function fromTiles(kind) {
    const { x, y, w, h } = region;
    if (Math.max(w, h) > LARGEST_SIDE || w * h > LARGEST_AREA) {
      throw new Error(`${w} \u00d7 ${h} pixels are more than a page can put together (${LARGEST_SIDE} a side, `
        + `${LARGEST_AREA / 1e6} megapixels); choose a smaller region`
        + (overSeam() ? "" : `, or run: ${byId("region-command").textContent}`));
    }
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [w, h];
    const context = canvas.getContext("2d");
    await drawTiles(context, { x, y, w: Math.min(w, picture.width - x), h }, 0);
    if (overSeam()) await drawTiles(context, { x: 0, y, w: x + w - picture.width, h }, picture.width - x);
    const blob = await new Promise((done) => canvas.toBlob(done, kind === "png" ? "image/png" : "image/jpeg", 0.95));
    if (!blob) throw new Error("This browser could not hold the region; choose a smaller one.");
    return blob;
  }

  async function save(kind) {
    takeTyped();
    const buttons = [byId("region-png"), byId("region-jpg")];
    for (const button of buttons) button.disabled = true;
    tell("Cutting the region\u2026");
    try {
      page.save(await (page.served ? fromServer : fromTiles)(kind), fileName(kind));
      tell(`Saved as ${fileName(kind)}.`);
    } catch (error) {
      tell(error.message);
    }
    for (const button of buttons) button.disabled = false;
  }

  // --- what people touch -----------------------------------------------------------------------------------------

  panel.onOpen = () => {
    page.capturing = true;
    document.body.classList.add("capturing");
    takeView();
    if (!page.fromDisk) return;
    for (const name of ["region-png", "region-jpg"]) byId(name).hidden = true;
  };
  panel.onClose = () => {
    page.capturing = false;
    document.body.classList.remove("capturing");
    drawRectangle();
  };
  for (const field of Object.values(fields)) field.addEventListener("change", takeTyped);
  fields.x.max = picture.width - 1;
  fields.y.max = picture.height - 1;
  fields.w.max = picture.width;
  fields.h.max = picture.height;
  for (const change of ["update-viewport", "resize"]) viewer.addHandler(change, drawRectangle);
  byId("region-view").addEventListener("click", takeView);
  byId("region-png").addEventListener("click", () => save("png"));
  byId("region-jpg").addEventListener("click", () => save("jpg"));
  byId("region-copy").addEventListener("click", () => page.copy(byId("region-command").textContent, "Command"));
  page.keys.e = () => panel.toggle();
})();
