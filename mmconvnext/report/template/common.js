"use strict";
const data = JSON.parse(document.getElementById("report-data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MISSED = "#ff3b4a"; // ground truth that was not found
const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function draw(name, attributes = {}, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const percent = (value) => (value < 0 ? "–" : (100 * value).toFixed(1));

// An object or a detection; the name of ground truth is written where it was missed, left of "right".
function shape(object, isTruth, color, size, right, named = !isTruth || object.missed) {
  const group = draw("g", { fill: "none", stroke: color, "stroke-width": size / 6, "stroke-linejoin": "round" });
  if (isTruth) group.setAttribute("stroke-dasharray", object.crowd ? "2 6" : "6 4");
  for (const points of object.outlines || []) {
    group.append(draw("polygon", { points: points.join(" "), fill: color, "fill-opacity": isTruth ? 0 : 0.25 }));
  }
  const [x, y, width, height] = object.box;
  if (!object.outlines) group.append(draw("rect", { x, y, width, height }));
  const words = [data.classes[object.label]];
  if (isTruth) words.push(object.crowd ? "crowd" : object.missed ? "missed" : "");
  else words.push(object.score.toFixed(2), object.error);
  const text = words.filter(Boolean).join(" ");
  group.append(draw("title", {}, text));
  if (named) {
    const left = Math.max(0, Math.min(x + 2, right - 0.6 * size * text.length)); // few letters are wider
    const style = { x: left, y: isTruth ? y + height - 3 : Math.max(size, y - 3), "font-size": size, fill: "#fff", stroke: "#000", "stroke-width": size / 6, "paint-order": "stroke", "stroke-dasharray": "none" };
    group.append(draw("text", style, text));
  }
  return group;
}

// A picture with shapes over it; "more" is said to a screen reader beside the title.
function figure(picture, title, more, shapes) {
  const [width, height] = picture.size;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}; ${more}` });
  svg.append(draw("image", { href: `data:image/jpeg;base64,${picture.jpeg}`, width, height }), ...shapes);
  return make("figure", {}, svg, make("figcaption", {}, title));
}
