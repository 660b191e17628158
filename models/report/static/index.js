// The table of all runs. A click on a heading sorts it, the form filters it, and two ticked runs can be compared. The
// address holds the order and the filters, so that a reload and a bookmark keep them.
"use strict";

(() => {
  const table = document.getElementById("runs");
  if (table === null) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const form = document.getElementById("filters");
  const state = new URLSearchParams(location.hash.slice(1));
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  function remember(name, value) {
    if (value) state.set(name, value);
    else state.delete(name);
    history.replaceState(null, "", `#${state}`);
  }

  function filter() {
    const wanted = form.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const chosen = ["dataset", "kind", "state"].every((name) => !form[name].value || row.dataset[name] === form[name].value);
      row.hidden = !(chosen && wanted.every((word) => words.get(row).includes(word)));
      shown += !row.hidden;
    }
    form.shown.value = shown === rows.length ? "" : `${shown} of ${rows.length} runs`;
  }

  function sort(name, down) {
    const headings = [...table.tHead.rows[0].cells];
    const column = headings.findIndex((heading) => heading.dataset.sort === name);
    if (column < 0) return;
    headings.forEach((heading, k) => heading.setAttribute("aria-sort", k !== column ? "none" : down ? "descending" : "ascending"));
    const isFigure = headings[column].classList.contains("figure");
    const keys = new Map(rows.map((row) => {
      const value = row.cells[column].dataset.value;
      return [row, isFigure ? (value === "None" ? NaN : Number(value)) : value];
    }));
    const compare = (one, other) => (isFigure ? one - other : one.localeCompare(other, "en", { numeric: true }));
    const known = rows.filter((row) => !Number.isNaN(keys.get(row)));
    known.sort((one, other) => compare(keys.get(one), keys.get(other)) * (down ? -1 : 1));
    body.append(...known, ...rows.filter((row) => Number.isNaN(keys.get(row)))); // Unknown values are last in both orders.
  }

  for (const heading of table.tHead.querySelectorAll("[data-sort]")) {
    const button = report.element("button", { type: "button" }, ...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const first = heading.dataset.sort === "step" || heading.dataset.sort === "recognised" ? "descending" : "ascending";
      const now = heading.getAttribute("aria-sort");
      const order = now === "ascending" ? "descending" : now === "descending" ? "ascending" : first;
      remember("sort", heading.dataset.sort);
      remember("order", order);
      sort(heading.dataset.sort, order === "descending");
    });
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    remember(event.target.name, event.target.value);
    filter();
  });

  let chosen = [];
  const bar = document.getElementById("chosen");
  table.addEventListener("change", (event) => {
    if (event.target.name !== "compare") return;
    chosen = chosen.filter((box) => box !== event.target);
    if (event.target.checked) chosen.push(event.target);
    while (chosen.length > 2) chosen.shift().checked = false;
    bar.hidden = chosen.length === 0;
    const [a, b] = chosen.map((box) => box.value);
    bar.replaceChildren(
      chosen.length < 2
        ? "Tick a second run to compare the two."
        : report.element("a", { href: `compare.html?${new URLSearchParams({ a, b })}` }, "Compare the two chosen runs"),
    );
  });

  for (const name of ["words", "dataset", "kind", "state"]) form[name].value = state.get(name) || "";
  if (state.has("sort")) sort(state.get("sort"), state.get("order") === "descending");
  filter();
})();
