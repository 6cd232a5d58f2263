// All rows as typed columns: they come in data pages, which this script loads; sort, filter and search of all of them.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array };
const UNKNOWN = 0xffffffff; // key of an unknown value: after all others in both directions
const NO_MINUTE = -(2 ** 31); // of a row without a date
const NO_FRACTION = 65535; // fractions are stored as 10000 x value
const MAX_DETAIL_PAGES = 400; // in memory, of some 100 kB each
const columns = Object.fromEntries(Object.entries(data.columns).map(([name, kind]) => [name, new KINDS[kind](data.n)]));
const uriPages = []; // per data page: all URIs in one text, one a line, and where each starts
const loweredPages = []; // the same in lower case, for the search
const isLoaded = new Uint8Array(data.n); // per row
let nLoadedPages = 0;
const detailPages = new Map();
const pictures = new Map(); // row -> picture, boxes, entropy map and further details
const sortedOrders = new Map();

// ---- loading --------------------------------------------------------------------------------------------------
const scripts = new Map(); // address -> promise
function loadScript(address) {
  if (!scripts.has(address)) scripts.set(address, new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.charset = "utf-8";
    script.onload = () => { script.remove(); resolve(); };
    script.onerror = () => { script.remove(); scripts.delete(address); reject(new Error(`${address} is missing`)); };
    script.src = address;
    document.head.append(script);
  }));
  return scripts.get(address);
}
const pad = (number) => String(number).padStart(5, "0");
function decodeBytes(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = characters.charCodeAt(k);
  return bytes;
}
function joinLines(lines) { // names may contain line breaks, which a private character stands for
  const starts = new Uint32Array(lines.length + 1);
  for (let k = 0; k < lines.length; k++) starts[k + 1] = starts[k] + lines[k].length + 1;
  return { text: lines.join("\n") + "\n", starts };
}
function decodeUris(page) {
  let previous = "";
  const shared = new Uint16Array(decodeBytes(page.shared).buffer);
  return joinLines(page.uris.map((end, k) => (previous = previous.slice(0, shared[k]) + end.replaceAll("\n", "\ue000"))));
}
const emqa = {
  addRows(page) {
    if (page.build !== data.build) { showMessage("The report was written again since: load this page again."); return; }
    for (const [name, [kind, values]] of Object.entries(page.columns)) {
      if (typeof values === "string") columns[name].set(new KINDS[kind](decodeBytes(values).buffer), page.first);
      else columns[name].fill(values, page.first, page.first + page.n);
    }
    uriPages[page.first / data.page_rows] = decodeUris(page);
    isLoaded.fill(1, page.first, page.first + page.n);
    nLoadedPages += 1;
    sortedOrders.clear();
  },
  addDetails(page) {
    detailPages.set(page.first / data.detail_rows, page);
    if (detailPages.size > MAX_DETAIL_PAGES) {
      const [oldest] = detailPages.keys();
      detailPages.delete(oldest);
      scripts.delete(`details/${pad(oldest)}.js`);
    }
  },
  addPictures(page) { page.rows.forEach((row, k) => pictures.set(row, Object.fromEntries(Object.entries(page).map(([name, values]) => [name, values[k]])))); },
};
const isComplete = () => nLoadedPages === data.n_pages;
let completing = null;
function loadAllRows(report) { // some pages at a time, so that the page stays responsive
  completing ??= (async () => {
    for (let first = 0; first < data.n_pages; first += 4) {
      const numbers = [0, 1, 2, 3].map((k) => first + k).filter((k) => k < data.n_pages && !uriPages[k]);
      await Promise.all(numbers.map((k) => loadScript(`rows/${pad(k)}.js`)));
      if (numbers.length) report();
    }
  })().catch((error) => { completing = null; throw error; });
  return completing;
}
const loadDetails = (rows) => Promise.all([...new Set(rows.map((i) => Math.floor(i / data.detail_rows)))]
  .filter((k) => !detailPages.has(k)).map((k) => loadScript(`details/${pad(k)}.js`)));
const pictureFiles = new Map(data.pictures.rows.map((row, k) => [row, Math.floor(k / data.pictures.per_file)]));
const loadPictures = (rows) => Promise.all([...new Set(rows.filter((i) => pictureFiles.has(i)).map((i) => pictureFiles.get(i)))]
  .map((k) => loadScript(`thumbnails/${pad(k)}.js`)));

// ---- values of a row ------------------------------------------------------------------------------------------
const rawUri = (i) => {
  const page = uriPages[Math.floor(i / data.page_rows)], k = i % data.page_rows;
  return page.text.slice(page.starts[k], page.starts[k + 1] - 1).replaceAll("\ue000", "\n");
};
// What a reader cannot see or what turns text around is written out, so that a name is what it looks like.
const INVISIBLE = /[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]/gu;
const SHORT_ESCAPES = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
const visible = (text) => text.replace(INVISIBLE, (c) => SHORT_ESCAPES[c] ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
const uri = (i) => visible(rawUri(i));
const named = (name, i) => data.names[name][columns[name][i]];
const reasonCodes = (i) => data.reasons[columns.reasons[i]];
function value(name, i) { // null where it is unknown
  const raw = columns[name][i];
  if (data.columns[name] === "u2") return raw === NO_FRACTION ? null : raw / 10000;
  return Number.isNaN(raw) ? null : Number(raw.toPrecision(7));
}
const detail = (name, i) => detailPages.get(Math.floor(i / data.detail_rows))?.[name][i % data.detail_rows] ?? null;

// ---- order ----------------------------------------------------------------------------------------------------
const nameRanks = (names) => {
  const isNumeric = names.every((name) => name === "" || Number(name) === Number(name));
  const order = names.map((_, k) => k).sort((a, b) => isNumeric ? Number(names[a]) - Number(names[b]) : names[a] < names[b] ? -1 : Number(names[a] > names[b]));
  const ranks = new Uint32Array(names.length);
  order.forEach((k, rank) => { ranks[k] = names[k] === "" ? UNKNOWN : rank; });
  return ranks;
};
const SORTED_COLUMNS = { p: "probability", shift: "shift_score" }; // where they have other names than the table's headers
function makeKeys(header) { // unsigned integers in the order of the values
  const name = SORTED_COLUMNS[header] ?? header, values = columns[name], keys = new Uint32Array(data.n);
  if (name === "reasons" || name in data.names) {
    const ranks = name === "reasons" ? Uint32Array.from(data.reasons, (codes) => codes.length ? codes[0] : UNKNOWN) : nameRanks(data.names[name]);
    for (let i = 0; i < data.n; i++) keys[i] = ranks[values[i]];
  } else if (values instanceof Float32Array) {
    const bits = new Uint32Array(values.buffer);
    for (let i = 0; i < data.n; i++) keys[i] = values[i] !== values[i] ? UNKNOWN : bits[i] >>> 31 ? ~bits[i] : bits[i] | 0x80000000;
  } else if (values instanceof Int32Array) {
    for (let i = 0; i < data.n; i++) keys[i] = values[i] === NO_MINUTE ? UNKNOWN : values[i] ^ 0x80000000;
  } else {
    const unknown = values instanceof Uint16Array ? NO_FRACTION : UNKNOWN;
    for (let i = 0; i < data.n; i++) keys[i] = values[i] === unknown ? UNKNOWN : values[i];
  }
  return keys;
}
function radixSort(keys) { // positions of the keys in their order; equal keys keep theirs
  const n = keys.length;
  let order = new Uint32Array(n), next = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  for (let shift = 0; shift < 32; shift += 11) {
    const starts = new Uint32Array(2049);
    for (let i = 0; i < n; i++) starts[((keys[i] >>> shift) & 2047) + 1] += 1;
    if (starts.indexOf(n, 1) > 0) continue; // all keys share these bits
    for (let k = 0; k < 2048; k++) starts[k + 1] += starts[k];
    for (let k = 0; k < n; k++) next[starts[(keys[order[k]] >>> shift) & 2047]++] = order[k];
    [order, next] = [next, order];
  }
  return order;
}
function sortRows(name, isUp) {
  const id = `${name} ${isUp}`;
  if (!sortedOrders.has(id)) {
    const keys = name === "uri" ? new Uint32Array(data.n) : makeKeys(name);
    if (name === "uri") for (let i = 0; i < data.n; i++) keys[i] = i; // rows come by URI and frame
    if (!isUp) for (let i = 0; i < data.n; i++) keys[i] = keys[i] === UNKNOWN ? UNKNOWN : ~keys[i] - 1;
    sortedOrders.set(id, radixSort(keys));
  }
  return sortedOrders.get(id);
}

// ---- filters --------------------------------------------------------------------------------------------------
function keepRows(mask, name, flags) { // flags: 1 for the values of the column that are kept
  const values = columns[name];
  for (let i = 0; i < mask.length; i++) mask[i] &= flags[values[i]];
}
const SEARCHED = ["session", "instrument", "format", "class"];
function searchWord(mask, word) {
  const hits = new Uint8Array(data.n);
  for (const name of ["reasons", ...SEARCHED.filter((name) => name in data.names)]) {
    const texts = name === "reasons" ? data.reasons.map((codes) => codes.map((k) => data.codes[k][2]).join("\n")) : data.names[name];
    const flags = Uint8Array.from(texts, (text) => Number(text.toLowerCase().includes(word)));
    if (flags.includes(1)) for (let i = 0; i < data.n; i++) hits[i] |= flags[columns[name][i]];
  }
  const sentenceFlags = Uint8Array.from(data.sentences, (sentence) => Number(sentence.includes(word)));
  if (sentenceFlags.includes(1)) {
    const flags = Uint8Array.from(data.explanations, (sentences) => Number(sentences.some((k) => sentenceFlags[k])));
    for (let i = 0; i < data.n; i++) hits[i] |= flags[columns.explanation[i]];
  }
  uriPages.forEach((page, number) => {
    loweredPages[number] ??= joinLines(page.text.slice(0, -1).toLowerCase().split("\n"));
    const { text, starts } = loweredPages[number];
    for (let at = text.indexOf(word), k = 0; at >= 0; at = text.indexOf(word, starts[k + 1])) {
      while (starts[k + 1] <= at) k += 1;
      hits[number * data.page_rows + k] = 1;
    }
  });
  for (let i = 0; i < data.n; i++) mask[i] &= hits[i];
}
function selectRows(state) { // positions of the rows that match, in their order
  const mask = isLoaded.slice();
  if (state.verdict) keepRows(mask, "verdict", Uint8Array.from(data.verdicts, ([name]) => Number(name === state.verdict)));
  if (state.reason) {
    const code = data.codes.findIndex(([name]) => name === state.reason);
    keepRows(mask, "reasons", Uint8Array.from(data.reasons, (codes) => Number(codes.includes(code))));
  }
  for (const name of Object.keys(data.names)) if (name in state.named)
    keepRows(mask, name, Uint8Array.from(data.names[name], (text) => Number(text === state.named[name])));
  if (state.from || state.to) {
    const first = state.from ? Date.parse(`${state.from}T00:00Z`) / 60000 : -Infinity, end = state.to ? Date.parse(`${state.to}T00:00Z`) / 60000 + 1440 : Infinity;
    for (let i = 0; i < data.n; i++) mask[i] &= Number(columns.minute[i] !== NO_MINUTE && columns.minute[i] >= first && columns.minute[i] < end);
  }
  if (state.pictured) for (let i = 0; i < data.n; i++) mask[i] &= Number(pictureFiles.has(i));
  for (const word of state.q.trim().toLowerCase().split(/\s+/).filter(Boolean)) searchWord(mask, word);
  const order = sortRows(state.sort, state.up), selected = new Uint32Array(data.n);
  let n = 0;
  for (let k = 0; k < order.length; k++) if (mask[order[k]]) selected[n++] = order[k];
  return selected.subarray(0, n);
}
