// The page of a job that has not begun to write its picture: what it does meanwhile, and the picture when it comes.
//
// Knows api/status.json and that a picture's page holds a description; asks every two seconds, more slowly where the
// server does not answer, and not while nobody looks.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const WAIT = 2_000; // milliseconds
  const LONGEST = 60_000;
  const STOPPED = { silent: "stopped without a word", interrupted: "was interrupted", failed: "failed" };
  let failures = 0;

  const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const percent = (share) => `${Math.floor(100 * share)} %`;

  function duration(seconds) {
    const whole = Math.round(seconds);
    return whole < 60 ? `${whole} s` : `${Math.ceil(whole / 60)} min`;
  }

  // [heading, what is told] of a job whose class map is invented first.
  function mapWords({ state, share, secondsLeft }) {
    if (state === "finished") return ["The class map is there", "The picture begins in a moment."];
    if (STOPPED[state]) return ["The class map is not there", `It is invented first, and ${STOPPED[state]} at ${percent(share)}.`];
    const left = secondsLeft === null ? "" : `, about ${duration(secondsLeft)} left`;
    return ["The class map is invented first", `${percent(share)} of it${left}. The picture appears here when it begins.`];
  }

  function words({ map, state }) {
    if (map) return mapWords(map);
    const heading = "This job has not begun to write its picture";
    return [heading, state === "running" ? "It begins in a moment." : "The page appears here when it does."];
  }

  function show(status) {
    const [heading, told] = words(status);
    setText(byId("heading"), heading);
    setText(byId("told"), told);
    document.title = status.map ? "Class map" : "Not begun";
    byId("share").hidden = !status.map;
    byId("share").value = status.map?.share ?? 0;
    showError(status.error);
    byId("next").hidden = !status.next;
    setText(byId("next").querySelector("code"), status.next ?? "");
    byId("all").hidden = !status.gallery;
    if (status.gallery) byId("all").href = status.gallery;
  }

  function showError(text) {
    byId("error").hidden = !text;
    setText(byId("error"), text ?? "");
  }

  async function look() {
    const page = await fetch("./", { cache: "no-cache" });
    if ((await page.text()).includes("id=\"description\"")) location.reload();
    const answer = await fetch("api/status.json", { cache: "no-cache" });
    if (answer.ok) show(await answer.json());
    else showError((await answer.text()).trim() || `The server answered ${answer.status}.`);
  }

  async function ask() {
    try {
      await look();
      failures = 0;
    } catch {
      failures += 1;
      if (failures > 1) showError("The server does not answer. The job goes on without it.");
    }
    setTimeout(() => {
      if (!document.hidden) ask();
      else document.addEventListener("visibilitychange", ask, { once: true });
    }, Math.min(LONGEST, WAIT * 2 ** failures));
  }

  ask();
})();
