// The picture's tiles, the preview under them, and what happens where a tile is not there yet.
//
// A running job writes tiles from all over the picture. One that is missing is asked for once; reloadTiles() asks
// again, for a tile that was often missing after a while only: an unfinished picture is no storm of failed requests.
"use strict";

(() => {
  const page = window.hypermosaic;
  if (!page) return;
  const { viewer, picture } = page;

  const [SHORTEST_WAIT, LONGEST_WAIT] = [1_000, 16_000]; // milliseconds between two questions for the same tile
  const HOPELESS = 3; // missing tiles, and none there: a host that has no tiles
  let anyTile = false;
  let missing = 0;
  let reloaded = 0;
  let later = 0;

  const source = {
    width: picture.width,
    height: picture.height,
    tileSize: picture.tile,
    tileOverlap: 0,
    minLevel: 0,
    maxLevel: picture.maxLevel,
    getTileUrl: (level, column, row) => `${picture.tiles}${level}/${column}_${row}.${picture.encoding}`,
  };

  function noteMissing({ tile }) {
    tile.misses = (tile.misses ?? 0) + 1;
    tile.asked = performance.now();
  }

  viewer.navigator.addHandler("tile-load-failed", noteMissing);
  viewer.addHandler("tile-load-failed", (event) => {
    noteMissing(event);
    if (event.tiledImage !== page.image) return;
    missing += 1;
    if (missing === 1) page.greeted.then(sayMissing);
    if (missing === HOPELESS && !anyTile && !picture.opensFromDisk) explainMaster();
  });
  viewer.addHandler("tile-loaded", (event) => { anyTile ||= event.tiledImage === page.image; });

  // Where a job is under way, its panel says so.
  function sayMissing() {
    if (!page.served || page.served.state === "finished") page.say("Some of this picture is not there yet.");
  }

  async function explainMaster() {
    await page.greeted;
    if (page.served) return;
    page.explain("The tiles of this picture are inside its OME-Zarr image, which a plain web host cannot cut. "
      + "Run \"hypermosaic view\" on the folder, or add the deep-zoom format.");
  }

  // Every tile that was missing is asked for again when it is in view.
  function reloadTiles() {
    reloaded = performance.now();
    revive();
  }

  const dueAt = (tile) => tile.asked + Math.min(SHORTEST_WAIT * 2 ** (tile.misses - 2), LONGEST_WAIT);

  function revive() {
    clearTimeout(later);
    const now = performance.now();
    const waiting = [...missingTiles()].filter((tile) => tile.asked <= reloaded);
    for (const tile of waiting.filter((each) => dueAt(each) <= now)) tile.exists = true;
    const next = Math.min(...waiting.filter((tile) => !tile.exists).map(dueAt));
    if (Number.isFinite(next)) later = setTimeout(revive, next - now);
    for (const item of items()) item.setClip(item.getClip()); // makes it look for tiles again
  }

  function* items() {
    for (const world of [viewer.world, viewer.navigator.world]) {
      for (let index = 0; index < world.getItemCount(); index += 1) yield world.getItemAt(index);
    }
  }

  function* missingTiles() {
    for (const item of items()) {
      for (const level of Object.values(item.tilesMatrix)) {
        for (const column of Object.values(level)) {
          yield* Object.values(column).filter((tile) => tile.misses && !tile.exists);
        }
      }
    }
  }

  // --- one small image, stretched over the picture, under its tiles ----------------------------------------------

  let preview = null; // the item of the world that shows it
  let asked = 0;

  const stretched = (url) => ({
    width: picture.width,
    height: picture.height,
    tileSize: Math.max(picture.width, picture.height),
    tileOverlap: 0,
    minLevel: 0,
    maxLevel: 0,
    getTileUrl: () => url,
  });

  function showUnder(url) {
    asked += 1;
    const turn = asked;
    viewer.addTiledImage({
      tileSource: stretched(url),
      index: 0,
      width: 1,
      success: ({ item }) => {
        if (turn !== asked) {
          viewer.world.removeItem(item);
          return;
        }
        const before = preview;
        preview = item;
        // The one before stays until the new one is drawn, so that nothing flashes.
        const drop = () => before && viewer.world.getIndexOfItem(before) >= 0 && viewer.world.removeItem(before);
        if (item.getFullyLoaded()) drop();
        else item.addOnceHandler("fully-loaded-change", drop);
      },
    });
  }

  // The extent of the picture where no tile is: grey, and seen on dark ground as on light.
  function placeholder() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const context = canvas.getContext("2d");
    context.fillStyle = "rgb(128 132 138 / 28%)";
    context.fillRect(0, 0, 1, 1);
    return canvas.toDataURL();
  }

  const showPreview = (url) => showUnder(url);
  const hidePreview = () => showUnder(placeholder());

  Object.assign(page, { reloadTiles, showPreview, hidePreview, image: null });
  viewer.addOnceHandler("open", () => {
    page.image = viewer.world.getItemAt(0);
    hidePreview();
  });
  // When all scripts are here, so that each hears of it.
  document.addEventListener("DOMContentLoaded", () => viewer.open(source));

  // --- a server, where there is one ------------------------------------------------------------------------------

  async function greetServer() {
    if (page.fromDisk) return;
    try {
      const answer = await fetch("api/status.json", { cache: "no-store" });
      if (!answer.ok) return;
      page.served = await answer.json();
    } catch {
      return; // a plain web host
    }
    const script = document.createElement("script");
    script.src = "viewer/job.js";
    document.body.append(script);
    document.dispatchEvent(new Event("hypermosaic-served"));
  }

  page.greeted = greetServer();
})();
