const LETTERS = 13; // height of labels, in pixels of the screen
let shown = null; // the picture and what was found on it
let request = null;

function say(text, isFault = false) {
  byId("status").textContent = isFault ? "" : text;
  byId("fault").textContent = isFault ? text : "";
}

async function look(file) {
  request?.abort(); // the newest picture is the one that is wanted
  request = new AbortController();
  if (!file) return say("That was no picture file.", true);
  const most = data.limits.bytes;
  if (file.size > most) return say(`${file.name} has more than ${Number((most / 2 ** 20).toPrecision(4))} MiB.`, true);
  say(`Looking at ${file.name} …`);
  try {
    const init = { method: "POST", body: file, signal: request.signal };
    const answer = await fetch(`predict?name=${encodeURIComponent(file.name)}`, init);
    const content = await answer.json();
    if (answer.ok) show(file, content.results);
    else say(`${file.name}: ${content.error}`, true);
  } catch (error) {
    if (error.name !== "AbortError") say("The service does not answer. Is it still running?", true);
  }
}

function show(file, results) {
  if (shown) URL.revokeObjectURL(shown.address);
  shown = { ...results[0].coco.images[0], results, address: URL.createObjectURL(file) };
  byId("gallery").replaceChildren(...results.map(card));
  const counts = results.map((each) => `${each.name} ${each.objects.length}`).join(", ");
  say(`${file.name}, ${shown.width}×${shown.height} pixels. Objects of any score: ${counts}.`);
  render();
}

// The picture with an overlay, which render() fills, and what can be downloaded.
function card(result) {
  const { width, height, address } = shown;
  const names = new Map(result.coco.categories.map((each) => [each.id, each.name]));
  result.objects = result.coco.annotations.map((entry, index) => {
    const label = data.classes.indexOf(names.get(entry.category_id));
    return { entry, label, score: entry.score, box: entry.bbox, outlines: result.outlines[index] };
  });
  result.picture = make("img", { src: address, alt: "", width, height });
  result.overlay = draw("svg", { role: "img", "font-family": "system-ui, sans-serif" });
  result.count = make("span");
  const stack = make("div", { class: "stack" }, result.picture, result.overlay);
  stack.style.maxWidth = `calc(68vh * ${width / height})`;
  const buttons = [["Download JSON", saveJson], ["Download picture", savePicture]].map(([text, save]) => {
    const button = make("button", { type: "button", "aria-label": `${text} of ${result.name}` }, text);
    button.onclick = () => save(result);
    return button;
  });
  return make("figure", {}, stack, make("figcaption", {}, `${result.name}: `, result.count), ...buttons);
}

function render() {
  const least = Number(byId("score").value);
  byId("score-value").textContent = least.toFixed(2);
  for (const result of shown?.results ?? []) {
    const scale = result.picture.clientWidth / shown.width, counts = {};
    result.found = result.objects.filter((each) => each.score >= least);
    for (const { label } of result.found) counts[label] = (counts[label] ?? 0) + 1;
    const parts = Object.entries(counts).map(([label, count]) => `${count} ${data.classes[label]}`);
    const text = parts.join(", ") || "no objects";
    result.count.textContent = `${text}, in ${result.seconds.toFixed(2)} s`;
    result.overlay.setAttribute("aria-label", `${result.name}: ${text}`);
    result.overlay.setAttribute("viewBox", `0 0 ${shown.width * scale} ${shown.height * scale}`);
    result.overlay.replaceChildren(...result.found.map((each) => scaled(each, scale)).reverse()); // the best on top
  }
}

function scaled(object, scale) {
  const by = (values) => values.map((value) => value * scale);
  const box = by(object.box), kinds = byId("shapes").value;
  const outlines = kinds !== "boxes" && object.outlines.length ? object.outlines.map(by) : undefined;
  const group = shape({ ...object, box, outlines }, false, data.colors[object.label], LETTERS, shown.width * scale);
  const [x, y, width, height] = box;
  if (outlines && kinds !== "masks") group.prepend(draw("rect", { x, y, width, height }));
  return group;
}

function save(content, result, suffix) {
  const href = URL.createObjectURL(content), stem = shown.file_name.replace(/\.\w+$/, "");
  make("a", { href, download: `${stem}_${result.name}.${suffix}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

function saveJson(result) {
  const coco = { ...result.coco, annotations: result.found.map((each) => each.entry) };
  save(new Blob([JSON.stringify(coco)], { type: "application/json" }), result, "json");
}

async function savePicture(result) {
  const { width, height } = shown, overlay = new Image(width, height);
  const canvas = make("canvas", { width, height }), copy = result.overlay.cloneNode(true);
  copy.setAttribute("width", width); // the viewBox stays: lines and letters grow with the picture
  copy.setAttribute("height", height);
  const svg = new XMLSerializer().serializeToString(copy);
  overlay.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  await overlay.decode();
  for (const layer of [result.picture, overlay]) canvas.getContext("2d").drawImage(layer, 0, 0, width, height);
  URL.revokeObjectURL(overlay.src);
  canvas.toBlob((content) => save(content, result, "jpg"), "image/jpeg", 0.95);
}

function drag(event) {
  event.preventDefault();
  document.body.classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") look(event.dataTransfer.files[0]);
}

for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, drag);
document.addEventListener("paste", (event) => look(event.clipboardData.files[0]));
byId("file").addEventListener("change", (event) => {
  look(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
byId("controls").addEventListener("input", render);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("resize", render);
document.querySelector("h1").textContent = document.title = data.names.join(" and ");
render();
