// The page of one picture: the viewer, where it looks, the scale bar, and what the other scripts share.
//
// window.hypermosaic = {viewer, picture, say(text), where(), go(place), ...}, or null where nothing can be shown.
// Places are {x, y, zoom}: pixels of the whole picture, and screen pixels for each of them.
"use strict";

window.hypermosaic = (() => {
  const byId = (id) => document.getElementById(id);
  const picture = JSON.parse(byId("description").textContent);
  const fromDisk = location.protocol === "file:";
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  function explain(text) {
    byId("notice").textContent = text;
    byId("notice").hidden = false;
    for (const idle of document.querySelectorAll("nav, footer, #shown-classes, .panel")) idle.hidden = true;
  }

  if (fromDisk && !picture.opensFromDisk) {
    explain("The tiles of this picture are inside its OME-Zarr image, which a page opened from disk cannot read. "
      + "Run \"hypermosaic view\" on this folder, or add the deep-zoom format.");
    return null;
  }

  // What goes wrong with a tile is told on the page; the console stays for those who debug pages.
  OpenSeadragon.console = { log() {}, debug() {}, info() {}, warn() {}, error() {}, assert() {} };

  const viewer = OpenSeadragon({
    element: byId("picture"),
    // From disk every tile taints its canvas, and WebGL refuses tainted pictures; one drawer for both looks the same.
    drawer: "canvas",
    maxTilesPerFrame: 8,
    wrapHorizontal: picture.wrapsX,
    visibilityRatio: 0.5,
    maxZoomPixelRatio: 4,
    imageLoaderLimit: 8,
    animationTime: calm.matches ? 0 : 0.7,
    blendTime: 0,
    immediateRender: calm.matches,
    keyboardNavEnabled: false, // its keys include flips and turns; ours work wherever the focus is
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
    gestureSettingsPen: { clickToZoom: false, dblClickToZoom: true },
    showNavigationControl: false,
    showNavigator: true,
    navigatorAutoFade: false,
    navigatorOpacity: 1,
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorSizeRatio: 0.18,
    navigatorMaintainSizeRatio: true,
  });
  const view = viewer.viewport;

  // --- where the view is: the width of the picture is 1 in the viewer's own units --------------------------------

  const modulo = (value, period) => ((value % period) + period) % period;
  const inPicture = (x) => (picture.wrapsX ? modulo(x, picture.width) : x);

  // Screen pixels for each pixel of the picture.
  const zoomNow = (current = true) => view.getZoom(current) * view.getContainerSize().x / picture.width;

  // x is of the turn that the view is in; `inPicture` makes it a pixel.
  function centreNow(current = true) {
    const centre = view.getCenter(current);
    return { x: centre.x * picture.width, y: centre.y * picture.width };
  }

  function where(current = true) {
    const { x, y } = centreNow(current);
    return { x: inPicture(x), y, zoom: zoomNow(current) };
  }

  // Of all turns of a ring, the one nearest to what is on the screen.
  function nearest(x) {
    return picture.wrapsX ? x + picture.width * Math.round((centreNow().x - x) / picture.width) : x;
  }

  function go(place, immediately = calm.matches) {
    const x = nearest(Math.min(Math.max(place.x, 0), picture.width));
    const y = Math.min(Math.max(place.y, 0), picture.height);
    view.zoomTo(place.zoom * picture.width / view.getContainerSize().x, null, immediately);
    view.panTo(new OpenSeadragon.Point(x / picture.width, y / picture.width), immediately);
    view.applyConstraints(immediately);
  }

  // Pixels of the page -> pixels of the picture, and back; x may lie in another turn.
  function toPicture(x, y) {
    const zoom = zoomNow();
    const [centre, size] = [centreNow(), view.getContainerSize()];
    return { x: centre.x + (x - size.x / 2) / zoom, y: centre.y + (y - size.y / 2) / zoom };
  }

  function toScreen(x, y) {
    const zoom = zoomNow();
    const [centre, size] = [centreNow(), view.getContainerSize()];
    return { x: size.x / 2 + (x - centre.x) * zoom, y: size.y / 2 + (y - centre.y) * zoom };
  }

  function showsAll() {
    const [now, home] = [view.getBounds(), view.getHomeBounds()];
    const near = (a, b) => Math.abs(a - b) < 1e-3 * home.width;
    return near(now.x, home.x) && near(now.y, home.y) && near(now.width, home.width) && near(now.height, home.height);
  }

  // A little more than the whole picture, or its actual pixels where they are fewer than the screen's.
  function limitZoom() {
    view.minZoomLevel = Math.min(0.8 * view.getHomeZoom(), picture.width / view.getContainerSize().x);
  }

  for (const change of ["open", "resize"]) viewer.addHandler(change, limitZoom);

  // --- the scale bar ---------------------------------------------------------------------------------------------

  // A round length (1, 2 or 5 times a power of ten) of at most `room` picture pixels.
  function roundLength(room) {
    const power = 10 ** Math.floor(Math.log10(room));
    return Math.max(1, power * [5, 2, 1].find((times) => times * power <= room));
  }

  function showScale() {
    if (!viewer.world.getItemCount()) return;
    const zoom = zoomNow();
    const length = roundLength(Math.max(1, 150 / zoom));
    const percent = 100 * zoom;
    byId("bar").style.width = `${length * zoom}px`;
    byId("scale").textContent = `${length.toLocaleString("en")} px \u00b7 `
      + `${percent.toLocaleString("en", { maximumSignificantDigits: percent < 10 ? 2 : 3 })} %`;
  }

  for (const change of ["open", "update-viewport", "resize"]) viewer.addHandler(change, showScale);

  // Whoever sees the whole picture still sees it after resizing the window.
  addEventListener("resize", () => {
    if (showsAll()) viewer.addOnceHandler("after-resize", () => queueMicrotask(() => view.goHome(true)));
  });

  viewer.canvas.setAttribute("aria-label", `Zoomable view of ${picture.title}`);
  viewer.canvas.setAttribute("role", "application");
  viewer.navigator.element.setAttribute("aria-hidden", "true"); // the keys do what the map does
  for (const part of viewer.navigator.element.querySelectorAll("[tabindex]")) part.tabIndex = -1;
  viewer.navigator.element.tabIndex = -1;

  // --- words and files -------------------------------------------------------------------------------------------

  let silence = 0;
  function say(text) {
    byId("said").textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => { byId("said").textContent = ""; }, 5000);
  }

  // Copies text and says so; where the browser forbids the clipboard, an old way, which needs no permission.
  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const box = document.createElement("textarea");
      box.value = text;
      document.body.append(box);
      box.select();
      const copied = document.execCommand("copy");
      box.remove();
      if (!copied) return say(`This browser does not let a page copy. ${text}`);
    }
    return say(`${what} copied`);
  }

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  // The folder of this page as a shell would take it: our server says where it lies, a plain web host does not.
  function folder() {
    if (!fromDisk) return shared.served?.folder ? quoted(shared.served.folder) : "DIR";
    return quoted(decodeURIComponent(location.pathname.replace(/\/[^/]*$/, "")).replace(/^\/([A-Za-z]:)/, "$1"));
  }

  const quoted = (path) => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`);

  const shared = {
    viewer, picture, fromDisk, calm, byId, explain,
    where, go, zoomNow, inPicture, nearest, toPicture, toScreen, showsAll, say, copy, save, folder,
    keys: {}, // key -> what it does; the other scripts add theirs
    closers: [], // what Escape stops or closes, asked in turn until one says that it did
    served: null, // what api/status.json said, where there is a server
  };
  return shared;
})();
