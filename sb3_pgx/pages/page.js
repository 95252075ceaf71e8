"use strict";
// Draws the charts, follows the reader's choice of light or dark, prepares printing, and sorts tables.
(() => {
  const root = document.documentElement;
  const plots = [...document.querySelectorAll(".plot")];
  const dark = matchMedia("(prefers-color-scheme: dark)"), touch = matchMedia("(pointer: coarse)");

  // "var(--ink)" is replaced by the colour that the style sheet gives it now; "var(--c0) 0.2" has an opacity, too.
  const colored = (value, style) => {
    if (typeof value === "string" && value.startsWith("var(")) {
      const [, name, opacity] = value.match(/^var\((--[\w-]+)\)\s*([\d.]*)$/);
      const color = style.getPropertyValue(name).trim();
      return opacity ? color + Math.round(255 * opacity).toString(16).padStart(2, "0") : color;
    }
    if (Array.isArray(value)) return value.map((item) => colored(item, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, colored(item, style)]));
    return value;
  };

  const draw = () => {
    const style = getComputedStyle(root), printing = root.classList.contains("print");
    return Promise.all(plots.map((plot) => {
      const figure = colored(JSON.parse(plot.nextElementSibling.textContent), style);
      const layout = { ...figure.layout, autosize: true, uirevision: "kept" };
      if (touch.matches) layout.dragmode = false;  // a finger scrolls the page
      if (printing) layout.width = Math.min(plot.clientWidth, 640);
      return Plotly.react(plot, figure.data, layout, { responsive: true, displayModeBar: false });
    }));
  };

  const key = (cell) => (cell.dataset.value === undefined ? cell.textContent : parseFloat(cell.dataset.value));
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  const missing = (value) => value === "" || value === "–" || Number.isNaN(value);
  const sort = (header) => {
    const row = header.parentElement, body = header.closest("table").tBodies[0], column = header.cellIndex;
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of row.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...body.rows].map((item) => [key(item.cells[column]), item]);
    rows.sort(([a], [b]) => missing(a) - missing(b) || (missing(a) ? 0 : (descending ? -1 : 1) * compare(a, b)));
    body.append(...rows.map(([, item]) => item));
  };
  for (const header of document.querySelectorAll("th")) header.firstElementChild.addEventListener("click", () => sort(header));

  addEventListener("beforeprint", () => {
    root.classList.add("print");
    for (const folded of document.querySelectorAll("details")) folded.open = true;
    draw();
  });
  addEventListener("afterprint", () => { root.classList.remove("print"); draw(); });
  dark.addEventListener("change", draw);
  for (const folded of document.querySelectorAll("details"))
    folded.addEventListener("toggle", () => folded.querySelectorAll(".plot").forEach((plot) => Plotly.Plots.resize(plot)));
  draw().then(() => root.classList.add("drawn"));
})();
