// The table of all rows, its filters, and what can be done with the rows that match. Text from the archive reaches the
// page through textContent only.
"use strict";
const byId = (id) => document.getElementById(id);
const make = (tag, name, ...children) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children.filter((child) => child !== null));
  return node;
};
const NO_FILTERS = { q: "", verdict: "", reason: "", from: "", to: "", pictured: false };
const state = { ...NO_FILTERS, named: {}, sort: "uri", up: true, page: 0, size: 50, overlay: true, map: false, floor: 0 };
const hasClasses = "class" in data.columns;
let order = new Uint32Array(0); // rows that match, in their order
function showMessage(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}

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
  const [name, label] = data.verdicts[columns.verdict[i]];
  return make("span", `badge ${name}`, svgIcon(name), label);
};
const chips = (i) => make("span", "chips", ...reasonCodes(i).map((k) => {
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
const baseName = (i) => uri(i).slice(uri(i).lastIndexOf("/") + 1) || uri(i);
const folder = (i) => uri(i).slice(0, uri(i).lastIndexOf("/") + 1);
const formatMinute = (i) => columns.minute[i] === NO_MINUTE ? "" : new Date(columns.minute[i] * 60000).toISOString().slice(0, 16).replace("T", " ");
const className = (i) => hasClasses ? visible(named("class", i)) : "";
const workspaceOf = (i) => data.workspaces[columns.workspace[i]];
function imagePage(i) { // address of the image's own page; "" without one
  const id = detail("id", i), partition = detail("partition", i), base = workspaceOf(i).images;
  return id && partition && base !== null ? `${base}micrograph.html#${encodeURIComponent(partition)}/${encodeURIComponent(id)}` : "";
}

// ---- detections -----------------------------------------------------------------------------------------------
const STOPS = [[64, 156, 255], [255, 96, 170], [255, 214, 10]];
function colour(score) {
  const k = score < 0.5 ? 0 : 1, t = score * 2 - k;
  return `rgb(${STOPS[k].map((a, c) => Math.round(a + (STOPS[k + 1][c] - a) * t)).join(" ")})`;
}
const readFractions = (raw, offset) => [0, 2, 4, 6, 8].map((k) => raw.getUint16(offset + k, true) / 65535);
const viewBytes = (text) => new DataView(decodeBytes(text).buffer);
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
  const ratio = window.devicePixelRatio || 1, picture = pictures.get(i);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  if (!pen || !canvas.width || !canvas.height || !picture) return;
  if (state.map && picture.maps) drawMap(pen, canvas, viewBytes(picture.maps));
  if (!state.overlay || !picture.boxes) return;
  const raw = viewBytes(picture.boxes);
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
  if (!pictures.get(i)?.jpeg) return make("span", "no-picture", "no picture");
  const image = make("img", "");
  image.alt = "";
  const canvas = make("canvas", "");
  const frame = make("span", "picture", image, canvas);
  image.addEventListener("load", () => drawOverlay(canvas, i));
  image.addEventListener("error", () => frame.replaceWith(make("span", "no-picture", "no picture")));
  image.src = `data:image/jpeg;base64,${pictures.get(i).jpeg}`;
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
    for (const [key, text] of Object.entries({ x, width, y, height, class: name })) node.setAttribute(key, text);
    svg.append(node);
  };
  const [f1, low, high] = ["f1", "low", "high"].map((name) => value(name, i));
  rect(0, 100, 3, 2, "rail");
  rect(100 * low, Math.max(1, 100 * (high - low)), 2, 4, "span");
  rect(100 * f1 - 1, 2, 0, 8, "point");
  return svg;
}
function makeF1Cell(i) {
  const [f1, low, high, probability] = ["f1", "low", "high", "f1_probability"].map((name) => value(name, i));
  if (f1 === null) return make("span", "", "–");
  const ends = low === null || high === null ? null : make("span", "ends", `${roundDown(low, 2)} to ${number(high, 2)}`);
  const share = probability === null ? null : make("span", "ends", `P(F1 ≥ ${data.trust_f1}) = ${roundDown(probability, 2)}`);
  return make("span", "f1", number(f1, 2), ends, ends && drawInterval(i), share);
}
function makeCell(name, label, ...children) {
  const td = make("td", name, ...children);
  if (label) td.dataset.label = label;
  return td;
}
function makeClassCells(i) {
  const score = value("shift_score", i);
  return [
    makeCell("c-class", "Class", className(i) ? make("bdi", "", className(i)) : "–"),
    makeCell("number", "p", roundDown(value("probability", i), 2)),
    makeCell("number", "H, nats", roundUp(value("entropy", i), 3)),
    makeCell("c-shift", "Shift", make("span", "shift", named("shift", i) || "–"), score === null ? null : make("span", "ends", `score ${roundUp(score, 2)}`))];
}
function listFacts(i) {
  const height = detail("height", i), minute = formatMinute(i);
  return [data.workspaces.length > 1 ? workspaceOf(i).name : null, detail("stacked", i) ? `frame ${columns.frame[i]}` : null,
    height === null ? null : `${height} × ${detail("width", i)} px`, named("format", i) || null, minute || null].filter(Boolean).join(", ");
}
const pixelSizes = (i) => { // along x, and along y where that differs
  const x = pixelSize(value("nm", i)), y = detail("nm_y", i);
  return y === null || x === pixelSize(y) ? x : `${x} × ${pixelSize(y)}`;
};
function makeRow(i) {
  const open = make("button", "name", make("bdi", "", baseName(i)));
  open.type = "button";
  open.title = uri(i);
  const place = folder(i) ? make("bdi", "folder", folder(i)) : null;
  const tr = make("tr", "",
    makeCell("c-picture", "", makePicture(i)),
    makeCell("c-verdict", "", badge(i)),
    makeCell("c-name", "", open, place, make("span", "facts", listFacts(i))),
    makeCell("c-why", "", chips(i), make("span", "text", detail("text", i) ?? "")),
    makeCell("number", "Detections", number(value("n", i), 0)),
    makeCell("number c-f1", "Predicted F1", makeF1Cell(i)),
    makeCell("number", "Distance", roundUp(value("distance", i), 2)),
    makeCell("number", "nm / px", pixelSizes(i)),
    ...(hasClasses ? makeClassCells(i) : []));
  tr.dataset.row = i;
  // On narrow screens rows are laid out as cards, which removes their implicit roles.
  tr.setAttribute("role", "row");
  [...tr.cells].forEach((td) => td.setAttribute("role", "cell"));
  return tr;
}
let shown = 0; // number of the latest page of rows
async function fillRows(visibleRows) { // what comes with details and pictures
  const turn = ++shown;
  byId("rows").replaceChildren(...visibleRows.map(makeRow));
  await Promise.all([loadDetails(visibleRows), loadPictures(visibleRows)]).catch((error) => showMessage(String(error.message)));
  if (turn !== shown) return;
  const focused = document.activeElement?.closest?.("#rows tr")?.dataset.row;
  byId("rows").replaceChildren(...visibleRows.map(makeRow));
  if (focused) document.querySelector(`tr[data-row="${focused}"] .name`)?.focus();
  byId("table").setAttribute("aria-busy", "false");
}
const hasFilters = () => Boolean(state.q || state.verdict || state.reason || state.from || state.to || state.pictured || Object.keys(state.named).length);
function showPage() {
  const nPages = Math.max(1, Math.ceil(order.length / state.size));
  state.page = Math.min(Math.max(state.page, 0), nPages - 1);
  const first = state.page * state.size, visibleRows = [...order.subarray(first, first + state.size)];
  byId("table").setAttribute("aria-busy", "true");
  fillRows(visibleRows);
  const all = hasFilters() ? order.length : data.n, english = (n) => n.toLocaleString("en");
  byId("empty").hidden = order.length > 0;
  byId("count").textContent = (order.length
    ? `${english(first + 1)} to ${english(first + visibleRows.length)} of ${english(all)}` + (all < data.n ? `, filtered from ${english(data.n)}` : "")
    : "0 rows") + (isComplete() || !hasFilters() && !completing ? "" : `, ${Math.round(100 * nLoadedPages / data.n_pages)} % of the rows are loaded`);
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page === nPages - 1;
  for (const id of ["copy", "download"]) byId(id).disabled = !order.length;
}
function markControls() {
  document.querySelectorAll("th[data-sort]").forEach((th) => {
    if (th.dataset.sort === state.sort) th.setAttribute("aria-sort", state.up ? "ascending" : "descending");
    else th.removeAttribute("aria-sort");
  });
  document.querySelectorAll("[data-verdict]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.verdict === state.verdict)));
  document.querySelectorAll("[data-reason]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.reason === state.reason)));
  document.querySelectorAll("button[data-filter]").forEach((b) => b.setAttribute("aria-pressed", String(state.named[b.dataset.filter] === b.dataset.value)));
  for (const id of ["verdict", "reason", "from", "to"]) byId(id).value = state[id];
  for (const select of document.querySelectorAll("select[data-filter]"))
    select.value = select.dataset.filter in state.named ? `=${state.named[select.dataset.filter]}` : "";
  if (byId("search").value !== state.q) byId("search").value = state.q;
  byId("pictured").checked = state.pictured;
  byId("sort").value = `${state.sort} ${state.up}`;
  byId("clear").disabled = !hasFilters();
}
function updateTable() {
  selectAndShow();
  if (!isComplete() && (hasFilters() || state.sort !== "uri" || !state.up || state.page)) loadOthers();
}
function selectAndShow() {
  order = selectRows(state);
  showPage();
  markControls();
  writeAddress();
}
function loadOthers() {
  let drawn = performance.now();
  loadAllRows(() => { // the table follows from time to time
    if (!isComplete() && performance.now() - drawn < 500) return;
    selectAndShow();
    drawn = performance.now();
  }).catch((error) => showMessage(String(error.message)));
}
function changeTable(changes) {
  Object.assign(state, { page: 0, ...changes });
  updateTable();
}
const clearFilters = () => changeTable({ ...NO_FILTERS, named: {} });
function setNamed(name, text) { // text: null removes the filter
  const filters = { ...state.named };
  delete filters[name];
  changeTable({ named: text === null ? filters : { ...filters, [name]: text } });
}
function turnPage(by) {
  changeTable({ page: state.page + by });
  byId("images").scrollIntoView();
}

// ---- filters and sort in the address --------------------------------------------------------------------------
const DEFAULTS = { q: "", verdict: "", reason: "", from: "", to: "", sort: "uri", page: 0, size: 50 };
function writeAddress() {
  const pairs = new URLSearchParams();
  for (const [name, usual] of Object.entries(DEFAULTS)) if (state[name] !== usual) pairs.set(name, state[name]);
  for (const [name, text] of Object.entries(state.named)) pairs.set(name, text);
  if (!state.up) pairs.set("down", "1");
  if (state.pictured) pairs.set("pictured", "1");
  const text = pairs.toString();
  if (text || location.hash.includes("=")) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}
function readAddress() {
  if (!location.hash.includes("=")) return false;
  const pairs = new URLSearchParams(location.hash.slice(1));
  const isSort = document.querySelector(`th[data-sort="${CSS.escape(pairs.get("sort") ?? "uri")}"]`);
  Object.assign(state, DEFAULTS, Object.fromEntries(Object.keys(DEFAULTS).filter((name) => pairs.has(name)).map((name) => [name, pairs.get(name)])));
  Object.assign(state, { sort: isSort ? state.sort : "uri", page: Number(state.page) || 0, size: [25, 50, 100, 250].includes(Number(state.size)) ? Number(state.size) : 50,
    up: !pairs.has("down"), pictured: pairs.has("pictured"), named: {} });
  for (const name of Object.keys(data.names)) if (pairs.has(name)) state.named[name] = pairs.get(name);
  return true;
}

// ---- the rows that match, for other programs ------------------------------------------------------------------
const FIELDS = ["uri", "frame", "verdict", "reasons", "n_detections", "predicted_f1", "predicted_f1_low", "predicted_f1_high", "f1_probability",
  "ood_distance", "nm_per_pixel", "session", "instrument", "magnification", "acquired", "workspace"];
// A spreadsheet takes what starts so for a formula; a file's name can be one.
const defuse = (text) => /^[\s\p{C}\p{M}]*[=+\-@\t\r\u2212\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b]/u.test(text) ? `'${text}` : text;
const quote = (text) => `"${defuse(text).replaceAll('"', '""')}"`;
function formatLine(i) {
  const numbers = ["n", "f1", "low", "high", "f1_probability", "distance", "nm"].map((name) => value(name, i) ?? "");
  return [quote(rawUri(i)), columns.frame[i], data.verdicts[columns.verdict[i]][0], quote(reasonCodes(i).map((k) => data.codes[k][0]).join(";")), ...numbers,
    quote(named("session", i)), quote(named("instrument", i)), named("magnification", i), quote(formatMinute(i)), quote(workspaceOf(i).name)].join(",");
}
const listPaths = () => [...new Set(Array.from(order, (i) => workspaceOf(i).root + rawUri(i)))];
async function copyPaths() {
  await loadAllRows(() => {});
  order = selectRows(state);
  const paths = listPaths(), text = paths.join("\n") + "\n";
  try {
    await navigator.clipboard.writeText(text);
  } catch { // pages without https
    const area = make("textarea", "unseen");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  byId("done").textContent = `${paths.length.toLocaleString("en")} paths were copied.`;
}
async function downloadRows() {
  await loadAllRows(() => {});
  order = selectRows(state);
  const pieces = ["\ufeff", FIELDS.join(","), "\n"];
  for (let first = 0; first < order.length; first += 10000) pieces.push([...order.subarray(first, first + 10000)].map(formatLine).join("\n"), "\n");
  const link = make("a", "");
  link.href = URL.createObjectURL(new Blob(pieces, { type: "text/csv" }));
  link.download = "triage-selection.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  byId("done").textContent = `${order.length.toLocaleString("en")} rows were saved.`;
}
