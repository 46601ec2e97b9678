// The gallery follows its jobs: new cards come, lost ones go, changed ones change in place. Knows cards.html only.
//
// A card that changes keeps its link, so that focus stays, and its picture, so that nothing flashes.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const WHILE_RUNNING = 3_000; // milliseconds
  const ELSE = 10_000;
  const LONGEST = 60_000;
  let wait = ELSE;
  let failures = 0;

  byId("theme").addEventListener("click", () => window.hypermosaicTheme.toggle());

  // What one card shows, given as another card: only what differs is touched.
  function update(card, fresh) {
    card.dataset.state = fresh.dataset.state;
    if (card.firstElementChild.tagName !== fresh.firstElementChild.tagName) {
      card.replaceChildren(...fresh.childNodes);
      return;
    }
    const [words, freshWords] = [card.querySelector(".words"), fresh.querySelector(".words")];
    if (words.innerHTML !== freshWords.innerHTML) words.replaceWith(freshWords);
    const [picture, freshPicture] = [card.querySelector(".picture"), fresh.querySelector(".picture")];
    const [image, freshImage] = [picture.querySelector("img"), freshPicture.querySelector("img")];
    if (!image || !freshImage) {
      if (image || freshImage) picture.replaceWith(freshPicture);
    } else if (image.getAttribute("src") !== freshImage.getAttribute("src")) {
      image.hidden = false;
      image.src = freshImage.getAttribute("src");
    }
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(`<ul>${html}</ul>`, "text/html").querySelector("ul");
    const cards = byId("cards");
    const kept = new Set([...fresh.children].map((card) => card.id));
    for (const card of [...cards.children]) if (!kept.has(card.id)) card.remove();
    [...fresh.children].forEach((card, index) => {
      const present = byId(card.id);
      const at = cards.children[index] ?? null;
      if (present) update(present, card);
      if ((present ?? card) !== at) cards.insertBefore(present ?? card, at);
    });
  }

  function sum() {
    const cards = [...byId("cards").children];
    const states = cards.map((card) => card.dataset.state);
    const running = states.filter((state) => state === "running").length;
    const batches = cards.filter((card) => card.dataset.kind === "batch").length;
    const counted = (count, name, names) => (count ? [`${count} ${count === 1 ? name : names}`] : []);
    const kinds = counted(states.length - batches, "picture", "pictures").concat(counted(batches, "data set", "data sets"));
    const text = [...(kinds.length ? kinds : ["0 pictures"]), ...(running ? [`${running} running`] : [])].join(", ");
    if (byId("count").textContent !== text) byId("count").textContent = text;
    byId("empty").hidden = states.length > 0;
    wait = running ? WHILE_RUNNING : ELSE;
  }

  async function look() {
    try {
      const answer = await fetch("cards.html", { cache: "no-cache" });
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      show(await answer.text());
      failures = 0;
    } catch {
      failures += 1;
    }
    byId("away").hidden = failures < 2;
    sum();
    setTimeout(next, Math.min(LONGEST, wait * 2 ** failures));
  }

  // Nobody looks at a hidden page; it is up to date again when it is shown.
  function next() {
    if (!document.hidden) look();
    else document.addEventListener("visibilitychange", look, { once: true });
  }

  // A picture that cannot be had, gone or damaged as it may be, leaves its place empty.
  const leaveOut = (image) => { image.hidden = true; };
  byId("cards").addEventListener("error", (event) => { if (event.target.matches("img")) leaveOut(event.target); }, true);
  for (const image of byId("cards").querySelectorAll("img")) if (image.complete && !image.naturalWidth) leaveOut(image);

  sum();
  setTimeout(next, wait);
})();
