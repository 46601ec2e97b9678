// What made a place: its pixel, its class, and the facts of the picture. Opened by a click that is no drag, or key I.
"use strict";

(() => {
  const page = window.hypermosaic;
  if (!page) return;
  const { viewer, picture, byId } = page;
  const panel = page.panels.get("place");
  const about = picture.about ?? {};

  const NAMES = {
    prompt: "Prompt", negativePrompt: "Without", seed: "Seed", model: "Model", scheduler: "Scheduler", steps: "Steps",
    guidanceScale: "Guidance", method: "Method", topology: "Topology", fingerprint: "Fingerprint", version: "Made by",
  };
  const DOUBLE_CLICK = 260; // milliseconds
  let here = null; // {x, y} of the picture

  // "numInferenceSteps" -> "Num inference steps", for facts that the table does not know.
  function nameOf(key) {
    const words = key.replace(/([A-Z])/g, " $1").toLowerCase();
    return NAMES[key] ?? words.charAt(0).toUpperCase() + words.slice(1);
  }

  function facts() {
    const size = `${picture.width} \u00d7 ${picture.height} pixels`;
    const version = about.version && `hypermosaic ${about.version}`;
    const { prompt, ...others } = about;
    return Object.entries({ prompt: prompt ?? picture.title, size, ...others, ...(version && { version }) })
      .filter(([, value]) => value !== "" && value !== null)
      .map(([key, value]) => [nameOf(key), String(value)]);
  }

  function fillFacts() {
    for (const [name, value] of facts()) {
      const [row, term, text] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      [term.textContent, text.textContent] = [name, value];
      row.append(term, text);
      byId("facts").append(row);
    }
  }

  async function show(x, y) {
    here = { x: Math.floor(page.inPicture(x)), y: Math.floor(y) };
    byId("place-position").textContent = `x ${here.x.toLocaleString("en")}, y ${here.y.toLocaleString("en")}`;
    byId("place-class").hidden = true;
    movePin();
    if (!page.layers.hasClasses) return;
    const asked = here;
    const found = await page.layers.classAt(here.x, here.y);
    if (!found || asked !== here) return;
    byId("place-class").querySelector("b").textContent = found.name;
    byId("place-class").querySelector(".chip").style.background = found.colour;
    byId("place-class").hidden = false;
  }

  const inside = ({ x, y }) => y >= 0 && y < picture.height && (picture.wrapsX || (x >= 0 && x < picture.width));

  function movePin() {
    const pin = byId("pin");
    pin.hidden = !panel.isOpen || !here;
    if (pin.hidden) return;
    const at = page.toScreen(page.nearest(here.x + 0.5), here.y + 0.5);
    pin.style.transform = `translate(${at.x}px, ${at.y}px)`;
  }

  function showCentre() {
    const { x, y } = page.where(false);
    show(Math.min(Math.max(x, 0), picture.width - 1), Math.min(Math.max(y, 0), picture.height - 1));
  }

  let opening = 0;
  viewer.addHandler("canvas-click", (event) => {
    clearTimeout(opening);
    if (!event.quick || page.capturing) return;
    const place = page.toPicture(event.position.x, event.position.y);
    // A second click zooms; what made the place is for one.
    opening = setTimeout(() => {
      if (!inside(place)) return panel.close();
      panel.open({ focus: false });
      return show(place.x, place.y);
    }, DOUBLE_CLICK);
  });
  viewer.addHandler("canvas-double-click", () => clearTimeout(opening));
  for (const change of ["update-viewport", "resize"]) viewer.addHandler(change, movePin);

  viewer.canvas.append(byId("marks")); // over the picture and its layers, under the map
  panel.onOpen = showCentre;
  panel.onClose = movePin;
  byId("copy-facts").addEventListener("click", () => {
    const place = `Place: ${byId("place-position").textContent} ${byId("place-class").textContent}`.trim();
    page.copy([place, ...facts().map(([name, value]) => `${name}: ${value}`)].join("\n"), "Facts");
  });
  page.keys.i = () => panel.toggle();
  fillFacts();
})();
