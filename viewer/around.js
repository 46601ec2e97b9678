// Looking around inside a picture that closes on itself. Pannellum's renderer draws; what people touch is here.
//
// viewer/panorama.js holds the picture as a data: URL, the only kind that WebGL takes from a page opened from disk.
// Angles are degrees; the field of view is that of the screen's longer side.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const panorama = window.hypermosaicPanorama;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const stage = byId("around-view");
  const RADIANS = Math.PI / 180;
  const [CLOSEST, WIDEST] = [25, 120];
  const SOFTNESS = 90; // milliseconds in which most of a movement is done
  const TURN = 3; // degrees a second

  function explain(text) {
    byId("notice").textContent = text;
    byId("notice").hidden = false;
    for (const id of ["zoom-in", "zoom-out", "turn"]) byId(id).hidden = true;
  }

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // Of the longer side -> of the width, which the renderer takes.
  function acrossOf(view) {
    const aspect = stage.clientWidth / stage.clientHeight;
    return aspect >= 1 ? view : 2 * Math.atan(Math.tan(view * RADIANS / 2) * aspect) / RADIANS;
  }

  function look(renderer) {
    const target = { yaw: 0, pitch: 0, view: 95 };
    const shown = { ...target };
    let turning = false;
    let asked = 0;
    let before = 0;

    function aim(change) {
      Object.assign(target, change);
      target.view = clamp(target.view, CLOSEST, WIDEST);
      const room = Math.max(0, panorama.degrees / 2 - (panorama.degrees < 180 ? target.view / 4 : 0));
      target.pitch = clamp(target.pitch, -room, room);
      asked ||= requestAnimationFrame(step);
    }

    function step(now) {
      const passed = before ? Math.min(100, now - before) : 16;
      before = now;
      if (turning) target.yaw += TURN * passed / 1000;
      const share = calm.matches ? 1 : 1 - Math.exp(-passed / SOFTNESS);
      let rest = 0;
      for (const name of Object.keys(shown)) {
        shown[name] += share * (target[name] - shown[name]);
        rest = Math.max(rest, Math.abs(target[name] - shown[name]));
      }
      renderer.render(shown.pitch * RADIANS, shown.yaw * RADIANS, acrossOf(shown.view) * RADIANS);
      asked = turning || rest > 0.005 ? requestAnimationFrame(step) : 0;
      if (!asked) before = 0;
    }

    // --- pointers: one drags, two zoom ---------------------------------------------------------------------------

    const pointers = new Map();
    const spread = () => {
      const [a, b] = [...pointers.values()];
      return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    };

    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event);
    });
    stage.addEventListener("pointermove", (event) => {
      const last = pointers.get(event.pointerId);
      if (!last) return;
      const apart = pointers.size === 2 ? spread() : 0;
      pointers.set(event.pointerId, event);
      if (apart) {
        aim({ view: target.view * apart / Math.max(1, spread()) });
        return;
      }
      const degrees = acrossOf(target.view) / stage.clientWidth; // of one pixel
      aim({
        yaw: target.yaw - degrees * (event.clientX - last.clientX),
        pitch: target.pitch + degrees * (event.clientY - last.clientY),
      });
    });
    for (const end of ["pointerup", "pointercancel"]) {
      stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
    }
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      aim({ view: target.view * 1.0015 ** clamp(event.deltaY, -200, 200) });
    }, { passive: false });

    // --- keys and buttons ----------------------------------------------------------------------------------------

    function turn() {
      turning = !turning;
      byId("turn").setAttribute("aria-pressed", String(turning));
      aim({});
    }

    function move(across, up) { // an eighth of the screen
      const step = target.view / 8;
      aim({ yaw: target.yaw + across * step, pitch: target.pitch + up * step });
    }
    const [closer, wider] = [() => aim({ view: target.view * 0.8 }), () => aim({ view: target.view * 1.25 })];
    const keys = {
      "+": closer, "=": closer, "-": wider, _: wider, "0": () => aim({ yaw: 0, pitch: 0, view: 95 }), r: turn,
      arrowleft: () => move(-1, 0), arrowright: () => move(1, 0),
      arrowup: () => move(0, 1), arrowdown: () => move(0, -1),
    };
    document.addEventListener("keydown", (event) => {
      const action = keys[event.key.toLowerCase()];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      action();
    });
    byId("zoom-in").addEventListener("click", closer);
    byId("zoom-out").addEventListener("click", wider);
    byId("turn").addEventListener("click", turn);
    addEventListener("resize", () => {
      renderer.resize();
      aim({});
    });
    aim({});
    window.hypermosaicAround = { shown, target };
  }

  function open(image) {
    const renderer = window.libpannellum.renderer(stage);
    try {
      const [across, down] = [360 * RADIANS, panorama.degrees * RADIANS];
      const options = { backgroundColor: [0.06, 0.07, 0.08] };
      renderer.init(image, "equirectangular", false, across, down, 0, () => look(renderer), options);
    } catch {
      explain("Looking around needs WebGL with larger textures than this browser or this machine offers.");
    }
  }

  function hasWebGL() {
    return Boolean(document.createElement("canvas").getContext("webgl"));
  }

  function toggleFull() {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen?.().catch(() => {});
  }

  // The page that led here says so in the address: it is gone back to, and not opened once more on top of this one.
  function leave(event) {
    if (location.hash !== "#back" || history.length < 2) {
      if (!event) location.href = byId("back").href;
      return;
    }
    event?.preventDefault();
    history.back();
  }

  byId("back").addEventListener("click", leave);
  byId("full").hidden = !document.fullscreenEnabled;
  byId("full").addEventListener("click", toggleFull);
  document.addEventListener("fullscreenchange", () => {
    byId("full").setAttribute("aria-pressed", String(Boolean(document.fullscreenElement)));
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && !document.fullscreenElement) leave();
    if (event.key.toLowerCase() === "f") toggleFull();
  });

  if (!panorama) {
    explain("There is nothing to look around in yet: it is written when the picture is finished.");
  } else if (!hasWebGL()) {
    explain("Looking around needs WebGL, which this browser or this machine does not offer.");
  } else {
    const image = new Image();
    image.onload = () => open(image);
    image.onerror = () => explain("The picture to look around in is damaged; finish the job again to write it.");
    image.src = panorama.jpeg;
  }
})();
