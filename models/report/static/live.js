// Reloads a served page when the server has a new version. Sliders, open parts and the scroll position are kept.
"use strict";

(() => {
  const EVERY_MILLISECONDS = 5000;
  if (location.protocol === "file:") return; // The page was opened as a file, without the server.
  const address = document.getElementById("comparison") === null ? location.pathname : "index.html";
  const key = `view of ${location.pathname}`;
  let known = null;

  function parts() {
    return [...document.querySelectorAll("details")];
  }

  const view = JSON.parse(sessionStorage.getItem(key) || "null");
  sessionStorage.removeItem(key);
  if (view !== null) {
    parts().forEach((part, k) => { if (k in view.open) part.open = view.open[k]; });
    for (const [id, value] of Object.entries(view.sliders)) {
      const slider = document.getElementById(id);
      if (slider !== null && value !== null) {
        slider.value = value;
        slider.dispatchEvent(new Event("input"));
      }
    }
    addEventListener("load", () => scrollTo(0, view.top));
  }

  async function look() {
    let text;
    try {
      const response = await fetch(address, { cache: "no-store" });
      if (!response.ok) return;
      text = await response.text();
    } catch {
      return; // The server has ended, or cannot be reached at the moment.
    }
    if (known !== null && known !== text) {
      // A slider at its end stays there, also when frames are added.
      const sliders = [...document.querySelectorAll("input[type=range]")].map((slider) => [slider.id, slider.value === slider.max ? null : slider.value]);
      sessionStorage.setItem(key, JSON.stringify({ top: scrollY, open: parts().map((part) => part.open), sliders: Object.fromEntries(sliders) }));
      location.reload();
    }
    known = text;
  }

  setInterval(look, EVERY_MILLISECONDS);
  look();
})();
