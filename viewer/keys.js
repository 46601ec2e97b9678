// Keys and the buttons that do the same: moving, zooming, full screen, theme, help.
"use strict";

(() => {
  const page = window.hypermosaic;
  if (!page) return;
  const { viewer, picture, byId } = page;
  const view = viewer.viewport;

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

  const showActualPixels = () => page.go({ ...page.where(false), zoom: 1 });

  function toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen?.().catch(() => page.say("Full screen is not allowed here."));
  }

  // A small screen shows the map to those who ask for it.
  const small = matchMedia("(max-width: 900px), (max-height: 480px)");

  function toggleMap() {
    const map = viewer.navigator.element;
    map.hidden = !small.matches && !map.hidden;
    if (small.matches) document.body.classList.toggle("mapped");
    viewer.navigator.updateSize(); // what was not shown has no size
    viewer.navigator.update(view);
  }

  function toggleHelp() {
    const help = byId("help");
    if (help.open) return help.close();
    help.showModal();
    help.scrollTop = 0; // the focus went to the button below
  }

  function toggleTheme() {
    page.say(window.hypermosaicTheme.toggle() === "dark" ? "Dark" : "Light");
  }

  function toggleBare() {
    const bare = document.body.classList.toggle("bare");
    page.say(bare ? "Only the picture; H shows the rest" : "");
  }

  function lookAround() {
    if (picture.panorama) location.href = byId("around").href;
  }

  const home = () => view.goHome();
  const inwards = () => zoomBy(1.6);
  const outwards = () => zoomBy(1 / 1.6);
  const [left, right, up, down] = [[-1, 0], [1, 0], [0, -1], [0, 1]].map(([x, y]) => () => moveBy(x, y));

  Object.assign(page.keys, {
    "+": inwards, "=": inwards, "-": outwards, _: outwards,
    "0": home, home, "1": showActualPixels,
    arrowleft: left, arrowright: right, arrowup: up, arrowdown: down, a: left, d: right, w: up, s: down,
    f: toggleFullScreen, m: toggleMap, h: toggleBare, t: toggleTheme, o: lookAround, "?": toggleHelp,
    escape: () => page.closers.some((close) => close()),
  });

  // Fields, sliders and lists use letters and arrows themselves.
  const types = (element) => element.matches?.("input:not([type=checkbox]), textarea, select");

  document.addEventListener("keydown", (event) => {
    const action = page.keys[event.key.toLowerCase()];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    if (types(event.target) && event.key !== "Escape") return;
    if (byId("help").open && action !== toggleHelp) return;
    event.preventDefault();
    action();
  });

  const buttons = {
    "zoom-in": inwards, "zoom-out": outwards, fit: home, actual: showActualPixels,
    full: toggleFullScreen, keys: toggleHelp, theme: toggleTheme,
  };
  for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", action);

  document.addEventListener("fullscreenchange", () => {
    byId("full").setAttribute("aria-pressed", String(Boolean(document.fullscreenElement)));
  });
  byId("full").hidden = !document.fullscreenEnabled;
  byId("around").hidden = !picture.panorama;
  for (const part of document.querySelectorAll("[data-needs=panorama]")) part.hidden = !picture.panorama;
})();
