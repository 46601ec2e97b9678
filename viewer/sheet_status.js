// How far a batch is, and which of its requests have no picture. Asks again every two seconds while the batch runs.
//
// Knows api/status.json, missing.json and what sheet.js offers (window.hypermosaicSheet).
"use strict";

(() => {
  const { byId, part, number, setText, reload } = window.hypermosaicSheet;
  const [WHILE_RUNNING, ELSE, LONGEST] = [2_000, 10_000, 60_000]; // milliseconds between two looks at the batch
  const STATES = { "not started": "Not started", running: "Running", silent: "Stopped without a word",
    interrupted: "Interrupted", failed: "Failed", finished: "Finished" };

  let status = null;

  function duration(seconds) {
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
    return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
  }

  // --- what is missing ----------------------------------------------------------------------------------------------

  let told = 0; // rows of the table
  let asking = null; // for the next of them: once at a time, or they would be there twice

  function moreMissing() {
    asking ??= askMissing().finally(() => { asking = null; });
  }

  async function askMissing() {
    const answer = await fetch(`missing.json?from=${told}&count=100`, { cache: "no-cache" });
    if (!answer.ok) return;
    const { rows: lost, total } = await answer.json();
    byId("missing-rows").append(...lost.map((row) => part("tr", {},
      ...["index", "id", "kind", "error"].map((name) => part("td", {}, String(row[name] ?? ""))))));
    told += lost.length;
    byId("missing-more").hidden = told >= total || !lost.length;
  }

  function showMissing({ failed, filtered }) {
    const total = failed + filtered;
    byId("missing").hidden = !total;
    const parts = [failed && `${number(failed)} failed`, filtered && `${number(filtered)} left out by the filter`];
    setText(byId("missing-count"), `Requests without a picture: ${parts.filter(Boolean).join(", ")}`);
    if (byId("missing").open && told < total) moreMissing();
  }

  byId("missing").addEventListener("toggle", () => { if (byId("missing").open && !told) moreMissing(); });
  byId("missing-more").addEventListener("click", moreMissing);

  // --- how far it is ------------------------------------------------------------------------------------------------

  function showStatus() {
    byId("job").dataset.state = status.state;
    setText(byId("state"), STATES[status.state] ?? status.state);
    const done = status.requests - status.left;
    setText(byId("counts"), status.left ? `${number(done)} of ${number(status.requests)} requests`
      : `${number(status.drawn)} pictures in ${number(status.shards)} ${status.shards === 1 ? "shard" : "shards"}`);
    byId("done").value = status.share;
    byId("done").hidden = status.state === "finished";
    const parts = [
      status.imagesPerSecond && `${status.imagesPerSecond.toPrecision(3)} images/s`,
      status.workers && `${status.workers} ${status.workers === 1 ? "worker" : "workers"}`,
      `${number(status.shardsDone)} of ${number(status.shards)} shards`,
      status.giant !== null && `large picture ${Math.floor(100 * status.giant)} %`,
      status.seconds && `${duration(status.seconds)}${status.state === "running" ? " so far" : ""}`,
      status.secondsLeft !== null && `about ${duration(status.secondsLeft)} left`,
      status.retried && `${status.retried} tasks run again`,
    ];
    setText(byId("pace"), parts.filter(Boolean).join(" \u00b7 "));
    byId("error").hidden = !status.error;
    setText(byId("error"), status.error ?? "");
    showMissing(status);
  }

  let failures = 0;

  async function look() {
    const seen = status && [status.drawn, status.shardsDone].join();
    try {
      const answer = await fetch("api/status.json", { cache: "no-cache" });
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      status = await answer.json();
      failures = 0;
      showStatus();
      if (seen !== null && seen !== [status.drawn, status.shardsDone].join()) reload();
    } catch {
      failures += 1;
    }
    byId("away").hidden = failures < 2;
    const wait = status?.state === "running" ? WHILE_RUNNING : ELSE;
    setTimeout(following, Math.min(LONGEST, wait * 2 ** failures));
  }

  // Nobody looks at a hidden page; it is up to date again when it is shown.
  function following() {
    if (!document.hidden) look();
    else document.addEventListener("visibilitychange", look, { once: true });
  }

  look();
})();
