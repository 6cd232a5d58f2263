"use strict";
// The review of images: queue, picture on a canvas, objects that a mouse edits, decisions by key.

const MAX_PIXELS = 2 ** 22; // of a picture that is loaded at once; larger images come as an overview and windows
const HANDLE = 7; // distance in screen px from which a corner of a box is caught
const POLL_MS = 15000; // time between two looks at the decisions of others
const KINDS = ["accept", "reject", "unsure"];

const element = (id) => document.getElementById(id);
const canvas = element("view");
const pen = canvas.getContext("2d");
let images = [];
let states = {}; // image id -> reviewer -> decision
let current = -1;
let picture = null; // {overview, detail} of the shown image
let objects = []; // {box: [y0, x0, y1, x1], k: number of the unchanged detection or null}
let edits = []; // earlier lists of objects
let edited = false;
let selected = -1;
let tool = "move";
let view = { scale: 1, x: 0, y: 0 }; // screen = image * scale + offset
let drag = null;
let waiting = null; // data of the next image
let busy = false;
let nDecisions = 0; // of this page
const times = []; // of the last decisions, ms
let shownAt = 0;

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error((await answer.text()) || answer.statusText);
  return answer;
}

const reviewer = () => element("reviewer").value.trim();

// ---------------------------------------------------------------- pictures

async function loadWindow(image, window, step) {
  const query = new URLSearchParams({ id: image.id, step, y0: window[0], x0: window[1], y1: window[2], x1: window[3] });
  const answer = await ask("api/pixels?" + query);
  const width = Number(answer.headers.get("X-Width"));
  const codes = new Uint16Array(await answer.arrayBuffer());
  return { codes, width, height: codes.length / width, window, step };
}

async function load(image) {
  let step = 1;
  while (Math.ceil(image.height / step) * Math.ceil(image.width / step) > MAX_PIXELS) step += 1;
  const answers = [
    loadWindow(image, [0, 0, image.height, image.width], step),
    ask("api/objects?" + new URLSearchParams({ id: image.id })).then((answer) => answer.json()),
  ];
  const [overview, found] = await Promise.all(answers);
  return { overview, found };
}

function findLimits(codes) {
  const counts = new Uint32Array(65536);
  const stride = Math.max(1, Math.floor(codes.length / 200000));
  let n = 0;
  for (let i = 0; i < codes.length; i += stride, n += 1) counts[codes[i]] += 1;
  const at = (share) => {
    let sum = 0;
    for (let code = 0; code < 65536; code += 1) if ((sum += counts[code]) > share * n) return code;
    return 65535;
  };
  return { low: at(0.0005), high: Math.max(at(0.9995), at(0.0005) + 1) };
}

function makeTable() {
  const { low, high } = picture.limits;
  const black = low + (high - low) * element("black").value / 1000;
  const white = Math.max(low + (high - low) * element("white").value / 1000, black + 1);
  const exponent = 10 ** (element("gamma").value / 100 * -0.7);
  const table = new Uint32Array(65536);
  for (let code = 0; code < 65536; code += 1) {
    const value = Math.round(255 * Math.min(Math.max((code - black) / (white - black), 0), 1) ** exponent);
    table[code] = 0xff000000 | (value << 16) | (value << 8) | value;
  }
  return table;
}

function paint(layer, table) {
  layer.canvas = layer.canvas || document.createElement("canvas");
  layer.canvas.width = layer.width;
  layer.canvas.height = layer.height;
  const data = new ImageData(layer.width, layer.height);
  const words = new Uint32Array(data.data.buffer);
  for (let i = 0; i < words.length; i += 1) words[i] = table[layer.codes[i]];
  layer.canvas.getContext("2d").putImageData(data, 0, 0);
}

function repaint() {
  if (!picture) return;
  const table = makeTable();
  paint(picture.overview, table);
  if (picture.detail) paint(picture.detail, table);
  draw();
}

function drawLayer(layer) {
  const [y0, x0, y1, x1] = layer.window;
  pen.drawImage(layer.canvas, x0 * view.scale + view.x, y0 * view.scale + view.y,
    (x1 - x0) * view.scale, (y1 - y0) * view.scale);
}

function draw() {
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!picture) return;
  const ratio = window.devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.imageSmoothingEnabled = view.scale < 2;
  drawLayer(picture.overview);
  if (picture.detail) drawLayer(picture.detail);
  if (element("hide").getAttribute("aria-pressed") === "true") return;
  objects.forEach((object, number) => drawObject(object, number === selected));
}

function drawObject(object, isSelected) {
  const [y0, x0, y1, x1] = object.box.map((value, i) => value * view.scale + (i % 2 ? view.x : view.y));
  for (const [colour, width] of [["#000", 3], [isSelected ? "#ffd60a" : object.k === null ? "#4cc9f0" : "#7ae582", 1.5]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    if (isPoint(object)) {
      pen.moveTo(x0 - 6, y0); pen.lineTo(x0 + 6, y0); pen.moveTo(x0, y0 - 6); pen.lineTo(x0, y0 + 6);
    } else pen.rect(x0, y0, x1 - x0, y1 - y0);
    pen.stroke();
  }
  if (!isSelected || isPoint(object)) return;
  pen.fillStyle = "#ffd60a";
  for (const y of [y0, y1]) for (const x of [x0, x1]) pen.fillRect(x - 3, y - 3, 6, 6);
}

let detailTimer = 0;

function askDetail() {
  clearTimeout(detailTimer);
  if (!picture || picture.overview.step === 1 || view.scale * picture.overview.step <= 1) return;
  detailTimer = setTimeout(async () => {
    const image = images[current];
    const shown = picture;
    const step = Math.max(1, Math.floor(1 / view.scale));
    const edges = [-view.y, -view.x, canvas.clientHeight - view.y, canvas.clientWidth - view.x];
    const limits = [image.height, image.width, image.height, image.width];
    const window = edges.map((edge, i) => Math.min(Math.max(Math.round(edge / view.scale), 0), limits[i]));
    if (window[2] - window[0] < 1 || window[3] - window[1] < 1) return;
    const detail = await loadWindow(image, window, step);
    if (shown !== picture) return;
    picture.detail = detail;
    paint(detail, makeTable());
    draw();
  }, 150);
}

function fit() {
  const image = images[current];
  const scale = Math.min(canvas.clientWidth / image.width, canvas.clientHeight / image.height);
  view = { scale, x: (canvas.clientWidth - image.width * scale) / 2, y: (canvas.clientHeight - image.height * scale) / 2 };
  draw();
}

function zoom(factor, x, y) {
  const scale = Math.min(Math.max(view.scale * factor, 0.005), 64);
  view = { scale, x: x - (x - view.x) * scale / view.scale, y: y - (y - view.y) * scale / view.scale };
  draw();
  askDetail();
}

// ---------------------------------------------------------------- objects

const isPoint = (object) => object.box[0] === object.box[2] && object.box[1] === object.box[3];

function change(edit) {
  edits.push(objects.map((object) => ({ box: [...object.box], k: object.k })));
  edit();
  edited = true;
  draw();
}

function toImage(event) {
  const frame = canvas.getBoundingClientRect();
  const x = event.clientX - frame.left;
  const y = event.clientY - frame.top;
  return { sx: x, sy: y, x: (x - view.x) / view.scale, y: (y - view.y) / view.scale };
}

function findCorner(place) {
  if (selected < 0 || isPoint(objects[selected])) return null;
  const box = objects[selected].box;
  for (const i of [0, 2]) for (const j of [1, 3]) {
    const distance = Math.max(Math.abs(box[i] - place.y), Math.abs(box[j] - place.x)) * view.scale;
    if (distance <= HANDLE) return [i, j];
  }
  return null;
}

function isInside(place, box) {
  const margin = HANDLE / view.scale;
  return place.y >= box[0] - margin && place.y <= box[2] + margin
    && place.x >= box[1] - margin && place.x <= box[3] + margin;
}

// The selected object if it is there, else the smallest one.
function findObject(place) {
  if (selected >= 0 && isInside(place, objects[selected].box)) return selected;
  let best = -1;
  let bestArea = Infinity;
  objects.forEach(({ box }, number) => {
    const area = (box[2] - box[0]) * (box[3] - box[1]);
    if (area < bestArea && isInside(place, box)) [best, bestArea] = [number, area];
  });
  return best;
}

function clamp(box) {
  const image = images[current];
  const limits = [image.height, image.width, image.height, image.width];
  return box.map((value, i) => Math.min(Math.max(value, 0), limits[i]));
}

canvas.addEventListener("pointerdown", (event) => {
  if (!picture) return;
  canvas.focus();
  canvas.setPointerCapture(event.pointerId);
  const place = toImage(event);
  if (tool === "point") {
    change(() => objects.push({ box: clamp([place.y, place.x, place.y, place.x]), k: null }));
    selected = objects.length - 1;
  } else if (tool === "box") drag = { kind: "new", place };
  else {
    const corner = findCorner(place);
    if (corner) drag = { kind: "resize", corner, place, box: [...objects[selected].box] };
    else {
      selected = element("hide").getAttribute("aria-pressed") === "true" ? -1 : findObject(place);
      const box = selected < 0 ? null : [...objects[selected].box];
      drag = { kind: selected < 0 ? "pan" : "move", place, box, view: { ...view } };
    }
  }
  draw();
});

canvas.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const place = toImage(event);
  if (drag.kind === "pan") {
    view.x = drag.view.x + place.sx - drag.place.sx;
    view.y = drag.view.y + place.sy - drag.place.sy;
    askDetail();
    return draw();
  }
  if (Math.hypot(place.sx - drag.place.sx, place.sy - drag.place.sy) < 3 && !drag.started) return;
  if (!drag.started) {
    drag.started = true;
    change(() => {
      if (drag.kind === "new") selected = objects.push({ box: [0, 0, 0, 0], k: null }) - 1;
      objects[selected].k = null;
    });
  }
  objects[selected].box = clamp(followDrag(place));
  draw();
});

function followDrag(place) {
  if (drag.kind === "new") {
    const [a, b] = [drag.place, place];
    return [Math.min(a.y, b.y), Math.min(a.x, b.x), Math.max(a.y, b.y), Math.max(a.x, b.x)];
  }
  const box = [...drag.box];
  if (drag.kind === "move") {
    return box.map((value, i) => value + (i % 2 ? place.x - drag.place.x : place.y - drag.place.y));
  }
  box[drag.corner[0]] = place.y;
  box[drag.corner[1]] = place.x;
  return [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.max(box[0], box[2]), Math.max(box[1], box[3])];
}

canvas.addEventListener("pointerup", () => {
  if (drag && drag.started) {
    const box = objects[selected].box;
    if (drag.kind === "new" && (box[2] - box[0] < 1 || box[3] - box[1] < 1)) {
      objects.pop();
      selected = -1;
      draw();
    }
  }
  drag = null;
});

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const place = toImage(event);
  zoom(1.2 ** (event.deltaY < 0 ? 1 : -1), place.sx, place.sy);
}, { passive: false });

function remove() {
  if (selected < 0) return;
  change(() => objects.splice(selected, 1));
  selected = -1;
  draw();
}

function stepBack() {
  if (!edits.length) return;
  objects = edits.pop();
  edited = edits.length > 0 || picture.found.is_edited;
  selected = -1;
  draw();
}

function revert() {
  change(() => { objects = picture.found.detections.map((box, k) => ({ box: [...box], k })); });
  edited = false;
  selected = -1;
  draw();
}

function selectTool(name) {
  tool = name;
  for (const id of ["move", "box", "point"]) element(id).setAttribute("aria-pressed", String(id === name));
}

// ---------------------------------------------------------------- queue

function isOpen(image) {
  const decided = states[image.id] || {};
  return element("second").checked ? !(reviewer() in decided) : !Object.keys(decided).length;
}

function findOpen(start) {
  for (let k = 0; k < images.length; k += 1) {
    const number = (start + k) % images.length;
    if (isOpen(images[number])) return number;
  }
  return -1;
}

async function show(number) {
  current = number;
  picture = null;
  const image = images[number];
  const loaded = waiting && waiting.id === image.id ? await waiting.data : await load(image);
  if (current !== number) return;
  picture = { ...loaded, detail: null, limits: findLimits(loaded.overview.codes) };
  const own = loaded.found.objects[reviewer()];
  picture.found.is_edited = Boolean(own);
  objects = (own || loaded.found.detections.map((box, k) => ({ box, k }))).map(({ box, k }) => ({ box: [...box], k }));
  edits = [];
  edited = Boolean(own);
  selected = -1;
  drag = null;
  element("black").value = 0;
  element("white").value = 1000;
  element("gamma").value = 0;
  element("comment").value = "";
  element("name").textContent = image.uri + (image.frame ? ` (frame ${image.frame})` : "");
  element("facts").textContent = [image.verdict, `${objects.length} objects`, loaded.found.detector, image.why]
    .filter(Boolean).join(" · ");
  paint(picture.overview, makeTable());
  resize();
  fit();
  tell();
  shownAt = performance.now();
  canvas.dataset.shown = image.id;
  const next = findOpen(number + 1);
  if (next >= 0 && next !== number) waiting = { id: images[next].id, data: load(images[next]) };
  if (waiting) waiting.data.catch(() => { waiting = null; });
}

function tell() {
  const open = images.filter(isOpen).length;
  const done = images.length - open;
  const sorted = [...times].sort((a, b) => a - b);
  const rest = sorted.length >= 3 ? sorted[Math.floor(sorted.length / 2)] * open / 60000 : 0;
  element("progress").textContent = `${done} of ${images.length} decided`
    + (rest ? `, about ${rest < 1 ? "1" : Math.ceil(rest)} min left` : "");
  const decided = Object.entries(states[(images[current] || {}).id] || {});
  element("others").textContent = decided.map(([name, kind]) => `${name}: ${kind}`).join(", ");
}

async function refresh() {
  const version = nDecisions;
  const answer = await (await ask("api/state")).json();
  if (version !== nDecisions) return; // older than a decision that was made meanwhile
  states = answer;
  tell();
}

async function decide(kind) {
  if (busy || !picture) return;
  if (!reviewer()) {
    element("message").textContent = "Enter your name first.";
    return element("reviewer").focus();
  }
  busy = true;
  nDecisions += 1;
  const image = images[current];
  const list = objects.map(({ box, k }) => (k === null ? box : k));
  const body = { id: image.id, reviewer: reviewer(), decision: kind, comment: element("comment").value };
  try {
    await ask("api/decide", { ...body, objects: kind === "accept" && edited ? list : null });
    nDecisions += 1;
    element("message").textContent = "";
    states[image.id] = { ...states[image.id], [reviewer()]: kind };
    times.push(performance.now() - shownAt);
    if (times.length > 30) times.shift();
    await showNext();
  } catch (error) {
    element("message").textContent = `The decision is not stored: ${error.message}`;
  }
  busy = false;
}

// Another image by hand, decided or not.
function browse(step) {
  show((current + step + images.length) % images.length)
    .catch((error) => { element("message").textContent = error.message; });
}

async function showNext() {
  const next = findOpen(current + 1);
  if (next >= 0) return show(next);
  tell();
  element("message").textContent = "All images are decided.";
}

async function undo() {
  if (busy || !reviewer()) return;
  busy = true;
  try {
    const { id } = await (await ask("api/undo", { reviewer: reviewer() })).json();
    await refresh();
    const number = images.findIndex((image) => image.id === id);
    waiting = null;
    if (number >= 0) await show(number);
    element("message").textContent = "";
  } catch (error) {
    element("message").textContent = error.message;
  }
  busy = false;
}

function resize() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  draw();
}

function toggleObjects() {
  const button = element("hide");
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  draw();
}

const ACTIONS = {
  a: () => decide("accept"), r: () => decide("reject"), u: () => decide("unsure"), z: undo,
  m: () => selectTool("move"), b: () => selectTool("box"), p: () => selectTool("point"),
  h: toggleObjects, c: () => element("comment").focus(), 0: fit,
  1: () => zoom(1 / view.scale, canvas.clientWidth / 2, canvas.clientHeight / 2),
  "+": () => zoom(1.2, canvas.clientWidth / 2, canvas.clientHeight / 2),
  "-": () => zoom(1 / 1.2, canvas.clientWidth / 2, canvas.clientHeight / 2),
  Delete: remove, Backspace: remove,
  ArrowRight: () => browse(1), ArrowLeft: () => browse(-1),
};

document.addEventListener("keydown", (event) => {
  if (/^(INPUT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox") {
    if (event.key === "Escape") canvas.focus();
    return;
  }
  if ((event.ctrlKey || event.metaKey) && event.key === "z") return stepBack();
  if (event.ctrlKey || event.metaKey || event.altKey || !images.length) return;
  const action = ACTIONS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat || event.key.startsWith("Arrow")) action();
});

for (const kind of KINDS) element(kind).addEventListener("click", () => decide(kind));
for (const name of ["move", "box", "point"]) element(name).addEventListener("click", () => selectTool(name));
for (const name of ["black", "white", "gamma"]) element(name).addEventListener("input", repaint);
element("undo").addEventListener("click", undo);
element("delete").addEventListener("click", remove);
element("revert").addEventListener("click", revert);
element("hide").addEventListener("click", toggleObjects);
element("previous").addEventListener("click", ACTIONS.ArrowLeft);
element("next").addEventListener("click", ACTIONS.ArrowRight);
element("fit").addEventListener("click", fit);
element("full").addEventListener("click", ACTIONS["1"]);
element("second").addEventListener("change", tell);
element("reviewer").addEventListener("change", () => { times.length = 0; tell(); });
window.addEventListener("resize", () => { resize(); askDetail(); });

async function start() {
  const { images: list, reviewer: name } = await (await ask("api/queue")).json();
  images = list;
  element("reviewer").value = name;
  await refresh();
  setInterval(() => refresh().catch(() => {}), POLL_MS);
  if (!images.length) {
    element("name").textContent = "No image to review";
    return;
  }
  canvas.focus();
  await show(Math.max(findOpen(0), 0));
}

window.history.replaceState(null, "", window.location.pathname);
start().catch((error) => { element("message").textContent = error.message; });
