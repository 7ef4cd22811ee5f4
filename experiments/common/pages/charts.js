"use strict";
// Draws each chart of the page's data, and sorts its tables. A chart is a list of series of points {x, y, tip}.

const NEAR = 25; // pixels between the mouse and the point that it shows

/** Return all points by x, and the columns that uPlot draws: x, then the y of each series, null at the others' points. */
function aligned(series) {
  const points = series.flatMap(({ points }, place) => points.map((point) => ({ ...point, place })));
  points.sort((one, other) => one.x - other.x);
  const columns = series.map((_, place) => points.map((point) => (point.place === place ? point.y : null)));
  return { points, columns: [points.map((point) => point.x), ...columns] };
}

/** Return uPlot's options of a series: a line, points, or both. */
function options({ label, colour, line, dash, size }) {
  const paths = { none: () => null, stepped: uPlot.paths.stepped({ align: 1 }), straight: uPlot.paths.linear() };
  const points = size ? { show: true, size, fill: colour, stroke: colour } : { show: false };
  return { label, stroke: colour, width: 2, dash, spanGaps: true, paths: paths[line || "none"], points };
}

/** Show the text of the point that is nearest to the mouse in a box beside it. */
function tips(points) {
  const box = document.createElement("div");
  box.className = "tip";
  box.hidden = true;
  const nearest = (chart) => {
    let [found, least] = [null, NEAR];
    for (const point of points) {
      if (!point.tip || !chart.series[point.place + 1].show) continue;
      const [x, y] = [chart.valToPos(point.x, "x"), chart.valToPos(point.y, "y")];
      const distance = Math.hypot(x - chart.cursor.left, y - chart.cursor.top);
      if (distance < least) [found, least] = [{ x, y, tip: point.tip }, distance];
    }
    return found;
  };
  const show = (chart) => {
    const found = chart.cursor.left < 0 ? null : nearest(chart);
    box.hidden = !found;
    if (!found) return;
    const [head, ...rest] = found.tip;
    const title = document.createElement("b");
    title.textContent = head;
    box.replaceChildren(title, rest.join(", "));
    const right = found.x > chart.over.clientWidth / 2;
    box.style.left = right ? "" : `${found.x + 12}px`;
    box.style.right = right ? `${chart.over.clientWidth - found.x + 12}px` : "";
    box.style.top = `${found.y + 12}px`;
  };
  return { hooks: { init: (chart) => chart.over.append(box), setCursor: show } };
}

/** Draw a chart into an element. */
function draw(element, { series, x, y, ticks }) {
  const { points, columns } = aligned(series);
  const width = () => element.clientWidth;
  // With its own ticks an axis is linear up to 10, and logarithmic above, which keeps broken models in the picture.
  const within = (chart) => ticks.filter((tick) => tick <= chart.scales.y.max);
  const chart = new uPlot(
    {
      width: width(),
      height: 380,
      scales: { x: { time: false }, y: ticks ? { distr: 4, asinh: 10, range: (_, least, most) => [0, 1.1 * most] } : {} },
      axes: [{ label: x }, ticks ? { label: y, splits: within, values: (_, at) => at, filter: (_, at) => at } : { label: y, size: 70 }],
      series: [{}, ...series.map(options)],
      legend: { live: false },
      cursor: { x: false, y: false, points: { show: false } },
      plugins: [tips(points)],
    },
    columns,
    element,
  );
  addEventListener("resize", () => chart.setSize({ width: width(), height: 380 }));
}

/** Sort the rows of a table by the column of a head that is clicked; numbers as numbers, empty cells last. */
function sortable(table) {
  const heads = [...table.querySelectorAll("th")];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (one, other) => {
    if (one === other) return 0;
    if (one === "" || other === "") return one === "" ? Infinity : -Infinity;
    return typeof one === typeof other ? (one < other ? -1 : 1) : typeof one === "number" ? -1 : 1;
  };
  heads.forEach((head, column) =>
    head.addEventListener("click", () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => {
        const order = compare(value(one, column), value(other, column));
        return Number.isFinite(order) ? sign * order : order;
      });
      table.tBodies[0].append(...rows);
    }),
  );
}

const data = JSON.parse(document.getElementById("data").textContent);
for (const [name, chart] of Object.entries(data)) draw(document.getElementById(name), chart);
document.querySelectorAll("table.sortable").forEach(sortable);
