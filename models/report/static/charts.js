// Charts as inline SVG. The legend shows the values at the pointer. The arrow keys move along the curves.
"use strict";

(() => {
  const NAMESPACE = "http://www.w3.org/2000/svg";
  const HEIGHT = 230;
  const MARGIN = { left: 52, right: 22, top: 10, bottom: 34 };
  const LOG_FROM = 8; // Least ratio of largest to smallest value for a logarithmic scale.

  function node(parent, tag, attributes, text) {
    const element = document.createElementNS(NAMESPACE, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  // Return round numbers in [low, high], about `count` of them.
  function linearTicks(low, high, count) {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) ticks.push(k * step);
    return ticks;
  }

  // Return 1, 2 and 5 times powers of ten in [low, high]. If there are many, return the powers alone.
  function logTicks(low, high) {
    const ticks = [];
    const factors = high / low > 1000 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) {
      ticks.push(...factors.map((factor) => factor * 10 ** power));
    }
    return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  }

  function scaleOf(values, from, to, wantsLog) {
    let low = Math.min(...values);
    let high = Math.max(...values);
    const log = wantsLog && low > 0 && high / low > LOG_FROM;
    if (low === high) [low, high] = [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
    const ticks = log ? logTicks(low, high) : linearTicks(low, high, 5);
    const [a, b] = log ? [Math.log(low), Math.log(high)] : [low, high];
    const place = (value) => from + (((log ? Math.log(value) : value) - a) / (b - a)) * (to - from);
    return { place, ticks };
  }

  function label(value) {
    const short = Number(value.toPrecision(6));
    const size = Math.abs(short);
    return size >= 1e6 || (size > 0 && size < 1e-3) ? short.toExponential().replace("e+", "e") : short.toLocaleString("en");
  }

  // Return the index of the x nearest to a value. xs is sorted.
  function nearest(xs, value) {
    let best = 0;
    for (let k = 1; k < xs.length; k += 1) if (Math.abs(xs[k] - value) < Math.abs(xs[best] - value)) best = k;
    return best;
  }

  function paint(figure, svg, chart, width) {
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("height", HEIGHT);
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    const x = scaleOf(chart.series.flatMap((curve) => curve.x), MARGIN.left, right, false);
    const y = scaleOf(chart.series.flatMap((curve) => curve.y), bottom, MARGIN.top, chart.log);
    for (const tick of y.ticks) {
      node(svg, "line", { class: "grid", x1: MARGIN.left, x2: right, y1: y.place(tick), y2: y.place(tick) });
      node(svg, "text", { class: "tick", x: MARGIN.left - 6, y: y.place(tick) + 4, "text-anchor": "end" }, label(tick));
    }
    const every = Math.ceil(x.ticks.length / Math.max(2, Math.floor(width / 70)));
    x.ticks.forEach((tick, k) => {
      if (k % every === 0) node(svg, "text", { class: "tick", x: x.place(tick), y: bottom + 16, "text-anchor": "middle" }, label(tick));
    });
    node(svg, "text", { class: "axis", x: right, y: HEIGHT - 4, "text-anchor": "end" }, chart.x);
    chart.series.forEach((curve) => {
      const points = curve.x.map((at, k) => `${x.place(at).toFixed(1)},${y.place(curve.y[k]).toFixed(1)}`);
      node(svg, "polyline", { class: `curve ${curve.style} ${curve.colour}`, points: points.join(" ") });
      if (points.length === 1) {
        node(svg, "circle", { class: `dot ${curve.colour}`, cx: x.place(curve.x[0]), cy: y.place(curve.y[0]), r: 3 });
      }
    });
    const cursor = node(svg, "line", { class: "cursor", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
    return { x, y, cursor };
  }

  // Append a chart to `parent`. chart: as in curves.py. colour of a curve: c1, c2, ...; by default in turn.
  report.drawChart = (parent, chart) => {
    chart = { ...chart, series: chart.series.map((curve, k) => ({ colour: `c${(chart.series.length - 1 - k) % 4 + 1}`, ...curve })) };
    const figure = report.element("figure", { class: "chart", "data-key": chart.key });
    const svg = node(figure, "svg", { role: "img", tabindex: "0", "aria-label": `${chart.title}: ${chart.y} over ${chart.x}` });
    const position = report.element("span", { class: "position" });
    const legend = report.element("figcaption", {}, report.element("strong", {}, chart.title), position);
    const outputs = chart.series.map((curve) => {
      const output = report.element("output", {});
      const name = curve.name.toLowerCase() === chart.title.toLowerCase() ? "" : `${curve.name} `;
      legend.append(report.element("span", { class: `key ${curve.style} ${curve.colour}` }, name, output));
      return output;
    });
    figure.prepend(legend);
    parent.append(figure);
    const xs = [...new Set(chart.series.flatMap((curve) => curve.x))].sort((one, other) => one - other);
    let drawn = null;
    let shown = null;

    // Show the values at xs[index], or the last ones for null.
    function show(index) {
      shown = index;
      const at = xs[index === null ? xs.length - 1 : index];
      drawn.cursor.setAttribute("visibility", index === null ? "hidden" : "visible");
      drawn.cursor.setAttribute("x1", drawn.x.place(at));
      drawn.cursor.setAttribute("x2", drawn.x.place(at));
      position.textContent = `at ${chart.x.split(" (")[0]} ${label(at)}`;
      chart.series.forEach((curve, k) => { outputs[k].textContent = report.figure(curve.y[nearest(curve.x, at)]); });
    }

    function follow(event) {
      const box = svg.getBoundingClientRect();
      const pointer = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      show(nearest(xs.map(drawn.x.place), pointer));
    }

    function draw() {
      drawn = paint(figure, svg, chart, Math.max(260, Math.round(svg.getBoundingClientRect().width || 480)));
      show(shown);
    }

    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", () => show(null));
    svg.addEventListener("blur", () => show(null));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      show(Math.max(0, Math.min(xs.length - 1, (shown === null ? xs.length - 1 : shown) + step)));
    });
    draw();
    let width = svg.clientWidth;
    new ResizeObserver(() => {
      if (Math.abs(svg.clientWidth - width) < 2) return;
      width = svg.clientWidth;
      draw();
    }).observe(figure);
  };
})();
