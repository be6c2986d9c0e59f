// A picture: its ground truth, then what each run found, with what it missed in red.
function comparison(picture, score) {
  const size = picture.size[0] / 25;
  const truth = picture.truth.map((o) => shape({ ...o, missed: false }, true, data.colors[o.label], size, picture.size[0], true));
  const panels = [figure(picture, "ground truth", `${truth.length} objects of ${picture.file}`, truth)];
  picture.runs.forEach((run, index) => {
    const found = run.found.filter((o) => o.score >= score);
    const missed = run.truth.filter((o) => o.missed).map((o) => shape(o, true, MISSED, size, picture.size[0]));
    const shapes = [...missed, ...found.map((o) => shape(o, false, data.colors[o.label], size, picture.size[0]))];
    panels.push(figure(picture, `${data.runs[index]}: AP ${percent(run.ap)}`, `${found.length} detections in ${picture.file}`, shapes));
  });
  return make("div", {}, make("h3", {}, `${picture.file}: ${picture.why}`), make("div", { class: "panels" }, ...panels));
}

function showPictures() {
  const score = Number(byId("score").value), why = byId("why").value;
  byId("score-value").textContent = score.toFixed(2);
  const shown = data.gallery.filter((picture) => !why || picture.why === why);
  byId("comparisons").replaceChildren(...shown.map((picture) => comparison(picture, score)));
  byId("count").textContent = `${shown.length} of ${data.gallery.length} pictures`;
}

byId("why").append(...[...new Set(data.gallery.map((picture) => picture.why))].sort().map((why) => make("option", {}, why)));
byId("score").value = data.score;
byId("filters").addEventListener("input", showPictures);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
showPictures();
