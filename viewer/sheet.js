// The page of a batch: a sheet of its pictures, a page at a time, which of them, and one of them.
//
// Knows rows.json and the addresses of pictures; offers sheet_status.js the means to make elements and to load again.
// All texts of a batch become text nodes.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const about = JSON.parse(byId("description").textContent);
  const COUNT = 60; // pictures of a page
  const MOST_PROMPTS = 200;
  const FACTS = { id: "Id", prompt: "Prompt", negative_prompt: "Without", seed: "Seed", size: "Size", seconds: "Seconds",
    num_inference_steps: "Steps", guidance_scale: "Guidance", score: "Score", fingerprint: "Fingerprint" };

  let view = { from: 0, text: "", prompt: "", class: "", show: "picture" };
  let rows = []; // of this page
  let after = null; // where the next page begins
  let opened = 0; // the row in the dialog
  let turn = 0; // of questions: answers to older ones are dropped
  const before = []; // where the pages before this one begin

  function part(name, attributes = {}, ...inside) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  }

  const number = (value) => value.toLocaleString("en");
  const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  // --- pictures and masks -------------------------------------------------------------------------------------------

  const isLarge = (row) => Math.max(Number(row.width) || 0, Number(row.height) || 0) > about.zoomed;

  function address(row, column, whole) {
    if (whole && !isLarge(row)) return `${column}s/${row.file}/${row.row}.png`;
    if (column === "mask") return `small/mask/${row.file}/${row.row}.png`;
    return `small/${whole ? "view" : "image"}/${row.file}/${row.row}.jpg`;
  }

  const picture = (row, column, whole) => part("img", { src: address(row, column, whole), class: column,
    alt: column === "image" ? String(row.prompt ?? "") : "", ...(whole ? {} : { loading: "lazy" }) });

  // The picture, the mask over it or beside it.
  function views(row, whole) {
    const show = row.mask ? view.show : "picture";
    const made = part("span", { class: `views show-${show}` }, part("span", { class: "view" }, picture(row, "image", whole)));
    if (show === "over") made.firstChild.append(picture(row, "mask", whole));
    if (show === "beside") made.append(part("span", { class: "view" }, picture(row, "mask", whole)));
    if (!whole && isLarge(row)) made.firstChild.classList.add("large");
    return made;
  }

  const sizeOf = (row) => `${row.width} \u00d7 ${row.height}`;

  function cell(row, index) {
    const small = `${row.id} \u00b7 ${sizeOf(row)}`;
    const words = part("span", { class: "words" }, part("b", {}, String(row.prompt ?? "")), part("small", {}, small));
    const button = part("button", { type: "button", tabindex: index ? "-1" : "0" }, views(row, false), words);
    button.addEventListener("click", () => open(index));
    return part("li", {}, button);
  }

  function draw() {
    const sheet = byId("sheet");
    const focused = [...sheet.children].findIndex((item) => item.contains(document.activeElement));
    sheet.dataset.show = view.show;
    sheet.replaceChildren(...rows.map(cell));
    if (focused >= 0) focusCell(focused);
    document.documentElement.style.setProperty("--opacity", byId("opacity").value / 100);
    byId("opacity-field").hidden = !about.legend.length || view.show !== "over";
    byId("legend").hidden = !about.legend.length || view.show === "picture";
  }

  // --- which pictures -----------------------------------------------------------------------------------------------

  const isFiltered = () => Boolean(view.text || view.prompt || view.class);

  async function ask(from, count) {
    const query = new URLSearchParams({ from, count });
    for (const name of ["text", "prompt", "class"]) if (view[name]) query.set(name, view[name]);
    const answer = await fetch(`rows.json?${query}`, { cache: "no-cache" });
    if (!answer.ok) throw new Error((await answer.text()) || `the server answered ${answer.status}`);
    return answer.json();
  }

  // Asks on where a search has stopped, until the page is full or there is no more.
  async function load() {
    turn += 1;
    const mine = turn;
    remember();
    const found = [];
    let [next, looked, total] = [view.from, 0, 0];
    try {
      do {
        const answer = await ask(next, COUNT - found.length);
        if (mine !== turn) return;
        found.push(...answer.rows);
        [next, looked, total] = [answer.next, looked + answer.looked, answer.total];
        if (isFiltered() && next !== null) say(`${number(found.length)} found, ${number(looked)} of ${number(total)} looked at`);
      } while (next !== null && found.length < COUNT);
    } catch (error) {
      if (mine === turn) say(error.message);
      return;
    }
    after = next;
    if (JSON.stringify(found) !== JSON.stringify(rows) || !byId("sheet").children.length) {
      rows = found;
      draw();
    }
    notePrompts();
    tell(total);
  }

  const say = (text) => setText(byId("said"), text);

  function tell(total) {
    const [first, last] = [rows[0], rows.at(-1)];
    if (!rows.length) say("");
    else if (isFiltered()) say(`${number(rows.length)} on this page, up to ${number(last.place + 1)} of ${number(total)}`);
    else say(`${number(first.place + 1)} to ${number(last.place + 1)} of ${number(total)}`);
    byId("empty").hidden = rows.length > 0;
    setText(byId("empty"), isFiltered() ? "No picture fits." : "No pictures yet. They appear here when they are drawn.");
    byId("first").disabled = byId("back").disabled = view.from === 0;
    byId("next").disabled = after === null;
    byId("from").value = view.from + 1;
  }

  function notePrompts() {
    const select = byId("prompt");
    const known = new Set([...select.options].map((option) => option.value));
    for (const { prompt } of rows) {
      if (!prompt || known.has(prompt) || known.size > MOST_PROMPTS || prompt.length > 200) continue;
      known.add(prompt);
      select.append(part("option", { value: prompt }, prompt));
    }
    if (view.prompt && !known.has(view.prompt)) select.append(part("option", { value: view.prompt }, view.prompt));
    select.value = view.prompt;
  }

  function change(wanted) {
    if (!("from" in wanted) && !("show" in wanted)) [wanted.from, before.length] = [0, 0];
    view = { ...view, ...wanted };
    load();
  }

  // The view in the address, so that it can be linked to and survives a reload.
  function remember() {
    const told = new URLSearchParams();
    for (const [name, value] of Object.entries(view)) if (value && value !== "picture") told.set(name, value);
    const hash = told.toString();
    if (hash !== location.hash.slice(1)) history.replaceState(history.state, "", hash ? `#${hash}` : location.pathname);
  }

  function recall() {
    const told = new URLSearchParams(location.hash.slice(1));
    const from = Number(told.get("from"));
    const show = told.get("show");
    const known = about.legend.length && ["over", "beside"].includes(show);
    view = {
      from: Number.isSafeInteger(from) && from > 0 ? Math.min(from, 1e9) : 0,
      text: (told.get("text") ?? "").slice(0, 200),
      prompt: (told.get("prompt") ?? "").slice(0, 200),
      class: about.legend[told.get("class")] && told.get("class") ? told.get("class") : "",
      show: known ? show : "picture",
    };
    byId("text").value = view.text;
    byId("class").value = view.class;
    for (const radio of document.querySelectorAll("[name=show]")) radio.checked = radio.value === view.show;
  }

  let typing = 0;
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ text: byId("text").value.trim() }), 250);
  });
  for (const name of ["prompt", "class"]) byId(name).addEventListener("change", () => change({ [name]: byId(name).value }));
  for (const radio of document.querySelectorAll("[name=show]")) radio.addEventListener("change", () => setShow(radio.value));
  byId("opacity").addEventListener("input", () => document.documentElement.style.setProperty("--opacity", byId("opacity").value / 100));

  function setShow(show) {
    view.show = show;
    for (const radio of document.querySelectorAll("[name=show]")) radio.checked = radio.value === show;
    remember();
    draw();
    if (byId("one").open) showOne();
  }

  function page(from) {
    view.from = from;
    load().then(() => scrollTo({ top: 0 }));
  }

  byId("first").addEventListener("click", () => { before.length = 0; page(0); });
  byId("back").addEventListener("click", () => page(before.pop() ?? Math.max(0, view.from - COUNT)));
  byId("next").addEventListener("click", () => { if (after !== null) { before.push(view.from); page(after); } });
  byId("from").addEventListener("change", () => { before.length = 0; page(Math.max(0, Math.trunc(byId("from").value) - 1 || 0)); });

  // --- one of them --------------------------------------------------------------------------------------------------

  function factsOf(row) {
    const told = { ...row, size: `${sizeOf(row)} pixels`, seconds: row.seconds === null ? null : row.seconds.toPrecision(3) };
    if (about.facts.unconditional) told.guidance_scale = "unconditional";
    return Object.entries(FACTS).filter(([name]) => told[name] !== null && told[name] !== undefined && told[name] !== "")
      .map(([name, label]) => [label, String(told[name])]);
  }

  function showOne() {
    const row = rows[opened];
    byId("one-pictures").replaceChildren(views(row, true));
    setText(byId("one-title"), String(row.prompt ?? row.id ?? ""));
    byId("one-facts").replaceChildren(...factsOf(row).flatMap(([name, value]) => [part("dt", {}, name), part("dd", {}, value)]));
    byId("one-zoom").hidden = !isLarge(row);
    byId("one-zoom").href = `pictures/${row.file}/${row.row}/`;
    byId("one-file").hidden = isLarge(row);
    byId("one-file").href = `images/${row.file}/${row.row}.png`;
    byId("one-same").disabled = !row.prompt || String(row.prompt).length > 200;
    byId("one-before").disabled = opened === 0;
    byId("one-after").disabled = opened === rows.length - 1;
  }

  // A picture that is open has its own place in the history, so that Back closes it and does not leave the sheet.
  // entered: the place where we are is a picture's; leaving: we have asked to go back from it, and are not there yet.
  let entered = false, leaving = false;
  function open(index) {
    if (leaving) return addEventListener("popstate", () => open(index), { once: true });
    history[entered ? "replaceState" : "pushState"]({ one: index }, "");
    show(index);
  }
  function show(index) {
    opened = index;
    entered = true;
    showOne();
    if (!byId("one").open) byId("one").showModal();
  }
  function left() {
    if (byId("one").open) return; // another was opened before this was told
    focusCell(opened);
    if (!entered) return;
    entered = false;
    leaving = true;
    history.back();
  }
  addEventListener("popstate", () => {
    leaving = false;
    const one = history.state?.one;
    if (rows[one]) return show(one); // Forward
    entered = false;
    byId("one").close();
    remember();
  });

  const step = (by) => { if (rows[opened + by]) open(opened + by); };
  byId("one-before").addEventListener("click", () => step(-1));
  byId("one-after").addEventListener("click", () => step(1));
  byId("one-close").addEventListener("click", () => byId("one").close());
  byId("one").addEventListener("close", left);
  byId("one").addEventListener("click", (event) => { if (event.target === byId("one")) byId("one").close(); });
  byId("one-same").addEventListener("click", () => {
    const { prompt } = rows[opened];
    byId("one").close();
    change({ prompt });
  });

  // --- keys ---------------------------------------------------------------------------------------------------------

  function focusCell(index) {
    const buttons = [...byId("sheet").querySelectorAll("button")];
    const wanted = Math.min(Math.max(index, 0), buttons.length - 1);
    buttons.forEach((button, at) => { button.tabIndex = at === wanted ? 0 : -1; });
    buttons[wanted]?.focus();
  }

  const across = () => getComputedStyle(byId("sheet")).gridTemplateColumns.split(" ").length;

  byId("sheet").addEventListener("keydown", (event) => {
    const at = [...byId("sheet").children].findIndex((item) => item.contains(event.target));
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across(), ArrowDown: across(), Home: -at, End: rows.length };
    if (!(event.key in moves) || at < 0) return;
    event.preventDefault();
    const wanted = at + moves[event.key];
    if (event.key === "End" || rows[wanted]) focusCell(wanted);
  });

  function nextShow() {
    if (!about.legend.length) return;
    const shows = ["picture", "over", "beside"];
    setShow(shows[(shows.indexOf(view.show) + 1) % shows.length]);
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const inside = byId("one").open;
    const keys = {
      m: nextShow,
      t: () => window.hypermosaicTheme.toggle(),
      ...(inside ? { ArrowLeft: () => step(-1), ArrowRight: () => step(1) } : { "/": () => byId("text").focus() }),
      ...(event.target === document.body && !inside ? { ArrowRight: () => focusCell(0) } : {}),
    };
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  byId("theme").addEventListener("click", () => window.hypermosaicTheme.toggle());

  // --- the page's own parts -----------------------------------------------------------------------------------------

  setText(byId("facts"), Object.entries(about.facts).filter(([name]) => name !== "unconditional").map(([, value]) => value).join(" \u00b7 "));
  if (about.gallery) {
    byId("all").href = about.gallery;
    byId("all").hidden = false;
  }
  for (const element of document.querySelectorAll(".masked")) element.hidden = !about.legend.length;
  about.legend.forEach(([name, colour], id) => {
    byId("class").append(part("option", { value: String(id) }, name));
    const chip = part("i", { "aria-hidden": "true" });
    chip.style.background = colour;
    byId("legend").append(part("li", {}, chip, name));
  });
  addEventListener("hashchange", () => { recall(); load(); });
  recall();
  load().then(() => { if (rows[history.state?.one]) open(history.state.one); });

  window.hypermosaicSheet = { byId, part, number, setText, reload: () => { if (!byId("one").open) load(); } };
})();
