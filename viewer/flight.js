// Keyframes of a zoom video: recorded, listed, flown along in the page, and saved for the export.
//
// keyframes.json: {"format_version": 1, "width": W, "height": H, "keyframes": [{"x", "y", "zoom", "seconds"}, ...]}
// zoom: screen pixels for each picture pixel in a frame 1920 pixels wide, so the same view on any screen.
"use strict";

(() => {
  const page = window.hypermosaic;
  if (!page) return;
  const { viewer, picture, byId } = page;
  const panel = page.panels.get("flight");
  const FRAME = 1920;
  const PAUSE = 4; // seconds from one keyframe to the next, until someone changes them
  const RHO = Math.SQRT2;
  const rows = new WeakMap(); // keyframe -> its row, {item, time, show, remove}
  let keyframes = [];
  let flying = 0; // the animation frame that is asked for, or 0

  // --- views between two keyframes: {x, y, width} in picture pixels, as the video has them -----------------------

  const viewOf = ({ x, y, zoom }) => ({ x, y, width: FRAME / zoom });
  const smooth = (share) => share * share * (3 - 2 * share);
  const mix = (a, b, share) => a + (b - a) * share;

  function between(start, end, share, aspect) {
    if (share <= 0) return start;
    if (share >= 1) return end;
    const room = Math.abs(start.width - end.width) / 2;
    const nested = Math.abs(start.x - end.x) <= room && Math.abs(start.y - end.y) <= room / aspect;
    return nested ? scaled(start, end, share) : flown(start, end, share);
  }

  // About one point that stands still: the width changes by the same factor in each moment.
  function scaled(start, end, share) {
    const width = start.width * (end.width / start.width) ** share;
    const moved = start.width === end.width ? share : (start.width - width) / (start.width - end.width);
    return { x: mix(start.x, end.x, moved), y: mix(start.y, end.y, moved), width };
  }

  // J. J. van Wijk and W. A. A. Nuij, "Smooth and efficient zooming and panning", InfoVis 2003, equation 9.
  function flown(start, end, share) {
    const distance = Math.hypot(end.x - start.x, end.y - start.y);
    const [growth, across] = [end.width ** 2 - start.width ** 2, RHO ** 4 * distance ** 2];
    const r0 = -Math.asinh((growth + across) / (2 * start.width * RHO ** 2 * distance));
    const r1 = -Math.asinh((growth - across) / (2 * end.width * RHO ** 2 * distance));
    const r = mix(r0, r1, share);
    const moved = start.width / RHO ** 2 * (Math.cosh(r0) * Math.tanh(r) - Math.sinh(r0)) / distance;
    return {
      x: mix(start.x, end.x, moved), y: mix(start.y, end.y, moved), width: start.width * Math.cosh(r0) / Math.cosh(r),
    };
  }

  // On a ring each keyframe is taken in the turn nearest to the one before.
  function unrolled() {
    const views = keyframes.map(viewOf);
    if (!picture.wrapsX) return views;
    for (let index = 1; index < views.length; index += 1) {
      const turns = Math.round((views[index - 1].x - views[index].x) / picture.width);
      views[index].x += turns * picture.width;
    }
    return views;
  }

  function viewAt(views, seconds, aspect) {
    const after = keyframes.findIndex((keyframe) => keyframe.seconds > seconds);
    if (after < 0) return views.at(-1);
    if (after === 0) return views[0];
    const [from, to] = [keyframes[after - 1].seconds, keyframes[after].seconds];
    const share = (seconds - from) / (to - from);
    // Those who asked for less motion see the keyframes, one after the other.
    return page.calm.matches ? views[after - 1] : between(views[after - 1], views[after], smooth(share), aspect);
  }

  function showView({ x, y, width }) {
    viewer.viewport.zoomTo(picture.width / width, null, true);
    viewer.viewport.panTo(new OpenSeadragon.Point(x / picture.width, y / picture.width), true);
  }

  // --- recording -------------------------------------------------------------------------------------------------

  const rounded = (value, digits) => Number(value.toPrecision(digits));

  function add() {
    const { x, y, zoom } = page.where();
    const frameZoom = zoom * FRAME / viewer.container.clientWidth;
    const seconds = keyframes.length ? keyframes.at(-1).seconds + PAUSE : 0;
    keyframes.push({ x: rounded(x, 8), y: rounded(y, 8), zoom: rounded(frameZoom, 6), seconds });
    list();
    page.say(`Keyframe ${keyframes.length} added at ${seconds} s`);
  }

  function setSeconds(keyframe, seconds) {
    keyframe.seconds = Math.min(Math.max(seconds || 0, 0), 3600);
    keyframes.sort((a, b) => a.seconds - b.seconds);
    for (let index = 1; index < keyframes.length; index += 1) { // two at one time make no way
      keyframes[index].seconds = Math.max(keyframes[index].seconds, rounded(keyframes[index - 1].seconds + 0.1, 6));
    }
    list();
  }

  // A row that stays keeps the focus, so that whoever types goes on typing.
  function list() {
    stop();
    const focused = document.activeElement;
    const items = keyframes.map(row);
    const there = [...byId("keyframes").children];
    if (items.length !== there.length || items.some((item, index) => item !== there[index])) {
      byId("keyframes").replaceChildren(...items);
      if (byId("keyframes").contains(focused)) focused.focus({ preventScroll: true });
    }
    byId("flight-empty").hidden = keyframes.length > 0;
    byId("flight-play").disabled = byId("flight-save").disabled = keyframes.length < 2;
    byId("flight-how").hidden = keyframes.length < 2;
    nameCommand();
  }

  function nameCommand() {
    byId("flight-command").textContent = `hypermosaic export ${page.folder()} --format mp4 --path keyframes.json`;
  }

  function button(name, text, action) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = name;
    made.textContent = text;
    made.addEventListener("click", action);
    return made;
  }

  function row(keyframe, index) {
    if (!rows.has(keyframe)) rows.set(keyframe, built(keyframe));
    const { item, time, show, remove } = rows.get(keyframe);
    if (Number(time.value) !== keyframe.seconds) time.value = keyframe.seconds;
    time.setAttribute("aria-label", `Seconds of keyframe ${index + 1}`);
    show.setAttribute("aria-label", `Show keyframe ${index + 1}, ${show.textContent}`);
    remove.setAttribute("aria-label", `Remove keyframe ${index + 1}`);
    return item;
  }

  function built(keyframe) {
    const item = document.createElement("li");
    const time = document.createElement("input");
    Object.assign(time, { type: "number", min: 0, max: 3600, step: 0.5, value: keyframe.seconds });
    time.addEventListener("change", () => setSeconds(keyframe, Number(time.value)));
    const unit = document.createElement("span");
    unit.textContent = "s";
    const place = `${Math.round(keyframe.x).toLocaleString("en")}, ${Math.round(keyframe.y).toLocaleString("en")}`;
    const show = button("place", place, () => {
      page.go({ ...keyframe, zoom: keyframe.zoom * viewer.container.clientWidth / FRAME });
    });
    const remove = button("close", "\u00d7", () => drop(keyframe));
    item.append(time, unit, show, remove);
    return { item, time, show, remove };
  }

  // The focus goes to the keyframe that takes its place.
  function drop(keyframe) {
    const index = keyframes.indexOf(keyframe);
    keyframes = keyframes.filter((other) => other !== keyframe);
    list();
    const next = keyframes[Math.min(index, keyframes.length - 1)];
    (next ? rows.get(next).remove : byId("flight-add")).focus();
  }

  // --- flying ----------------------------------------------------------------------------------------------------

  function play() {
    if (flying) {
      stop();
      return;
    }
    const views = unrolled();
    const [first, last] = [keyframes[0].seconds, keyframes.at(-1).seconds];
    const aspect = viewer.container.clientWidth / viewer.container.clientHeight;
    const began = performance.now();
    const step = (now) => {
      const seconds = first + Math.max(0, now - began) / 1000;
      showView(viewAt(views, seconds, aspect));
      if (seconds >= last) stop();
      else flying = requestAnimationFrame(step);
    };
    flying = requestAnimationFrame(step);
    byId("flight-play").textContent = "Stop";
  }

  function stop() {
    if (!flying) return false;
    cancelAnimationFrame(flying);
    flying = 0;
    byId("flight-play").textContent = "Play";
    return true;
  }

  function save() {
    const file = { format_version: 1, width: picture.width, height: picture.height, keyframes };
    page.save(new Blob([`${JSON.stringify(file, null, 2)}\n`], { type: "application/json" }), "keyframes.json");
    page.say("keyframes.json saved");
  }

  for (const touch of ["canvas-press", "canvas-scroll"]) viewer.addHandler(touch, stop);
  page.closers.unshift(stop);
  byId("flight-add").addEventListener("click", add);
  byId("flight-play").addEventListener("click", play);
  byId("flight-save").addEventListener("click", save);
  page.keys.k = () => {
    panel.open({ focus: false });
    add();
  };
  page.keys.v = () => panel.toggle();
  list();
  document.addEventListener("hypermosaic-served", nameCommand); // which knows the folder
})();
