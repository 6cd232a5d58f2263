// The table, its filters and the larger view. Text from the archive reaches the page through textContent only.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const make = (tag, name, ...children) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children.filter((child) => child !== null));
  return node;
};
const verdictNames = data.verdicts.map(([name]) => name);
const codeNames = data.codes.map(([code]) => code);
const state = { query: "", verdict: "", reason: "", sort: "uri", up: true, page: 0, size: 50, overlay: true, map: false, floor: 0 };
// The columns of a classifier are in the data only when there is one.
const hasClasses = "class" in data;
const className = (i) => hasClasses && data.class[i] !== null ? data.class_names[data.class[i]] : "";
const searchTexts = data.uri.map((uri, i) =>
  [uri, data.text[i], data.format[i], data.id[i] ?? "", className(i), ...data.reasons[i].map((k) => data.codes[k][2])]
    .join("\n").toLowerCase());
let order = data.uri.map((_, i) => i);

function svgIcon(verdict) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${verdict}`);
  svg.append(use);
  return svg;
}
const badge = (i) => {
  const [name, label] = data.verdicts[data.verdict[i]];
  return make("span", `badge ${name}`, svgIcon(name), label);
};
const chips = (i) => make("span", "chips", ...data.reasons[i].map((k) => {
  const chip = make("span", "chip", data.codes[k][2]);
  chip.title = data.codes[k][1];
  return chip;
}));
const number = (value, digits) => value === null ? "–"
  : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
// Rounded as in the explanations, so that a value never appears to meet its limit: 0.699 is shown as 0.69.
const roundDown = (value, digits) => value === null ? "–" : number(Math.floor(value * 10 ** digits + 1e-6) / 10 ** digits, digits);
const roundUp = (value, digits) => value === null ? "–" : number(Math.ceil(value * 10 ** digits - 1e-6) / 10 ** digits + 0, digits);
const pixelSize = (value) => value === null ? "–" : String(Number(value.toPrecision(3)));
const pixelSizes = (i) => { // along x, and along y where that differs
  const [x, y] = [pixelSize(data.nm[i]), pixelSize(data.nm_y[i])];
  return data.nm_y[i] === null || x === y ? x : `${x} × ${y}`;
};
const baseName = (i) => data.uri[i].slice(data.uri[i].lastIndexOf("/") + 1) || data.uri[i];
const folder = (i) => data.uri[i].slice(0, data.uri[i].lastIndexOf("/") + 1);

// ---- detections -----------------------------------------------------------------------------------------------
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const STOPS = [[64, 156, 255], [255, 96, 170], [255, 214, 10]];
function colour(score) {
  const k = score < 0.5 ? 0 : 1, t = score * 2 - k;
  return `rgb(${STOPS[k].map((a, c) => Math.round(a + (STOPS[k + 1][c] - a) * t)).join(" ")})`;
}
const readFractions = (raw, offset) => [0, 2, 4, 6, 8].map((k) => raw.getUint16(offset + k, true) / 65535);
function drawMap(pen, canvas, raw) {
  pen.globalAlpha = 0.45;
  for (let offset = 0; offset < raw.byteLength; offset += 10) {
    const [y0, x0, y1, x1, entropy] = readFractions(raw, offset);
    pen.fillStyle = colour(entropy);
    // On whole pixels, so that no seam shows between cells.
    const [top, left, bottom, right] = [y0 * canvas.height, x0 * canvas.width, y1 * canvas.height, x1 * canvas.width].map(Math.round);
    pen.fillRect(left, top, right - left, bottom - top);
  }
  pen.globalAlpha = 1;
}
function drawOverlay(canvas, i) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  if (!pen || !canvas.width || !canvas.height) return;
  if (state.map && hasClasses && data.maps[i]) drawMap(pen, canvas, new DataView(bytesOf(data.maps[i]).buffer));
  if (!state.overlay || !data.boxes[i]) return;
  const raw = new DataView(bytesOf(data.boxes[i]).buffer);
  const isLarge = width > 200;
  pen.lineWidth = (isLarge ? 1.5 : 0.8) * ratio;
  // The weakest first, so that the strongest lie on top.
  for (let offset = Math.min(raw.byteLength, isLarge ? Infinity : 10 * data.few) - 10; offset >= 0; offset -= 10) {
    const [y0, x0, y1, x1, score] = readFractions(raw, offset);
    if (score + 1e-4 < state.floor) continue;
    pen.strokeStyle = colour(score);
    pen.strokeRect(x0 * canvas.width, y0 * canvas.height, (x1 - x0) * canvas.width, (y1 - y0) * canvas.height);
  }
}
function makePicture(i) {
  if (!data.jpeg[i]) return make("span", "no-picture", "no picture");
  const image = make("img", "");
  image.alt = "";
  const canvas = make("canvas", "");
  const frame = make("span", "picture", image, canvas);
  image.addEventListener("load", () => drawOverlay(canvas, i));
  image.addEventListener("error", () => frame.replaceWith(make("span", "no-picture", "no picture")));
  image.src = `data:image/jpeg;base64,${data.jpeg[i]}`;
  canvas.dataset.row = i;
  return frame;
}
const redrawOverlays = () => document.querySelectorAll("canvas[data-row]").forEach((c) => drawOverlay(c, Number(c.dataset.row)));

// ---- the table ------------------------------------------------------------------------------------------------
function drawInterval(i) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "interval");
  svg.setAttribute("viewBox", "0 0 100 8");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const rect = (x, width, y, height, name) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ x, width, y, height, class: name })) node.setAttribute(key, value);
    svg.append(node);
  };
  rect(0, 100, 3, 2, "rail");
  rect(100 * data.low[i], Math.max(1, 100 * (data.high[i] - data.low[i])), 2, 4, "span");
  rect(100 * data.f1[i] - 1, 2, 0, 8, "point");
  return svg;
}
function makeF1Cell(i) {
  if (data.f1[i] === null) return make("span", "", "–");
  const ends = data.low[i] === null || data.high[i] === null ? null
    : make("span", "ends", `${roundDown(data.low[i], 2)} to ${number(data.high[i], 2)}`);
  const share = data.f1_probability[i] === null ? null
    : make("span", "ends", `P(F1 ≥ ${data.trust_f1}) = ${roundDown(data.f1_probability[i], 2)}`);
  return make("span", "f1", number(data.f1[i], 2), ends, ends && drawInterval(i), share);
}
function makeCell(name, label, ...children) {
  const td = make("td", name, ...children);
  if (label) td.dataset.label = label;
  return td;
}
function makeClassCells(i) {
  const shift = data.shift[i] === null ? "–" : data.shift_names[data.shift[i]];
  const score = data.shift_score[i] === null ? null : make("span", "ends", `score ${roundUp(data.shift_score[i], 2)}`);
  return [
    makeCell("c-class", "Class", className(i) ? make("bdi", "", className(i)) : "–"),
    makeCell("number", "p", roundDown(data.probability[i], 2)),
    makeCell("number", "H, nats", roundUp(data.entropy[i], 3)),
    makeCell("c-shift", "Shift", make("span", "shift", shift), score)];
}
function makeRow(i) {
  const open = make("button", "name", make("bdi", "", baseName(i)));
  open.type = "button";
  open.title = data.uri[i];
  const size = data.height[i] === null ? null : `${data.height[i]} × ${data.width[i]} px`;
  const facts = [data.stacked[i] ? `frame ${data.frame[i]}` : null, size, data.format[i] || null].filter(Boolean);
  const place = folder(i) ? make("bdi", "folder", folder(i)) : null;
  const tr = make("tr", "",
    makeCell("c-picture", "", makePicture(i)),
    makeCell("c-verdict", "", badge(i)),
    makeCell("c-name", "", open, place, make("span", "facts", facts.join(", "))),
    makeCell("c-why", "", chips(i), make("span", "text", data.text[i])),
    makeCell("number", "Detections", number(data.n[i], 0)),
    makeCell("number c-f1", "Predicted F1", makeF1Cell(i)),
    makeCell("number", "Distance", roundUp(data.distance[i], 2)),
    makeCell("number", "nm / px", pixelSizes(i)),
    ...(hasClasses ? makeClassCells(i) : []));
  tr.dataset.row = i;
  // On narrow screens rows are laid out as cards, which removes their implicit roles.
  tr.setAttribute("role", "row");
  [...tr.cells].forEach((td) => td.setAttribute("role", "cell"));
  return tr;
}
const keys = {
  verdict: (i) => data.verdict[i],
  uri: null,
  reasons: (i) => data.reasons[i].length ? data.reasons[i][0] : null,
  n: (i) => data.n[i], f1_probability: (i) => data.f1_probability[i], distance: (i) => data.distance[i], nm: (i) => data.nm[i],
  class: (i) => data.class[i], p: (i) => data.probability[i], entropy: (i) => data.entropy[i],
  shift: (i) => data.shift_score[i],
};
function selectRows() {
  const query = state.query.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = verdictNames.indexOf(state.verdict), reason = codeNames.indexOf(state.reason);
  order = data.uri.map((_, i) => i).filter((i) =>
    (!state.verdict || data.verdict[i] === verdict) &&
    (!state.reason || data.reasons[i].includes(reason)) &&
    query.every((word) => searchTexts[i].includes(word)));
  const key = keys[state.sort], sign = state.up ? 1 : -1;
  // Rows come by URI and frame; unknown values stay at the end in both directions.
  order.sort((a, b) => {
    if (!key) return sign * (a - b);
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * (x - y) || a - b;
  });
}
function showPage() {
  const pages = Math.max(1, Math.ceil(order.length / state.size));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const first = state.page * state.size, visible = order.slice(first, first + state.size);
  byId("rows").replaceChildren(...visible.map(makeRow));
  byId("empty").hidden = order.length > 0;
  byId("count").textContent = order.length
    ? `${(first + 1).toLocaleString("en")} to ${(first + visible.length).toLocaleString("en")} of ${order.length.toLocaleString("en")}` +
      (order.length < data.uri.length ? `, filtered from ${data.uri.length.toLocaleString("en")}` : "")
    : "0 rows";
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page === pages - 1;
}
function updateTable() {
  state.page = 0;
  selectRows();
  showPage();
  document.querySelectorAll("th[data-sort]").forEach((th) => {
    if (th.dataset.sort === state.sort) th.setAttribute("aria-sort", state.up ? "ascending" : "descending");
    else th.removeAttribute("aria-sort");
  });
  document.querySelectorAll("[data-verdict]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.verdict === state.verdict)));
  document.querySelectorAll("[data-reason]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.reason === state.reason)));
  byId("verdict").value = state.verdict;
  byId("reason").value = state.reason;
  byId("sort").value = `${state.sort} ${state.up}`;
  byId("clear").disabled = !(state.query || state.verdict || state.reason);
}
function clearFilters() {
  Object.assign(state, { query: "", verdict: "", reason: "" });
  byId("search").value = "";
  updateTable();
}
function turnPage(by) {
  state.page += by;
  showPage();
  byId("images").scrollIntoView();
}

// ---- the larger view ------------------------------------------------------------------------------------------
function makeClassPairs(i) {
  if (!className(i)) return [["Class", "–"]];
  const shared = data.mutual[i] === null ? "" : `, of it mutual information ${number(data.mutual[i], 3)}`;
  const shift = data.shift[i] === null ? "unknown" : data.shift_names[data.shift[i]];
  return [
    ["Class", make("bdi", "", className(i))],
    ["Probability", roundDown(data.probability[i], 3)],
    ["Predictive entropy, nats", roundUp(data.entropy[i], 3) + shared],
    ["Shift", shift + (data.shift_score[i] === null ? "" : ` (score ${roundUp(data.shift_score[i], 2)}, limit 1)`)],
  ];
}
let viewed = 0; // position in `order`
function fillView() {
  const i = order[viewed];
  byId("view-name").replaceChildren(make("bdi", "", baseName(i)));
  byId("view-where").replaceChildren(make("bdi", "", data.uri[i]), data.stacked[i] ? `, frame ${data.frame[i]}` : "");
  byId("view-badge").replaceChildren(badge(i), chips(i));
  byId("view-text").textContent = data.text[i];
  const drawn = data.boxes[i] ? bytesOf(data.boxes[i]).length / 10 : 0;
  const pairs = [
    ...(data.detector[i] ? [["Detector", data.detector[i] + (data.detector_agreement[i] === null ? "" : ` (agreement with the others ${number(data.detector_agreement[i], 2)})`)]] : []),
    ["Detections", number(data.n[i], 0) + (data.n[i] > drawn && drawn ? ` (strongest ${drawn} drawn)` : "")],
    ["Predicted F1", data.f1[i] === null ? "–" : `${number(data.f1[i], 3)} (${roundDown(data.low[i], 3)} to ${number(data.high[i], 3)})`],
    ...(data.f1_probability[i] === null ? [] : [[`P(F1 ≥ ${data.trust_f1})`, `${roundDown(data.f1_probability[i], 2)} (trust asks for ${data.trust_probability})`]]),
    ...(data.precision[i] === null ? [] : [["Predicted precision, recall", `${number(data.precision[i], 2)}, ${number(data.recall[i], 2)}`]]),
    ...(data.density[i] === null ? [] : [["Density, mean diameter", `${data.density[i].toPrecision(3)} per µm²` + (data.diameter[i] === null ? "" : `, ${data.diameter[i].toPrecision(3)} nm`)]]),
    ...(data.area_fraction[i] === null ? [] : [["Area fraction", `${(100 * data.area_fraction[i]).toPrecision(3)} %` + (data.swelling[i] === null ? "" : `; swelling ${data.swelling[i].toPrecision(3)} %`)]]),
    ["Distance to training images", roundUp(data.distance[i], 3)],
    ["Pixel size", data.nm[i] === null ? "unknown" : `${pixelSizes(i)} nm` + (data.source[i] ? ` (${data.source[i]})` : "")],
    ...(hasClasses ? makeClassPairs(i) : []),
    ...(data.defocus[i] === null ? [] : [["Defocus, from Thon rings", `${number(data.defocus[i], 0)} nm`]]),
    ["Size", data.height[i] === null ? "–" : `${data.height[i]} × ${data.width[i]} px`],
    ...(data.details[i] ?? []),
    ["Format", data.format[i] || "not recognised"],
    ["Micrograph", data.id[i] ?? "none"],
  ];
  byId("view-numbers").replaceChildren(...pairs.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  byId("view-picture").style.setProperty("--ratio", data.height[i] ? data.width[i] / data.height[i] : 1);
  byId("view-picture").replaceChildren(makePicture(i));
  byId("view-previous").disabled = viewed === 0;
  byId("view-next").disabled = viewed === order.length - 1;
}
function stepView(by) {
  viewed = Math.min(Math.max(viewed + by, 0), order.length - 1);
  fillView();
}
function openView(i) {
  viewed = order.indexOf(i);
  byId("view").showModal();
  fillView();
}

// ---- events -------------------------------------------------------------------------------------------
const addListener = (id, event, act) => byId(id).addEventListener(event, act);
document.querySelectorAll("th[data-sort]").forEach((th) => {
  const label = th.textContent;
  th.firstElementChild.addEventListener("click", () => {
    state.up = state.sort === th.dataset.sort ? !state.up : true;
    state.sort = th.dataset.sort;
    updateTable();
  });
  for (const up of [true, false]) {
    const option = make("option", "", `${label}, ${up ? "up" : "down"}`);
    option.value = `${th.dataset.sort} ${up}`;
    byId("sort").append(option);
  }
});
addListener("sort", "change", (e) => { const [key, up] = e.target.value.split(" "); state.sort = key; state.up = up === "true"; updateTable(); });
document.querySelectorAll(".card, .reasons button").forEach((button) => button.addEventListener("click", () => {
  const kind = button.dataset.verdict ? "verdict" : "reason", value = button.dataset[kind];
  state[kind] = state[kind] === value ? "" : value;
  updateTable();
}));
let typing = 0;
addListener("search", "input", (e) => { clearTimeout(typing); typing = setTimeout(() => { state.query = e.target.value; updateTable(); }, 120); });
addListener("verdict", "change", (e) => { state.verdict = e.target.value; updateTable(); });
addListener("reason", "change", (e) => { state.reason = e.target.value; updateTable(); });
addListener("size", "change", (e) => { state.size = Number(e.target.value); state.page = 0; showPage(); });
addListener("clear", "click", clearFilters);
addListener("clear-2", "click", clearFilters);
addListener("previous", "click", () => turnPage(-1));
addListener("next", "click", () => turnPage(1));
for (const layer of hasClasses ? ["overlay", "map"] : ["overlay"]) for (const id of [layer, `view-${layer}`]) addListener(id, "change", (e) => {
  state[layer] = byId(layer).checked = byId(`view-${layer}`).checked = e.target.checked;
  redrawOverlays();
});
addListener("floor", "input", (e) => { state.floor = Number(e.target.value); byId("floor-value").textContent = state.floor.toFixed(2); redrawOverlays(); });
addListener("rows", "click", (e) => {
  const tr = e.target.closest("tr");
  if (tr && !String(window.getSelection())) openView(Number(tr.dataset.row));
});
addListener("view-close", "click", () => byId("view").close());
addListener("view-previous", "click", () => stepView(-1));
addListener("view-next", "click", () => stepView(1));
addListener("view", "click", (e) => { if (e.target === byId("view")) byId("view").close(); });
addListener("view", "keydown", (e) => {
  if (e.key === "ArrowLeft") stepView(-1);
  if (e.key === "ArrowRight") stepView(1);
});
addListener("view", "close", () => document.querySelector(`tr[data-row="${order[viewed]}"] .name`)?.focus());
let resizing = 0;
window.addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(redrawOverlays, 100); });
updateTable();
