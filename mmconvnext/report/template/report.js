const COLORS = ["var(--series)", "#c8501e", "#2a8f4e", "#9a4fc4", "#b08900", "#1f9aa8"];
let kind = Object.keys(data.kinds)[0];

const short = (value) => (value && Math.abs(value) < 0.01 ? value.toExponential(1) : String(Number(value.toPrecision(3))));

// A chart of lines: {name: [[x, y], ...]}, with the limits of its axes where they are fixed.
function chart(title, lines, xLabel, limits) {
  const all = Object.values(lines).flat();
  const range = (axis) => [Math.min(...all.map((p) => p[axis])), Math.max(...all.map((p) => p[axis]))];
  const [x0, x1] = limits ? [0, 1] : range(0);
  const [y0, y1] = limits ? [0, 1] : [Math.min(0, range(1)[0]), range(1)[1] || 1];
  const x = (value) => 50 + (440 * (value - x0)) / (x1 - x0 || 1);
  const y = (value) => 210 - (190 * (value - y0)) / (y1 - y0 || 1);
  const last = Object.entries(lines).map(([name, points]) => `${name} ends at ${short(points.at(-1)[1])}`);
  const svg = draw("svg", { viewBox: "0 0 520 260", class: "chart", role: "img", "aria-label": `${title}: ${last.join(", ")}` });
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const value = y0 + part * (y1 - y0);
    svg.append(draw("line", { x1: 50, x2: 490, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { x: 44, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    const place = x0 + part * (x1 - x0);
    svg.append(draw("text", { x: x(place), y: 228, "text-anchor": "middle" }, short(place)));
  }
  svg.append(draw("text", { x: 270, y: 248, "text-anchor": "middle" }, xLabel));
  Object.entries(lines).forEach(([name, points], index) => {
    const color = COLORS[index % COLORS.length];
    const line = draw("polyline", { points: points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" "), stroke: color });
    line.append(draw("title", {}, name));
    svg.append(line);
    if (points.length === 1) svg.append(draw("circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 4, fill: color }));
  });
  const legend = make("p", {}, ...Object.keys(lines).flatMap((name, index) => {
    const mark = make("span", { style: `color:${COLORS[index % COLORS.length]}`, "aria-hidden": "true" }, "■ ");
    return [make("span", { style: "white-space:nowrap" }, mark, name), "  "];
  }));
  return make("div", {}, make("h3", {}, title), svg, ...(Object.keys(lines).length > 1 ? [legend] : []));
}

// Fill a table: the first cell of a row is its heading. Cells are texts or elements.
function fill(id, head, rows) {
  const table = byId(id);
  table.tHead.replaceChildren(make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text))));
  table.tBodies[0].replaceChildren(...rows.map(([first, ...rest]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell)))));
}

const sorting = { column: "name", down: false };
function showClasses() {
  const rows = [...data.kinds[kind].classes];
  const columns = Object.keys(rows[0]);
  const order = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
  rows.sort((a, b) => order(a[sorting.column], b[sorting.column]) * (sorting.down ? -1 : 1));
  const head = columns.map((name) => {
    const button = make("button", { type: "button" }, name === sorting.column ? `${name} ${sorting.down ? "↓" : "↑"}` : name);
    button.onclick = () => {
      sorting.down = name === sorting.column ? !sorting.down : name !== "name";
      sorting.column = name;
      showClasses();
      byId("class-table").querySelectorAll("button")[columns.indexOf(name)].focus();
    };
    return button;
  });
  const plain = new Set(["name", "objects", "threshold"]);
  fill("class-table", head, rows.map((row) => columns.map((name) =>
    name === "threshold" ? row[name].toFixed(2) : plain.has(name) ? String(row[name]) : percent(row[name]))));
  const cells = byId("class-table").tHead.rows[0].cells;
  cells[columns.indexOf(sorting.column)].setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
}

function showPrecision() {
  const curve = data.kinds[kind].curves[byId("curve-class").value];
  if (!curve) return byId("precision-charts").replaceChildren();
  const steps = curve.precision.length - 1;
  const row = data.kinds[kind].classes.find((each) => each.name === curve.name);
  const charts = [chart("Precision by recall", { [curve.name]: curve.precision.map((p, i) => [i / steps, p]) }, "recall", true)];
  if (curve.f1.length) {
    const points = [...curve.f1].sort((a, b) => a[0] - b[0]);
    charts.push(chart(`F1 by score: best ${percent(row.F1)} at ${row.threshold.toFixed(2)}`, { [curve.name]: points }, "score", true));
  }
  byId("precision-charts").replaceChildren(...charts);
}

function showTables() {
  const numbers = data.kinds[kind];
  const most = Math.max(...numbers.errors.map((each) => each.ap), 0.001);
  fill("error-table", ["Kind", "Objects", "Points", "To scale"], numbers.errors.map((each) => [
    each.name, String(each.count), percent(each.ap),
    make("span", { class: "bar", style: `width:${(12 * Math.max(0, each.ap)) / most}em` }),
  ]));
  const sizes = [["small", "mAP_s"], ["medium", "mAP_m"], ["large", "mAP_l"]];
  fill("slice-table", ["Part", "Of it", "AP"], [
    ...sizes.map(([name, key]) => [`${name} objects`, "", percent(numbers.ap[key])]),
    ...numbers.slices.map((each) => [each.name, each.of, percent(each.AP)]),
  ]);
  fill("label-table", ["Picture", "What", "Score", "IoU"], numbers.label_errors.map((each) => {
    const shown = data.gallery.find((picture) => picture.id === each.image_id);
    const name = shown ? make("a", { href: `#picture-${each.image_id}` }, shown.file) : `image ${each.image_id}`;
    const what = each.gt_category ? `${each.gt_category} in the file, ${each.dt_category} found` : `${each.dt_category} is not in the file`;
    return [name, what, each.dt_score.toFixed(2), each.iou.toFixed(2)];
  }));
  byId("ece").textContent = numbers.calibration.ece.toFixed(3);
  const bins = numbers.calibration.bins.filter((bin) => bin.count);
  byId("calibration-chart").replaceChildren(chart("Matches by score", {
    detections: bins.map((bin) => [bin.avg_confidence, bin.avg_accuracy]), diagonal: [[0, 0], [1, 1]],
  }, "score", true));
}

function showConfusion() {
  const { names, matrix } = data.kinds[kind].confusion;
  const rows = matrix.map((row, i) => {
    const total = row.reduce((a, b) => a + b, 0) || 1;
    return [names[i], ...row.map((count, j) => {
      if (!count) return "";
      const button = make("button", { type: "button", "aria-label": `${count} of ${names[i]} as ${names[j]}` }, String(count));
      const color = i === j ? "var(--series)" : "var(--bad)";
      button.style.boxShadow = `inset 0 -${Math.max(2, Math.round((14 * count) / total))}px 0 ${color}`;
      button.onclick = () => showPair(names[i], names[j]);
      return button;
    })];
  });
  fill("confusion-table", ["is / found as", ...names], rows);
}

// Pictures with objects of one class of which the other was found; "nothing" is the background.
function showPair(there, found) {
  byId("why").value = "";
  byId("class").value = String(data.classes.indexOf(there === "nothing" ? found : there));
  byId("error").value = there === found ? "" : found === "nothing" ? "missed" : there === "nothing" ? "background" : "wrong class";
  if (there !== found && there !== "nothing" && found !== "nothing") byId("class").value = String(data.classes.indexOf(found));
  showGallery();
  byId("pictures").scrollIntoView();
  byId("class").focus({ preventScroll: true });
}

function visible(picture) {
  const label = byId("class").value, error = byId("error").value, score = Number(byId("score").value);
  const ours = (object) => label === "" || object.label === Number(label);
  const found = picture.found.filter((object) => object.score >= score && ours(object));
  const truth = picture.truth.filter(ours);
  const why = byId("why").value;
  const fits = (!why || picture.why === why) && (label === "" || found.length || truth.length) &&
    (!error || (error === "missed" ? truth.some((o) => o.missed) : found.some((o) => o.error === error)));
  return fits ? { found, truth } : null;
}

function card(picture, { found, truth }) {
  const size = picture.size[0] / 30; // of labels: the same in all cards, which are equally wide
  const shapes = [];
  if (byId("truth").checked) shapes.push(...truth.map((o) => shape(o, true, o.missed ? MISSED : "#ffffff", size, picture.size[0])));
  if (byId("found").checked) shapes.push(...found.map((o) => shape(o, false, data.colors[o.label], size, picture.size[0])));
  const title = `${picture.file}: AP ${percent(picture.ap)}, ${picture.why}`;
  const element = figure(picture, title, `${truth.length} objects, ${found.length} detections`, shapes);
  element.id = `picture-${picture.id}`;
  return element;
}

function showGallery() {
  byId("score-value").textContent = Number(byId("score").value).toFixed(2);
  const cards = data.gallery.map((picture) => [picture, visible(picture)]).filter(([, seen]) => seen);
  byId("gallery").replaceChildren(...cards.map(([picture, seen]) => card(picture, seen)));
  byId("count").textContent = `${cards.length} of ${data.gallery.length} pictures`;
}

function showKind() {
  const curves = data.kinds[kind].curves;
  byId("curve-class").replaceChildren(...curves.map((each, i) => make("option", { value: i }, each.name)));
  showClasses();
  showPrecision();
  showTables();
  showConfusion();
}

byId("class").append(...data.classes.map((name, i) => make("option", { value: i }, name)));
byId("score").value = data.score;
byId("filters").addEventListener("input", showGallery);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("curve-class").addEventListener("change", showPrecision);
byId("kinds").addEventListener("change", (event) => { kind = event.target.value; showKind(); });
const curves = Object.entries(data.curves);
document.querySelector("#curves .none").hidden = curves.length > 0;
document.querySelector("#curves .charts").append(...curves.map(([title, lines]) => chart(title, lines, "iteration")));
showKind();
showGallery();
