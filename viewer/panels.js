// Panels beside the picture: one button each, closed by their cross or Escape. Knows no panel's content.
"use strict";

(() => {
  const page = window.hypermosaic;
  if (!page) return;
  const narrow = matchMedia("(max-width: 640px), (max-height: 480px)");
  const panels = new Map();

  class Panel {
    constructor(element, button) {
      this.element = element;
      this.button = button;
      this.onOpen = () => {};
      this.onClose = () => {};
      button.setAttribute("aria-controls", element.id);
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => this.toggle());
      element.querySelector(".close").addEventListener("click", () => this.close());
    }

    get isOpen() {
      return !this.element.hidden;
    }

    // By a click on the picture the focus stays there; by a key or a button it goes to the panel.
    open({ focus = true } = {}) {
      if (!this.isOpen) {
        if (narrow.matches) for (const other of panels.values()) other.close();
        this.show(true);
        this.onOpen();
      }
      if (focus) this.element.focus({ preventScroll: true });
      const taller = this.element.offsetHeight > this.element.parentElement.clientHeight;
      this.element.scrollIntoView({ block: taller ? "start" : "nearest" });
    }

    close() {
      if (!this.isOpen) return;
      const hadFocus = this.element.contains(document.activeElement);
      this.show(false);
      this.onClose();
      if (hadFocus) this.button.focus();
    }

    toggle() {
      if (this.isOpen) this.close();
      else this.open();
    }

    show(visible) {
      this.element.hidden = !visible;
      this.button.setAttribute("aria-expanded", String(visible));
      const any = [...panels.values()].some((panel) => panel.isOpen);
      document.body.classList.toggle("panelled", any);
    }
  }

  for (const button of document.querySelectorAll("[data-panel]")) {
    panels.set(button.dataset.panel, new Panel(page.byId(button.dataset.panel), button));
  }

  // The panel with the focus, else the one opened last in the order of the page.
  function closeOne() {
    const open = [...panels.values()].filter((panel) => panel.isOpen);
    const focused = open.find((panel) => panel.element.contains(document.activeElement));
    const panel = focused ?? open.at(-1);
    panel?.close();
    return Boolean(panel);
  }

  page.panels = panels;
  page.closers.push(closeOne);
})();
