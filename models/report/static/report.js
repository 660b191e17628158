// Functions that all pages share. Text of a run is set as text, never as markup.
"use strict";

document.documentElement.classList.add("js"); // With this class, the style sheet shows the elements that need scripts.

const report = {
  runs: new Map(),

  // Called by the data.js of each run.
  add(run) {
    report.runs.set(run.id, run);
  },

  // Return a new element. Children are elements and texts.
  element(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  },

  // Return a number with four significant digits.
  figure(value) {
    if (value === null || value === undefined) return "–";
    const short = Number(value.toPrecision(4));
    return short !== 0 && Math.abs(short) < 1e-3 ? short.toExponential() : String(short);
  },
};
