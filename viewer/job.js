// The panel of a job: how far it is, where, how fast, and what to do when it stopped. Loaded where a server answers.
//
// Knows api/status.json and what the page offers (window.hypermosaic); asks again every two seconds while the job
// runs, more slowly where it stopped, and never again once it has finished.
"use strict";

(() => {
  const page = window.hypermosaic;
  const panel = document.getElementById("job");
  if (!page?.served || !panel) return;

  const WHILE_RUNNING = 2_000; // milliseconds
  const WHILE_STOPPED = 10_000;
  const LONGEST = 60_000;
  const KEY = "hypermosaic-job-panel";
  const STATES = {
    "not started": "Not started",
    running: "Running",
    silent: "Stopped without a word",
    interrupted: "Interrupted",
    failed: "Failed",
    finished: "Finished",
  };
  const GROUPS = { denoise: "Denoise", decode: "Decode", pyramid: "Zoom levels" };

  let shown = { tilesVersion: page.served.tilesVersion, previewVersion: null, state: null, quarter: null };
  let failures = 0;
  let blocks = null;
  let chosen = { row: 0, column: 0 }; // the block that Enter goes to, while the map has the focus

  // --- words ------------------------------------------------------------------------------------------------------------

  const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: value < 100 ? 2 : 3 });

  function duration(seconds) {
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
    return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
  }

  const percent = (share) => `${Math.floor(100 * share)} %`;

  function headline(status) {
    const name = STATES[status.state] ?? status.state;
    if (status.state === "finished") return `${name} in ${duration(status.seconds)}`;
    if (status.state === "running" && !status.share) return "Starting";
    return status.state === "not started" ? name : `${name}, ${percent(status.share)}`;
  }

  function aside(status) {
    if (status.state !== "running") return "";
    return status.secondsLeft === null ? "" : `${duration(status.secondsLeft)} left`;
  }

  // --- the panel's parts, built once ------------------------------------------------------------------------------------

  function part(name, attributes = {}, ...inside) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  }

  const title = part("span", { id: "job-title" });
  const left = part("span", { id: "job-left" });
  const head = part("button", { type: "button", id: "job-head", "aria-controls": "job-body", title: "Show or hide details" },
    part("i", { id: "job-dot", "aria-hidden": "true" }), title, left);
  const whole = part("progress", { id: "job-whole", max: "1", value: "0", "aria-label": "Whole job" });
  const map = part("canvas", { id: "job-map", role: "application", tabindex: "0" });
  const stages = part("dl", { id: "job-stages" });
  const facts = part("p", { id: "job-facts" });
  const error = part("p", { id: "job-error", hidden: "" });
  const command = part("code", { tabindex: "0" });
  const copy = part("button", { type: "button" }, "Copy");
  const next = part("div", { id: "job-next", hidden: "" }, part("p", {}, "Go on with"), command, copy);
  const body = part("div", { id: "job-body" }, map, stages, facts, error, next);
  const away = part("p", { id: "job-away", hidden: "" });
  const rows = new Map(); // name of a group -> its bar and its numbers

  copy.addEventListener("click", () => page.copy(command.textContent, "Command"));

  // --- open and closed --------------------------------------------------------------------------------------------------

  function remembered() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // no storage on this page
    }
  }

  function open(wanted, remember) {
    head.setAttribute("aria-expanded", String(wanted));
    body.hidden = !wanted;
    if (wanted) draw();
    if (!remember) return;
    try {
      localStorage.setItem(KEY, wanted ? "open" : "closed");
    } catch {}
  }

  const isOpen = () => head.getAttribute("aria-expanded") === "true";
  head.addEventListener("click", () => open(!isOpen(), true));

  // --- the map of blocks ------------------------------------------------------------------------------------------------

  function draw() {
    map.hidden = !blocks;
    if (!blocks || body.hidden) return;
    const { rows: down, columns: across, block, heightLatents, widthLatents, stages: most, done } = blocks;
    map.style.aspectRatio = `${widthLatents} / ${heightLatents}`;
    const room = map.getBoundingClientRect();
    if (!room.width) return;
    const sharp = window.devicePixelRatio || 1;
    map.width = Math.round(room.width * sharp);
    map.height = Math.round(room.height * sharp);
    const context = map.getContext("2d");
    const style = getComputedStyle(map);
    const scale = map.width / widthLatents;
    const gap = block * scale > 6 ? Math.max(1, Math.round(sharp)) : 0;
    context.fillStyle = style.color;
    for (let row = 0; row < down; row += 1) {
      for (let column = 0; column < across; column += 1) {
        const passed = done[row * across + column] / most;
        const [x, y] = [Math.round(column * block * scale), Math.round(row * block * scale)];
        const right = Math.round(Math.min(widthLatents, (column + 1) * block) * scale);
        const bottom = Math.round(Math.min(heightLatents, (row + 1) * block) * scale);
        context.globalAlpha = 0.1 + 0.9 * passed ** 1.5;
        context.fillRect(x, y, Math.max(1, right - x - gap), Math.max(1, bottom - y - gap));
      }
    }
    if (document.activeElement === map) outline(context, scale, sharp, style);
    const finished = done.filter((count) => count === most).length;
    const words = `${finished.toLocaleString("en")} of ${done.length.toLocaleString("en")} blocks have passed all ${most} stages`;
    map.setAttribute("aria-label", `Map of the picture: ${words}. Arrow keys choose a block, Enter goes there.`);
    map.title = `${words}. Click to go there.`;
  }

  // The chosen block, seen on any colour.
  function outline(context, scale, sharp, style) {
    const [side, x, y] = [blocks.block, chosen.column * blocks.block, chosen.row * blocks.block];
    const [right, bottom] = [Math.min(blocks.widthLatents, x + side), Math.min(blocks.heightLatents, y + side)];
    context.globalAlpha = 1;
    for (const [colour, width] of [[style.backgroundColor, 5], [getComputedStyle(panel).color, 2]]) {
      Object.assign(context, { strokeStyle: colour, lineWidth: width * sharp });
      context.strokeRect(x * scale, y * scale, (right - x) * scale, (bottom - y) * scale);
    }
  }

  // Shares of the picture's sides.
  function goTo(across, down) {
    page.go({ x: across * page.picture.width, y: down * page.picture.height, zoom: page.where().zoom });
  }

  map.addEventListener("click", (event) => {
    const room = map.getBoundingClientRect();
    goTo((event.clientX - room.left) / room.width, (event.clientY - room.top) / room.height);
  });

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  map.addEventListener("keydown", (event) => {
    if (!blocks || event.ctrlKey || event.metaKey || event.altKey) return;
    const [step, goes] = [STEPS[event.key], ["Enter", " "].includes(event.key)];
    if (!step && !goes) return;
    event.preventDefault();
    event.stopPropagation(); // the arrows are not the picture's here
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    if (step) {
      const [row, column] = [chosen.row + step[0], chosen.column + step[1]];
      chosen = { row: within(row, blocks.rows), column: within(column, blocks.columns) };
      draw();
      const passed = blocks.done[chosen.row * blocks.columns + chosen.column];
      page.say(`Row ${chosen.row + 1}, column ${chosen.column + 1}: ${passed} of ${blocks.stages} stages`);
    } else {
      const { row, column } = chosen;
      goTo((column + 0.5) * blocks.block / blocks.widthLatents, (row + 0.5) * blocks.block / blocks.heightLatents);
    }
  });
  for (const change of ["focus", "blur"]) map.addEventListener(change, draw);
  new ResizeObserver(draw).observe(panel);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });

  // --- what a status shows ----------------------------------------------------------------------------------------------

  const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  function showGroup({ name, done, total }) {
    if (!rows.has(name)) {
      const bar = part("progress", { "aria-label": GROUPS[name] ?? name });
      const numbers = part("dd", {}, "");
      stages.append(part("div", {}, part("dt", {}, GROUPS[name] ?? name), part("dd", {}, bar), numbers));
      rows.set(name, { bar, numbers });
    }
    const row = rows.get(name);
    row.bar.max = Math.max(1, total);
    row.bar.value = done;
    setText(row.numbers, `${done.toLocaleString("en")} / ${total.toLocaleString("en")}`);
  }

  function factsOf(status) {
    const parts = [];
    if (status.patchesPerSecond !== null) parts.push(`${number(status.patchesPerSecond)} patches/s`);
    if (status.workers) parts.push(`${status.workers} ${status.workers === 1 ? "worker" : "workers"}`);
    if (status.state !== "finished") parts.push(`${duration(status.seconds)} so far`);
    if (status.retried) parts.push(`${status.retried} ${status.retried === 1 ? "task" : "tasks"} run again`);
    return parts.join(" \u00b7 ");
  }

  function show(status) {
    panel.dataset.state = status.state;
    setText(title, headline(status));
    setText(left, aside(status));
    whole.value = status.share;
    for (const group of status.groups) showGroup(group);
    setText(facts, factsOf(status));
    error.hidden = !status.error;
    setText(error, status.error ?? "");
    next.hidden = !status.next;
    setText(command, status.next ?? "");
    blocks = status.blocks;
    draw();
    announce(status);
    showPicture(status);
  }

  // For those who listen: the state when it changes, and every quarter; not every two seconds.
  function announce(status) {
    const quarter = Math.floor(4 * status.share);
    const changed = shown.state !== status.state || (status.state === "running" && shown.quarter !== quarter);
    if (changed && shown.state !== null) page.say([headline(status), status.error].filter(Boolean).join(". "));
    shown = { ...shown, state: status.state, quarter };
  }

  // --- what it does to the picture --------------------------------------------------------------------------------------

  function showPicture(status) {
    const finished = status.state === "finished";
    if (status.tilesVersion > shown.tilesVersion || (finished && shown.drawing)) page.reloadTiles();
    if (finished) {
      if (shown.previewVersion !== null) whenLoaded(page.hidePreview);
      shown = { ...shown, previewVersion: null };
    } else if (status.previewVersion !== null && status.previewVersion !== shown.previewVersion) {
      page.showPreview(`preview.png?v=${status.previewVersion}`);
      shown = { ...shown, previewVersion: status.previewVersion };
    }
    shown = { ...shown, tilesVersion: status.tilesVersion, drawing: !finished };
  }

  // The preview stays under the tiles until those in view are there.
  function whenLoaded(then) {
    if (!page.image || page.image.getFullyLoaded()) {
      then();
      return;
    }
    page.image.addOnceHandler("fully-loaded-change", then);
  }

  // --- asking again -----------------------------------------------------------------------------------------------------

  async function ask() {
    let status = null;
    try {
      const answer = await fetch("api/status.json", { cache: "no-cache" });
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      status = await answer.json();
      failures = 0;
    } catch {
      failures += 1;
    }
    if (status) {
      page.served = status;
      show(status);
    }
    plan(page.served.state);
  }

  function plan(state) {
    away.hidden = failures < 2;
    if (failures === 2) page.say("The server does not answer.");
    if (state === "finished" && !failures) return;
    const wait = Math.min(LONGEST, (state === "running" ? WHILE_RUNNING : WHILE_STOPPED) * 2 ** failures);
    if (failures) setText(away, `The server does not answer; asked again in ${duration(wait / 1000)}. The job goes on without it.`);
    setTimeout(() => {
      if (!document.hidden) ask();
      else document.addEventListener("visibilitychange", ask, { once: true }); // nobody looks
    }, wait);
  }

  // Back to all pictures, where this is one of several.
  if (page.served.gallery) {
    document.querySelector("header").prepend(part("a", { id: "all", href: page.served.gallery }, "\u2039 All pictures"));
  }

  // A picture that was finished before anyone looked needs no panel.
  if (page.served.state === "finished") return;
  panel.append(head, whole, away, body);
  panel.hidden = false;
  const narrow = matchMedia("(max-width: 640px), (max-height: 480px)").matches;
  open(remembered() ? remembered() === "open" : !narrow, false);
  show(page.served);
  plan(page.served.state);
})();
