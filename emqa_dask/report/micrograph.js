// The page of the image named behind #: partition/micrograph_id. Text from the archive comes through textContent only.
"use strict";
const settings = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const make = (tag, name, ...children) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
const makeSvg = (tag, attributes, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const MAX_PICTURES = 160; // tiles in memory, of 0.25 MB each
const MAX_SCALE = 32; // screen pixels per pixel of the image
const QUANTITIES = [ // of the region map: key, label, unit, whether it depends on the detector
  ["n_detections", "Number of detections", "", true],
  ["density_per_um2", "Density of detections", "per µm²", true],
  ["agreement", "Agreement of detectors", "F1", true],
  ["sharpness", "Sharpness", "cycles/px", false],
  ["noise", "Noise", "grey ranges", false],
  ["entropy", "Predictive entropy", "nats", false],
];
const partitions = new Map(); // name -> images by id
let image = null; // that is shown
let views = []; // one per detector: canvas, detector, boxes, masks
const camera = { scale: 1, y: 0, x: 0 }; // screen pixels per image pixel; image pixel in the middle of each view
const emqa = { addImages(page) { partitions.set(page.partition, page.images); } };

// ---- the image that the address names -------------------------------------------------------------------------
function readAddress() { // [partition, micrograph_id]; null where the address names none
  const parts = location.hash.slice(1).split("/");
  try {
    const [partition, id] = parts.map(decodeURIComponent);
    // A partition is a plain name, so that no address can load a script of another folder.
    return parts.length === 2 && /^[0-9A-Za-z][0-9A-Za-z.-]*$/.test(partition) && /^[0-9A-Za-z]+$/.test(id) ? [partition, id] : null;
  } catch { return null; }
}
function loadPartition(name) {
  return new Promise((resolve) => {
    const script = make("script", "");
    script.addEventListener("load", () => { script.remove(); resolve(); });
    script.addEventListener("error", () => { script.remove(); resolve(); });
    script.src = `micrographs/${encodeURIComponent(name)}.js`;
    document.head.append(script);
  });
}
function showMessage(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
  byId("content").hidden = Boolean(text);
}
async function openAddress() {
  const address = readAddress();
  if (!address) { showMessage("The address of this page names no image. Choose one in the list of all images."); return; }
  const [partition, id] = address;
  if (!partitions.has(partition)) await loadPartition(partition);
  if (String(readAddress()) !== String(address)) return; // another image was chosen meanwhile
  const chosen = partitions.get(partition)?.[id];
  if (!chosen) {
    showMessage("There are no data of this image in the report. Images with a page are chosen by report.max_image_pages in the settings.");
    return;
  }
  image = { ...chosen, id };
  showMessage("");
  fillPage();
}

// ---- text -----------------------------------------------------------------------------------------------------
const format = (value, digits = 3) => value === null || value === undefined ? "–" : String(Number(value.toPrecision(digits)));
// Rounded down, so that a value never appears to meet its limit.
const roundDown = (value) => value === null ? "–" : (Math.floor(value * 100 + 1e-6) / 100).toFixed(2);
const fillPairs = (list, pairs) => list.replaceChildren(...pairs.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", make("bdi", "", value))]));
function fillPage() {
  const base = image.uri.slice(image.uri.lastIndexOf("/") + 1) || image.uri;
  document.title = `${base}: ${settings.verdicts[image.verdict] ?? image.verdict}`;
  byId("name").replaceChildren(make("bdi", "", base));
  byId("place").textContent = image.uri + (image.frame ? `, frame ${image.frame}` : "");
  for (const side of ["previous", "next"]) {
    const link = byId(side);
    link.hidden = !image[side];
    link.href = `#${image[side].split("/").map(encodeURIComponent).join("/")}`;
    link.title = `The image of the session ${image.session} that was acquired just ${side === "next" ? "after" : "before"} this one`;
  }
  const mark = makeSvg("svg", { class: "mark-of", "aria-hidden": "true" }, makeSvg("rect", { class: image.verdict, width: "100%", height: "100%", rx: 3 }));
  byId("verdict").replaceChildren(make("span", "badge", mark, settings.verdicts[image.verdict] ?? image.verdict), ...image.reasons.map((code) => {
    const [label, meaning] = settings.reasons[code] ?? [code, ""];
    const chip = make("span", "chip", label);
    chip.title = meaning;
    return chip;
  }));
  byId("explanation").textContent = image.explanation;
  fillNumbers();
  byId("predictions").replaceChildren(...image.detectors.map(makePrediction), ...(image.detectors.length ? [] : [make("p", "", "No detector ran.")]));
  fillPairs(byId("details"), [["Session", image.session || "–"], ...image.details]);
  byId("header").textContent = image.header;
  byId("header-details").hidden = !image.header;
  fillPairs(byId("provenance"), image.provenance);
  makeViews();
}
function fillNumbers() {
  const numbers = image.numbers;
  const known = (name, label, unit = "", digits = 3) => numbers[name] === null ? [] : [[label, `${format(numbers[name], digits)}${unit}`]];
  const [x, y] = [numbers.nm_per_pixel, numbers.nm_per_pixel_y];
  fillPairs(byId("numbers"), [
    ["Detector", image.chosen ?? "–"],
    ...known("n_detections", "Detections", "", 9),
    ...known("density_per_um2", "Density", " per µm²"),
    ...known("mean_diameter_nm", "Mean diameter", " nm"),
    ...(numbers.area_fraction === null ? [] : [["Area fraction", `${format(100 * numbers.area_fraction)} %`]]),
    ...known("ood_distance", "Distance to training images"),
    ["Size", `${image.size[0]} × ${image.size[1]} px`],
    ["Pixel size", x === null ? "unknown" : y === null || format(x) === format(y) ? `${format(x)} nm` : `${format(x)} × ${format(y)} nm`],
    ...(image.class ? [["Class", image.class]] : []),
    ...known("class_probability", "Probability of the class"),
    ...known("predictive_entropy_nats", "Predictive entropy", " nats"),
    ...known("shift_score", "Shift score (limit 1)"),
    ...known("defocus_nm", "Defocus", " nm"),
  ]);
}
function makePrediction(detector) {
  const f1 = detector.predicted_f1 === null ? "no prediction"
    : `${detector.predicted_f1.toFixed(2)} (${roundDown(detector.predicted_f1_low)} to ${detector.predicted_f1_high === null ? "–" : detector.predicted_f1_high.toFixed(2)})`;
  const rows = [["Predicted F1", f1]];
  if (detector.predicted_precision !== null) rows.push(["Precision, recall", `${detector.predicted_precision.toFixed(2)}, ${detector.predicted_recall === null ? "–" : detector.predicted_recall.toFixed(2)}`]);
  if (detector.agreement !== null) rows.push(["Agreement with the others", detector.agreement.toFixed(2)]);
  rows.push(["Detections", `${detector.n.toLocaleString("en")} with a score of ${detector.floor} or more` + (detector.is_capped ? "; the detector stopped at its largest number" : "")]);
  const list = make("dl", "pairs-list");
  fillPairs(list, rows);
  const title = make("h3", "", make("bdi", "", detector.name), detector.name === image.chosen && image.detectors.length > 1 ? " (chosen)" : "");
  return make("div", "", title, list, detector.effects.length ? makeEffects(detector) : null, detector.nearest.length ? makeNearest(detector) : null);
}
function makeNearest(detector) { // labelled images of the quality model that are most like this one
  const items = detector.nearest.map(({ name, f1, distance, address }) => {
    const title = make(address ? "a" : "span", "", make("bdi", "", name));
    if (address) title.href = `#${address.split("/").map(encodeURIComponent).join("/")}`;
    return make("li", "", title, `: true F1 ${roundDown(f1)}, distance ${format(distance, 2)}`);
  });
  const heading = make("h4", "", "Nearest labelled images");
  heading.title = "Images that the quality model was calibrated on; the distance is the root mean square difference of its features, in interquartile ranges";
  return make("div", "nearest", heading, make("ul", "", ...items));
}
function makeEffects(detector) { // bars of SHAP values, to the right where they raise F1
  const table = make("table", "effects");
  table.append(make("caption", "unseen", `What changed the F1 that is predicted for ${detector.name} (SHAP values)`));
  const largest = Math.max(0.1, ...detector.effects.map(({ effect }) => Math.abs(effect ?? 0)));
  for (const { text, effect } of detector.effects) {
    const row = table.insertRow();
    const head = make("th", "", text);
    head.scope = "row";
    row.append(head);
    const cell = row.insertCell();
    cell.className = "bar-cell";
    if (effect !== null) {
      const length = 48 * Math.abs(effect) / largest;
      cell.append(makeSvg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
        makeSvg("rect", { class: effect > 0 ? "raises" : "lowers", x: effect > 0 ? 50 : 50 - length, width: length, height: 10 }),
        makeSvg("line", { class: "zero", x1: 50, x2: 50, y1: 0, y2: 10 })));
    }
    row.insertCell().textContent = effect === null ? "" : `${effect > 0 ? "+" : "−"}${Math.abs(effect).toFixed(2)}`;
  }
  return table;
}

// ---- pictures -------------------------------------------------------------------------------------------------
const decodeBytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const pictures = new Map(); // address -> img; the one that was used last is the last
function loadPicture(address) {
  let picture = pictures.get(address);
  pictures.delete(address);
  if (!picture) {
    picture = new Image();
    picture.addEventListener("load", requestDrawing);
    picture.src = address;
  }
  pictures.set(address, picture);
  if (pictures.size > MAX_PICTURES) pictures.delete(pictures.keys().next().value);
  return picture.complete && picture.naturalWidth ? picture : null;
}
function drawPicture(pen, left, top, right, bottom) { // the part of the image between these pixels
  const [height, width] = image.size;
  if (image.jpeg) {
    const thumbnail = loadPicture(`data:image/jpeg;base64,${image.jpeg}`);
    if (thumbnail) pen.drawImage(thumbnail, 0, 0, width, height);
  }
  if (!image.pictures) return;
  const { tile_px: tile, n_levels: n } = image.pictures;
  const pixels = camera.scale * (window.devicePixelRatio || 1);
  const finest = Math.min(Math.max(Math.floor(Math.log2(1 / pixels) + 0.01), 0), n - 1);
  pen.imageSmoothingEnabled = pixels < 2;
  for (const level of new Set([n - 1, finest])) { // the coarsest first: it shows while the others are loaded
    const side = tile * 2 ** level;
    for (let y = Math.max(0, Math.floor(top / side)); y * side < Math.min(bottom, height); y++) {
      for (let x = Math.max(0, Math.floor(left / side)); x * side < Math.min(right, width); x++) {
        const picture = loadPicture(`pictures/${image.id}/${level}/${y}_${x}.jpg`);
        // Of odd sides the coarser pixel at the end is wider than the image, so the length is that of the tile.
        if (picture) pen.drawImage(picture, x * side, y * side, picture.naturalWidth * 2 ** level, picture.naturalHeight * 2 ** level);
      }
    }
  }
}

// ---- detections and maps --------------------------------------------------------------------------------------
const STOPS = [[64, 156, 255], [255, 96, 170], [255, 214, 10]];
function colour(value) {
  const k = value < 0.5 ? 0 : 1, t = value * 2 - k;
  return `rgb(${STOPS[k].map((a, c) => Math.round(a + (STOPS[k + 1][c] - a) * t)).join(" ")})`;
}
function decodeBoxes(text) { // of each detection y0, x0, y1, x1 in px and its score
  const raw = new DataView(decodeBytes(text).buffer), [height, width] = image.size, boxes = [];
  for (let offset = 0; offset < raw.byteLength; offset += 10) {
    const values = [0, 2, 4, 6, 8].map((k) => raw.getUint16(offset + k, true) / 65535);
    boxes.push([values[0] * height, values[1] * width, values[2] * height, values[3] * width, values[4]]);
  }
  return boxes;
}
function decodeMask(text) { // runs down the columns of COCO's run lengths: x, first row, rows
  const counts = [], runs = [], height = image.size[0];
  for (let p = 0; p < text.length;) {
    let value = 0, k = 0, isMore = true;
    while (isMore) {
      const c = text.charCodeAt(p++) - 48;
      value += (c & 31) * 2 ** (5 * k);
      isMore = Boolean(c & 32);
      k += 1;
      if (!isMore && c & 16) value -= 2 ** (5 * k);
    }
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  let position = 0;
  counts.forEach((count, k) => {
    for (let rest = k % 2 ? count : 0, at = position; rest > 0;) {
      const y = at % height, n = Math.min(rest, height - y);
      runs.push([Math.floor(at / height), y, n]);
      at += n;
      rest -= n;
    }
    position += count;
  });
  return runs;
}
function readMap(detector) { // edges and values of the chosen quantity; null without any
  const key = byId("quantity").value;
  if (!key) return null;
  if (key === "entropy") return image.entropy;
  const values = image.tiles.detectors[detector.name]?.[key] ?? Object.values(image.tiles.detectors)[0]?.[key];
  return values ? { y: image.tiles.y, x: image.tiles.x, values } : null;
}
function findRange() { // smallest and largest value of the chosen quantity, over all detectors
  const key = byId("quantity").value;
  const lists = key === "entropy" ? [image.entropy.values] : Object.values(image.tiles.detectors).map((own) => own[key]);
  const values = lists.flat().filter((value) => value !== null);
  return values.length ? [Math.min(...values), Math.max(...values)] : null;
}
function drawMap(pen, map, [low, high]) {
  pen.globalAlpha = 0.45;
  const columns = map.x.length - 1;
  map.values.forEach((value, k) => {
    if (value === null) return;
    const y = Math.floor(k / columns), x = k % columns;
    pen.fillStyle = colour(high > low ? (value - low) / (high - low) : 0.5);
    pen.fillRect(map.x[x], map.y[y], map.x[x + 1] - map.x[x], map.y[y + 1] - map.y[y]);
  });
  pen.globalAlpha = 1;
}
function drawDetections(pen, view) {
  const floor = Number(byId("floor").value);
  pen.lineWidth = 1.5 / camera.scale;
  // The weakest first, so that the strongest lie on top.
  for (let k = view.boxes.length - 1; k >= 0; k--) {
    const [y0, x0, y1, x1, score] = view.boxes[k];
    if (score + 1e-4 < floor) continue;
    if (byId("show-masks").checked && view.detector.masks?.[k]) {
      view.masks[k] ??= decodeMask(view.detector.masks[k]);
      pen.globalAlpha = 0.4;
      pen.fillStyle = colour(score);
      for (const [x, y, n] of view.masks[k]) pen.fillRect(x, y, 1, n);
      pen.globalAlpha = 1;
    }
    if (byId("show-boxes").checked) {
      pen.strokeStyle = colour(score);
      pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
  }
}
function drawView(view) {
  const ratio = window.devicePixelRatio || 1, { width, height } = view.canvas.getBoundingClientRect();
  view.canvas.width = Math.round(width * ratio);
  view.canvas.height = Math.round(height * ratio);
  const pen = view.canvas.getContext("2d");
  if (!pen || !view.canvas.width || !view.canvas.height) return;
  const scale = camera.scale * ratio;
  pen.setTransform(scale, 0, 0, scale, view.canvas.width / 2 - camera.x * scale, view.canvas.height / 2 - camera.y * scale);
  const [halfHeight, halfWidth] = [height / 2 / camera.scale, width / 2 / camera.scale];
  pen.fillStyle = "#33383e";
  pen.fillRect(0, 0, image.size[1], image.size[0]);
  drawPicture(pen, camera.x - halfWidth, camera.y - halfHeight, camera.x + halfWidth, camera.y + halfHeight);
  const map = readMap(view.detector), range = map && findRange();
  if (range) drawMap(pen, map, range);
  drawDetections(pen, view);
}
let isRequested = false;
function requestDrawing() {
  if (isRequested) return;
  isRequested = true;
  requestAnimationFrame(() => { isRequested = false; views.forEach(drawView); });
}
function describeDrawing() { // what is drawn, in words
  const floor = Number(byId("floor").value);
  byId("floor-value").textContent = floor.toFixed(2);
  views.forEach(({ canvas, detector, boxes, note }) => {
    const n = boxes.filter((box) => box[4] + 1e-4 >= floor).length;
    note.textContent = `${n.toLocaleString("en")} drawn`;
    canvas.setAttribute("aria-label", `Image with ${n} detections of ${detector.name} with a score of ${floor.toFixed(2)} or more`);
  });
  const capped = views.filter(({ detector }) => detector.n_stored > detector.n_drawn);
  byId("drawn").textContent = capped.map(({ detector }) => `Of ${detector.name} the strongest ${detector.n_drawn} of ${detector.n_stored} detections are drawn.`).join(" ")
    + (image.jpeg || image.pictures ? "" : " The report has no picture of this image (report.pictures).")
    + (image.jpeg && !image.pictures ? " The picture is a thumbnail; judge sharpness on the original." : "");
  requestDrawing();
}
function fillMap() { // legend and table of the region map
  const [key, label, unit, isOfDetector] = QUANTITIES.find(([name]) => name === byId("quantity").value) ?? [];
  const range = key ? findRange() : null;
  byId("map-section").hidden = !key;
  byId("ramp-low").textContent = range ? format(range[0]) : "0";
  byId("ramp-high").textContent = range ? `${format(range[1])} ${unit}` : "1 score";
  if (key) {
    const names = isOfDetector ? Object.keys(image.tiles.detectors) : [""];
    byId("map-text").textContent = `${label}${unit ? `, ${unit}` : ""}: a value for each tile, as they lie in the image.`;
    byId("map-table").replaceChildren(...names.flatMap((name) => {
      const map = readMap({ name: name || Object.keys(image.tiles.detectors)[0] });
      const body = make("tbody", "");
      if (name) body.append(make("tr", "", Object.assign(make("th", "", make("bdi", "", name)), { colSpan: map.x.length - 1, scope: "rowgroup" })));
      for (let y = 0; y < map.y.length - 1; y++) {
        const row = body.insertRow();
        for (let x = 0; x < map.x.length - 1; x++) row.insertCell().textContent = format(map.values[y * (map.x.length - 1) + x]);
      }
      return [body];
    }));
  }
  requestDrawing();
}
function makeViews() {
  const detectors = image.detectors.length ? image.detectors : [{ name: "no detector", boxes: "", masks: null, n: 0, n_stored: 0, n_drawn: 0, floor: 0 }];
  views = detectors.map((detector) => {
    const canvas = make("canvas", ""), note = make("span", "", "");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.style.aspectRatio = `${image.size[1]} / ${image.size[0]}`;
    const figure = make("figure", "view", make("figcaption", "", make("b", "", make("bdi", "", detector.name)), note), canvas);
    listenToCanvas(canvas);
    return { canvas, detector, note, figure, boxes: decodeBoxes(detector.boxes), masks: [] };
  });
  byId("views").replaceChildren(...views.map(({ figure }) => figure));
  byId("floor").value = Math.min(...detectors.map(({ floor }) => floor));
  byId("masks-label").hidden = !detectors.some(({ masks }) => masks);
  const chosen = byId("quantity").value;
  const present = QUANTITIES.filter(([key]) => key === "entropy" ? image.entropy
    : Object.values(image.tiles.detectors).some((own) => own[key].some((value) => value !== null)));
  byId("quantity").replaceChildren(...[["", "none"], ...present].map(([key, label]) => Object.assign(make("option", "", label), { value: key })));
  byId("quantity").value = present.some(([key]) => key === chosen) ? chosen : "";
  byId("full").hidden = !image.pictures;
  fitImage();
  describeDrawing();
  fillMap();
}

// ---- moving and zooming ---------------------------------------------------------------------------------------
function findFit() {
  const { width, height } = views[0].canvas.getBoundingClientRect();
  return Math.min(width / image.size[1], height / image.size[0]) || 1;
}
function fitImage() {
  Object.assign(camera, { scale: findFit(), y: image.size[0] / 2, x: image.size[1] / 2 });
  requestDrawing();
}
function move(dy, dx) { // by screen pixels
  camera.y = Math.min(Math.max(camera.y + dy / camera.scale, 0), image.size[0]);
  camera.x = Math.min(Math.max(camera.x + dx / camera.scale, 0), image.size[1]);
  requestDrawing();
}
function zoom(factor, canvas, clientX, clientY) { // about a point of the screen, or about the middle
  const scale = Math.min(Math.max(camera.scale * factor, findFit() / 2), MAX_SCALE);
  if (canvas) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const change = 1 / camera.scale - 1 / scale;
    camera.y += (clientY - top - height / 2) * change;
    camera.x += (clientX - left - width / 2) * change;
  }
  camera.scale = scale;
  move(0, 0);
}
const KEYS = {
  ArrowUp: () => move(-60, 0), ArrowDown: () => move(60, 0), ArrowLeft: () => move(0, -60), ArrowRight: () => move(0, 60),
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fitImage,
};
function listenToCanvas(canvas) {
  const pointers = new Map();
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), canvas, event.clientX, event.clientY);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const former = pointers.get(event.pointerId);
    if (!former) return;
    if (pointers.size === 1) move(former.clientY - event.clientY, former.clientX - event.clientX);
    else if (pointers.size === 2) { // a pinch
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, own]) => own);
      const distance = (own) => Math.hypot(own.clientX - other.clientX, own.clientY - other.clientY);
      if (distance(former) > 0) zoom(distance(event) / distance(former), canvas, (event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
    }
    pointers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
}

for (const id of ["show-boxes", "show-masks", "floor"]) byId(id).addEventListener("input", describeDrawing);
byId("quantity").addEventListener("input", fillMap);
byId("zoom-in").addEventListener("click", () => zoom(1.5));
byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
byId("fit").addEventListener("click", fitImage);
byId("full").addEventListener("click", () => zoom(1 / (window.devicePixelRatio || 1) / camera.scale));
window.addEventListener("resize", () => { if (image && !byId("content").hidden) requestDrawing(); });
window.addEventListener("hashchange", openAddress);
openAddress();
