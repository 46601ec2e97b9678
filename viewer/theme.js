// Dark or light: what the system prefers, until someone chooses. Runs before anything is drawn.
"use strict";

window.hypermosaicTheme = (() => {
  const KEY = "hypermosaic-theme";
  const light = matchMedia("(prefers-color-scheme: light)");
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {} // no storage on this page; the choice then lasts as long as the page

  const current = () => (["dark", "light"].includes(chosen) ? chosen : light.matches ? "light" : "dark");
  const apply = () => { document.documentElement.dataset.theme = current(); };

  function toggle() {
    chosen = current() === "dark" ? "light" : "dark";
    apply();
    try {
      localStorage.setItem(KEY, chosen);
    } catch {}
    return chosen;
  }

  light.addEventListener("change", apply);
  apply();
  return { toggle };
})();
