// The larger view of an image, and the events of all controls.
"use strict";
function makeClassPairs(i) {
  if (!className(i)) return [["Class", "–"]];
  const mutual = detail("mutual", i), score = value("shift_score", i);
  return [
    ["Class", make("bdi", "", className(i))],
    ["Probability", roundDown(value("probability", i), 3)],
    ["Predictive entropy, nats", roundUp(value("entropy", i), 3) + (mutual === null ? "" : `, of it mutual information ${number(mutual, 3)}`)],
    ["Shift", (named("shift", i) || "unknown") + (score === null ? "" : ` (score ${roundUp(score, 2)}, limit 1)`)],
  ];
}
const describeInterval = (name, i) => detail(name, i) === null ? "" : number(detail(name, i), 2) +
  (detail(`${name}_low`, i) === null ? "" : ` (${roundDown(detail(`${name}_low`, i), 2)} to ${number(detail(`${name}_high`, i), 2)})`);
function listPairs(i) {
  const drawn = pictures.get(i)?.boxes ? decodeBytes(pictures.get(i).boxes).length / 10 : 0;
  const [n, f1, probability, nm] = ["n", "f1", "f1_probability", "nm"].map((name) => value(name, i));
  const [agreement, density, diameter, area, swelling, defocus] = ["agreement", "density", "diameter", "area_fraction", "swelling", "defocus"].map((name) => detail(name, i));
  return [
    ["Detector", detail("detector", i) && detail("detector", i) + (agreement === null ? "" : ` (agreement with the others ${number(agreement, 2)})`)],
    ["Detections", number(n, 0) + (n > drawn && drawn ? ` (strongest ${drawn} drawn)` : "")],
    ["Predicted F1", f1 === null ? "–" : `${number(f1, 3)} (${roundDown(value("low", i), 3)} to ${number(value("high", i), 3)})`],
    [`P(F1 ≥ ${data.trust_f1})`, probability === null ? "" : `${roundDown(probability, 2)} (trust asks for ${data.trust_probability})`],
    ["Predicted precision", describeInterval("precision", i)],
    ["Predicted recall", describeInterval("recall", i)],
    ["Because", (detail("because", i) ?? "").replaceAll("; ", ";\n")],
    ["Density, mean diameter", density === null ? "" : `${density.toPrecision(3)} per µm²` + (diameter === null ? "" : `, ${diameter.toPrecision(3)} nm`)],
    ["Area fraction", area === null ? "" : `${(100 * area).toPrecision(3)} %` + (swelling === null ? "" : `; swelling ${swelling.toPrecision(3)} %`)],
    ["Distance to training images", roundUp(value("distance", i), 3)],
    ["Pixel size", nm === null ? "unknown" : `${pixelSizes(i)} nm` + (detail("source", i) ? ` (${detail("source", i)})` : "")],
    ...(hasClasses ? makeClassPairs(i) : []),
    ["Defocus, from Thon rings", defocus === null ? "" : `${number(defocus, 0)} nm`],
    ["Size", detail("height", i) === null ? "–" : `${detail("height", i)} × ${detail("width", i)} px`],
    ["Session", visible(named("session", i))],
    ...(pictures.get(i)?.details ?? [["Microscope", visible(named("instrument", i))], ["Acquired", formatMinute(i)]]),
    ["Format", named("format", i) || "not recognised"],
    ["Workspace", data.workspaces.length > 1 ? workspaceOf(i).name : ""],
    ["Micrograph", detail("id", i) ?? "none"],
  ].filter(([, text]) => text);
}
let viewed = 0; // position in `order`
async function fillView() {
  const i = order[viewed];
  await Promise.all([loadDetails([i]), loadPictures([i])]).catch((error) => showMessage(String(error.message)));
  if (i !== order[viewed]) return;
  byId("view-name").replaceChildren(make("bdi", "", baseName(i)));
  byId("view-where").replaceChildren(make("bdi", "", uri(i)), detail("stacked", i) ? `, frame ${columns.frame[i]}` : "");
  byId("view-badge").replaceChildren(badge(i), chips(i));
  byId("view-text").textContent = detail("text", i);
  byId("view-numbers").replaceChildren(...listPairs(i).flatMap(([name, text]) => [make("dt", "", name), make("dd", "", text)]));
  byId("view-page").hidden = !imagePage(i);
  if (imagePage(i)) byId("view-page").href = imagePage(i);
  byId("view-picture").style.setProperty("--ratio", detail("height", i) ? detail("width", i) / detail("height", i) : 1);
  byId("view-picture").replaceChildren(makePicture(i));
  byId("view-previous").disabled = viewed === 0;
  byId("view-next").disabled = viewed === order.length - 1;
}
function stepView(by) {
  viewed = Math.min(Math.max(viewed + by, 0), order.length - 1);
  return fillView();
}
function openView(i) {
  viewed = order.indexOf(i);
  byId("view").showModal();
  return fillView();
}
async function openGalleryRow(i) { // a row of the galleries may not be loaded, or not match
  if (!isLoaded[i]) await loadAllRows(() => {});
  if (!order.includes(i)) clearFilters();
  return openView(i);
}

// ---- events -------------------------------------------------------------------------------------------
const addListener = (id, event, act) => byId(id).addEventListener(event, act);
document.querySelectorAll("th[data-sort]").forEach((th) => {
  const label = th.textContent;
  th.firstElementChild.addEventListener("click", () => changeTable({ sort: th.dataset.sort, up: state.sort === th.dataset.sort ? !state.up : true }));
  for (const up of [true, false]) {
    const option = make("option", "", `${label}, ${up ? "up" : "down"}`);
    option.value = `${th.dataset.sort} ${up}`;
    byId("sort").append(option);
  }
});
addListener("sort", "change", (e) => { const [key, up] = e.target.value.split(" "); changeTable({ sort: key, up: up === "true" }); });
document.querySelectorAll(".card, .reasons button").forEach((button) => button.addEventListener("click", () => {
  const kind = button.dataset.verdict ? "verdict" : "reason", text = button.dataset[kind];
  changeTable({ [kind]: state[kind] === text ? "" : text });
}));
document.querySelectorAll("button[data-filter]").forEach((button) => button.addEventListener("click", () => {
  const { filter, value: text } = button.dataset;
  setNamed(filter, state.named[filter] === text ? null : text);
  byId("images").scrollIntoView();
}));
document.querySelectorAll("button[data-from]").forEach((button) => button.addEventListener("click", () => {
  changeTable({ from: button.dataset.from, to: button.dataset.to });
  byId("images").scrollIntoView();
}));
document.querySelectorAll("select[data-filter]").forEach((select) =>
  select.addEventListener("change", () => setNamed(select.dataset.filter, select.value ? select.value.slice(1) : null)));
document.querySelectorAll("button[data-row]").forEach((button) => button.addEventListener("click", () => openGalleryRow(Number(button.dataset.row))));
let typing = 0;
addListener("search", "input", (e) => { clearTimeout(typing); typing = setTimeout(() => changeTable({ q: e.target.value }), 120); });
for (const id of ["verdict", "reason", "from", "to"]) addListener(id, "change", (e) => changeTable({ [id]: e.target.value }));
addListener("pictured", "change", (e) => changeTable({ pictured: e.target.checked }));
addListener("size", "change", (e) => changeTable({ size: Number(e.target.value) }));
addListener("clear", "click", clearFilters);
addListener("clear-2", "click", clearFilters);
addListener("previous", "click", () => turnPage(-1));
addListener("next", "click", () => turnPage(1));
addListener("copy", "click", copyPaths);
addListener("download", "click", downloadRows);
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
window.addEventListener("hashchange", () => { if (readAddress()) { updateTable(); byId("images").scrollIntoView(); } });
const startTable = () => {
  readAddress();
  byId("size").value = state.size;
  if (state.page) loadAllRows(() => {}).then(updateTable);
  else updateTable();
  if (data.n <= data.eager_rows) loadOthers();
};
if (data.n_pages) loadScript("rows/00000.js").then(startTable, (error) => showMessage(`${error.message}: copy the whole folder of the report.`));
else startTable();
