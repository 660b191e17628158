// The page of a run: sliders through pictures, charts, and buttons that copy commands.
"use strict";

(() => {
  const PLAY_MILLISECONDS = 350;

  function addSlider(box) {
    const frames = [...box.querySelectorAll("figure")];
    if (frames.length < 2) return;
    box.classList.add("on");
    const range = report.element("input", {
      type: "range", min: 0, max: frames.length - 1, step: 1, value: frames.length - 1, "aria-label": box.dataset.name,
      id: `slider-${[...document.querySelectorAll(".slider")].indexOf(box)}`,
    });
    const output = report.element("output", {});
    const play = report.element("button", { type: "button" }, "Play");
    let timer = null;

    function show() {
      frames.forEach((frame, k) => frame.classList.toggle("current", k === Number(range.value)));
      const label = frames[Number(range.value)].dataset.label;
      output.textContent = label;
      range.setAttribute("aria-valuetext", label);
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    }

    function advance() {
      if (Number(range.value) === frames.length - 1) stop();
      else range.value = Number(range.value) + 1;
      show();
    }

    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (Number(range.value) === frames.length - 1) range.value = 0;
      show();
      play.textContent = "Pause";
      timer = setInterval(advance, PLAY_MILLISECONDS);
      return undefined;
    });
    range.addEventListener("input", () => { stop(); show(); });
    frames.forEach((frame) => frame.querySelectorAll("img").forEach((image) => { image.loading = "eager"; }));
    box.prepend(report.element("div", { class: "controls" }, play, range, output));
    show();
  }

  function addCopyButton(command) {
    const code = command.querySelector("code");
    const button = report.element("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // Without access to the clipboard, the user copies the selection.
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    command.append(button);
  }

  document.querySelectorAll(".slider").forEach(addSlider);
  document.querySelectorAll(".command").forEach(addCopyButton);
  addEventListener("DOMContentLoaded", () => { // data.js has run by then.
    const charts = document.getElementById("charts");
    for (const run of report.runs.values()) {
      if (charts !== null) run.charts.forEach((chart) => report.drawChart(charts, chart));
    }
  });
})();
