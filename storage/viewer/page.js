// The page of one picture: pan, zoom, map, keys. Knows the description written into index.html and where tiles lie;
// loads nothing but tiles, so that it works from a folder opened by double-click as well as from any web host.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const picture = JSON.parse(byId("description").textContent);
  const fromDisk = location.protocol === "file:";
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  if (fromDisk && !picture.opensFromDisk) {
    byId("notice").textContent = "The tiles of this picture are inside its OME-Zarr image, which a page opened from "
      + "disk cannot read. Run \"hypermosaic view\" on this folder, or add the deep-zoom format.";
    byId("notice").hidden = false;
    for (const idle of ["nav", "footer"]) document.querySelector(idle).hidden = true;
    return;
  }

  const viewer = OpenSeadragon({
    element: byId("picture"),
    tileSources: {
      width: picture.width,
      height: picture.height,
      tileSize: picture.tile,
      tileOverlap: 0,
      minLevel: 0,
      maxLevel: picture.maxLevel,
      getTileUrl: (level, column, row) => `${picture.tiles}${level}/${column}_${row}.${picture.encoding}`,
    },
    // From disk every tile taints its canvas, and WebGL refuses tainted pictures; one drawer for both looks the same.
    drawer: "canvas",
    maxTilesPerFrame: 8,
    wrapHorizontal: picture.wrapsX,
    visibilityRatio: 0.5,
    minZoomImageRatio: 0.8,
    maxZoomPixelRatio: 4,
    animationTime: calm ? 0 : 0.7,
    blendTime: 0,
    immediateRender: calm,
    keyboardNavEnabled: false, // its keys include flips and turns; ours are below, and work wherever the focus is
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    showNavigationControl: false,
    showNavigator: true,
    navigatorAutoFade: false,
    navigatorOpacity: 1,
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorSizeRatio: 0.18,
    navigatorMaintainSizeRatio: true,
  });
  const view = viewer.viewport;

  // A round length (1, 2 or 5 times a power of ten) of at most `room` picture pixels.
  function roundLength(room) {
    const power = 10 ** Math.floor(Math.log10(room));
    return Math.max(1, power * [5, 2, 1].find((times) => times * power <= room));
  }

  function showScale() {
    if (!viewer.world.getItemCount()) return;
    const zoom = viewer.world.getItemAt(0).viewportToImageZoom(view.getZoom(true));
    const length = roundLength(Math.max(1, 150 / zoom));
    const percent = 100 * zoom;
    byId("bar").style.width = `${length * zoom}px`;
    byId("scale").textContent = `${length.toLocaleString("en")} px \u00b7 `
      + `${percent.toLocaleString("en", { maximumSignificantDigits: percent < 10 ? 2 : 3 })} %`;
  }

  function zoomBy(factor) {
    view.zoomBy(factor);
    view.applyConstraints();
  }

  // One fifth of what is on screen.
  function moveBy(x, y) {
    const bounds = view.getBounds();
    view.panBy(new OpenSeadragon.Point(0.2 * x * bounds.width, 0.2 * y * bounds.height));
    view.applyConstraints();
  }

  function showActualPixels() {
    view.zoomTo(viewer.world.getItemAt(0).imageToViewportZoom(1));
    view.applyConstraints();
  }

  function showsAll() {
    const [now, home] = [view.getBounds(), view.getHomeBounds()];
    const near = (a, b) => Math.abs(a - b) < 1e-3 * home.width;
    return near(now.x, home.x) && near(now.y, home.y) && near(now.width, home.width) && near(now.height, home.height);
  }

  function toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen?.().catch(() => {});
  }

  function toggleMap() {
    const map = viewer.navigator.element;
    map.hidden = !map.hidden;
  }

  function toggleHelp() {
    const help = byId("help");
    if (help.open) help.close();
    else help.showModal();
  }

  const actions = {
    "+": () => zoomBy(1.6),
    "=": () => zoomBy(1.6),
    "-": () => zoomBy(1 / 1.6),
    "_": () => zoomBy(1 / 1.6),
    "0": () => view.goHome(),
    home: () => view.goHome(),
    "1": showActualPixels,
    arrowleft: () => moveBy(-1, 0),
    arrowright: () => moveBy(1, 0),
    arrowup: () => moveBy(0, -1),
    arrowdown: () => moveBy(0, 1),
    a: () => moveBy(-1, 0),
    d: () => moveBy(1, 0),
    w: () => moveBy(0, -1),
    s: () => moveBy(0, 1),
    f: toggleFullScreen,
    m: toggleMap,
    h: () => document.body.classList.toggle("bare"),
    "?": toggleHelp,
  };

  document.addEventListener("keydown", (event) => {
    const action = actions[event.key.toLowerCase()];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    if (byId("help").open && action !== toggleHelp) return;
    event.preventDefault();
    action();
  });

  byId("zoom-in").addEventListener("click", actions["+"]);
  byId("zoom-out").addEventListener("click", actions["-"]);
  byId("fit").addEventListener("click", actions["0"]);
  byId("actual").addEventListener("click", showActualPixels);
  byId("full").addEventListener("click", toggleFullScreen);
  byId("keys").addEventListener("click", toggleHelp);
  document.addEventListener("fullscreenchange", () => {
    byId("full").setAttribute("aria-pressed", String(Boolean(document.fullscreenElement)));
  });
  if (!document.fullscreenEnabled) byId("full").hidden = true;

  // Whoever sees the whole picture still sees it after resizing the window.
  addEventListener("resize", () => {
    if (showsAll()) viewer.addOnceHandler("after-resize", () => queueMicrotask(() => view.goHome(true)));
  });

  viewer.canvas.setAttribute("aria-label", `Zoomable view of ${picture.title}`);
  viewer.canvas.setAttribute("role", "application");
  for (const change of ["open", "update-viewport", "resize"]) viewer.addHandler(change, showScale);
})();
