// Two runs side by side: settings that differ, sheets, curves over each other, and measures with their intervals.
"use strict";

(() => {
  const form = document.getElementById("pair");
  const place = document.getElementById("comparison");
  const element = report.element;

  // Load the data of a run by a script tag, which works from file:// too. id: one of the options.
  function load(id) {
    if (report.runs.has(id)) return Promise.resolve(report.runs.get(id));
    return new Promise((resolve, reject) => {
      const script = element("script", { src: `runs/${encodeURIComponent(id)}/data.js` });
      script.addEventListener("load", () => resolve(report.runs.get(id)));
      script.addEventListener("error", () => reject(new Error(`The data of ${id} cannot be loaded.`)));
      document.head.append(script);
    });
  }

  function section(title, ...children) {
    return element("section", {}, element("h2", {}, title), ...children);
  }

  function letter(name) {
    return element("span", { class: `letter ${name}` }, name.toUpperCase());
  }

  function tableOf(headings, rows) {
    const head = element("tr", {}, ...headings.map((heading) => element("th", { scope: "col" }, heading)));
    const body = rows.map(([name, ...cells]) => element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((cell) => (
      cell instanceof Node ? cell : element("td", {}, cell)))));
    const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
    return element("div", { class: "scroll", tabindex: "0" }, table);
  }

  function lines(a, b) {
    const rows = [["a", a], ["b", b]].map(([name, run]) => element("li", {}, letter(name), " ",
      element("a", { href: `runs/${encodeURIComponent(run.id)}/index.html` }, run.name), ` (${run.state})`, element("p", { class: "quiet" }, run.line)));
    return element("ul", { class: "lines" }, ...rows);
  }

  function settings(a, b) {
    const names = [...new Set([...Object.keys(a.settings), ...Object.keys(b.settings)])];
    const value = (run, name) => (Object.hasOwn(run.settings, name) ? run.settings[name] : "not set");
    const rows = names.filter((name) => name !== "name" && value(a, name) !== value(b, name)).map((name) => [name, value(a, name), value(b, name)]);
    const same = `${names.length - rows.length} settings are equal.`;
    if (rows.length === 0) return section("Settings that differ", element("p", {}, `None: ${same}`));
    return section("Settings that differ", tableOf(["setting", letter("a"), letter("b")], rows), element("p", { class: "quiet" }, same));
  }

  // Return a sentence that says whether the images of two sheets were made from the same noise.
  function noise(a, b) {
    if (a.noise === null || b.noise === null) return "An autoencoder's sheet shows test images with their reconstructions, so the sheets have no noise in common.";
    if (!a.noise.shape || !b.noise.shape) return "It is unknown whether the noise is the same: a run has no checkpoint that stores the shape of its noise.";
    const names = { seed: "seed", shape: "shape", kind: "initial noise" };
    const different = Object.keys(names).filter((key) => a.noise[key] !== b.noise[key]);
    if (different.length === 0) return `The images come from the same noise: seed ${a.noise.seed}, shape ${a.noise.shape}. Images at the same place of the sheets can be compared one by one.`;
    return `The noise differs: ${different.map((key) => `${names[key]} ${a.noise[key]} and ${b.noise[key]}`).join(", ")}. Compare the sheets as a whole, not image by image.`;
  }

  function sheets(a, b) {
    const figures = [["a", a], ["b", b]].map(([name, run]) => element("figure", {},
      element("figcaption", {}, letter(name), ` ${run.name}`),
      run.sheet === null ? element("p", { class: "quiet" }, "This run has no sheet.") : element("img", {
        src: `runs/${encodeURIComponent(run.id)}/${encodeURIComponent(run.sheet.source)}`, width: run.sheet.width, height: run.sheet.height, alt: `Sheet of ${run.name}`,
      })));
    return section("Sheets", element("p", {}, noise(a, b)), element("div", { class: "pictures" }, ...figures));
  }

  function curves(a, b) {
    const place = element("div", { class: "charts" });
    const charts = a.charts.map((chart) => [chart, b.charts.find((other) => other.key === chart.key)]).filter(([, other]) => other !== undefined);
    const note = a.loss === b.loss && a.dataset === b.dataset ? "" : `The losses cannot be compared: ${a.loss || "unknown"} on ${a.dataset}, and ${b.loss || "unknown"} on ${b.dataset}.`;
    const draw = () => charts.forEach(([one, other]) => report.drawChart(place, {
      ...one,
      series: [[one, "A", "c1"], [other, "B", "c2"]].flatMap(([chart, name, colour]) => chart.series.map((curve) => ({
        ...curve, colour, name: chart.series.length === 1 ? name : `${name} ${curve.name}`,
      }))),
    }));
    const found = charts.length > 0 ? [place] : [element("p", {}, "The runs have no curve in common.")];
    return [section("Curves", ...(note ? [element("p", { class: "warning" }, note)] : []), ...found), draw];
  }

  // Return two evaluations with the same protocol if there are some, else the newest ones.
  function pairOf(a, b) {
    for (const one of a.evaluations) {
      for (const other of b.evaluations) if (differences(one.protocol, other.protocol).length === 0) return [one, other];
    }
    return [a.evaluations[0], b.evaluations[0]];
  }

  function differences(one, other) {
    return [...new Set([...Object.keys(one), ...Object.keys(other)])].filter((key) => one[key] !== other[key]);
  }

  // Return the better run, "a" or "b", if the two intervals do not overlap. Otherwise return "".
  function clearlyBetter(one, other) {
    if ([one.low, one.high, other.low, other.high].includes(null) || !["lower", "higher"].includes(one.better)) return "";
    if (one.high < other.low) return one.better === "lower" ? "a" : "b";
    if (other.high < one.low) return one.better === "lower" ? "b" : "a";
    return "";
  }

  // Return a section with the results of `evaluate --compare` for the two runs, or [] if there are none.
  function comparisons(a, b) {
    const found = a.comparisons.filter(({ runs }) => (runs[0] === a.name ? runs[1] === b.name : runs[0] === b.name && runs[1] === a.name));
    if (found.length === 0) return [];
    const tables = found.flatMap((row) => {
      const [first, second] = row.runs[0] === a.name ? ["a", "b"] : ["b", "a"];
      const rows = row.differences.map(({ label, one, other, difference, clear, better }) => [label,
        ...[one, other].map((text) => element("td", { class: "figure" }, text)),
        element("td", { class: clear ? "figure better" : "figure" }, clear ? `${difference} *` : difference), better]);
      const pairing = row.paired ? "paired by seed and label" : "not paired: seed, noise or labels differ or are unknown";
      return [
        element("p", {}, `${row.images} images each, ${pairing}. Evaluations: ${row.evaluations.join(" and ")}.`),
        tableOf(["measure", letter(first), letter(second), `${second.toUpperCase()} − ${first.toUpperCase()} [95 %]`, "better"], rows),
      ];
    });
    return [section("Differences", ...tables, element("p", { class: "quiet" }, "*: the interval does not contain 0."))];
  }

  function measures(a, b) {
    const missing = [a, b].filter((run) => run.evaluations.length === 0).map((run) => run.name);
    if (missing.length > 0) return section("Measures", element("p", {}, `Not evaluated yet: ${missing.join(" and ")}.`));
    const [one, other] = pairOf(a, b);
    const different = differences(one.protocol, other.protocol);
    const rows = one.measures.flatMap((measure) => {
      const second = other.measures.find((row) => row.name === measure.name);
      if (second === undefined) return [];
      const better = different.length === 0 ? clearlyBetter(measure, second) : "";
      const cell = (row, name) => element("td", { class: better === name ? "figure better" : "figure" }, row.shown);
      return [[measure.label, cell(measure, "a"), cell(second, "b"), element("td", { class: "figure" }, measure.floor), measure.better]];
    });
    const warning = `The protocols differ, so the values cannot be compared: ${different.map((key) => `${key} ${one.protocol[key] ?? "not set"} and ${other.protocol[key] ?? "not set"}`).join("; ")}.`;
    return section("Measures",
      element("ul", { class: "lines" }, element("li", {}, letter("a"), ` ${one.title}`), element("li", {}, letter("b"), ` ${other.title}`)),
      ...(different.length > 0 ? [element("p", { class: "warning" }, warning)] : []),
      tableOf(["measure [95 %]", letter("a"), letter("b"), "real images", "better"], rows),
      element("p", { class: "quiet" }, "Bold: the 95 % intervals do not overlap. The command make evaluate ARGS=\"--compare A B\" compares image by image and finds smaller differences."));
  }

  async function show() {
    const [a, b] = [form.a.value, form.b.value];
    if (!a || !b) {
      place.replaceChildren(element("p", { class: "quiet" }, "Choose two runs."));
      return;
    }
    try {
      const [one, other] = await Promise.all([load(a), load(b)]);
      if (form.a.value !== a || form.b.value !== b) return; // Another choice was made meanwhile.
      const [chart, draw] = curves(one, other);
      place.replaceChildren(lines(one, other), settings(one, other), sheets(one, other), measures(one, other), ...comparisons(one, other), chart);
      draw();
    } catch (error) {
      place.replaceChildren(element("p", { class: "warning" }, error.message));
    }
  }

  const asked = new URLSearchParams(location.search);
  for (const name of ["a", "b"]) {
    if ([...form[name].options].some((option) => option.value === asked.get(name))) form[name].value = asked.get(name);
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", show);
  show();
})();
