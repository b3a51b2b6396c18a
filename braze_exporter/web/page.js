"use strict";
// The page at `/`: shows the facts that come with it, and asks for newer ones every few seconds.
//
// Names and messages come from people and from Braze. They are put in as text and nothing else: no HTML is made of a
// string here, and the page's policy forbids it. What can be told in words is told by the exporter; here is only how
// it looks, how long ago things were, and what is sorted, filtered and open.

const EVERY = 5_000; // milliseconds between two questions, or more if answers take long
const CHUNK = 100; // rows that are made at a time
const LONGEST_NAME = 200; // letters of a name in a row; the opened row has all of them
const SECONDS = { hour: 3_600, day: 86_400 };
const SHAPES = {
  good: "M6 1a5 5 0 1 0 .01 0z",
  waiting: "M1 0h10v2L7.4 6 11 10v2H1v-2l3.6-4L1 2z",
  new: "M6 1a5 5 0 1 0 .01 0zm0 1.6a3.4 3.4 0 1 1-.01 0z",
  bad: "M6 0l6 11.5H0zM5.3 4v4h1.4V4zm0 4.8v1.4h1.4V8.8z",
};
const COLUMNS = [
  { key: "name", title: "Query", class: "name-cell" },
  { key: "state", title: "State", class: "state" },
  { key: "points", title: "Points held", class: "points-cell" },
  { key: "latest", title: "Latest", class: "number", value: (query) => query.latest },
  { key: "settled", title: "Settled", class: "number", value: (query) => query.settled },
  { key: "baseline", title: "Baseline", class: "number baseline", value: (query) => query.baseline },
  { key: "age", title: "Age", class: "number", value: (query) => (query.answered_at === null ? null : -query.answered_at) },
  { key: "next", title: "Next fetch", class: "number next", value: (query) => query.next_at ?? 0 },
];

const byId = (id) => document.getElementById(id);
const view = { text: "", state: "", sort: "state", down: false, many: CHUNK, open: new Set(), paused: false };
const rows = new Map(); // by the key of the query: the parts of its row
let made = 0; // rows so far
let facts; // the newest ones
let queries = []; // of the facts, each with its key, the letters it is found by, and how urgent it is
let ahead = 0; // milliseconds by which the exporter's clock is ahead of ours
let lost = ""; // why the facts may be old
let timer;

// ---- elements ----

function element(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

function drawing(name, attributes, ...children) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function level(name, words) {
  const shape = drawing("path", { d: SHAPES[name], fill: "currentColor", "fill-rule": "evenodd" });
  const icon = drawing("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, shape);
  return element("span", { class: `level ${name}` }, icon, element("span", { class: "words" }, words));
}

// ---- numbers and times ----

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const percent = new Intl.NumberFormat("en", { style: "percent", signDisplay: "exceptZero", maximumFractionDigits: 0 });
const collator = new Intl.Collator("en", { numeric: true });
const number = (value) => (value === null ? "–" : grouped.format(value));
const count = (many, one) => `${grouped.format(many)} ${many === 1 ? one : one.endsWith("y") ? `${one.slice(0, -1)}ies` : `${one}s`}`;
const now = () => (Date.now() + ahead) / 1000;

const FORMS = {
  clock: { hour: "2-digit", minute: "2-digit" },
  hour: { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" },
  day: { weekday: "short", day: "numeric", month: "short" },
  moment: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" },
};
const formats = new Map();

function local(seconds, zone, form) {
  const key = `${form} ${zone}`;
  if (!formats.has(key)) {
    let format;
    try {
      format = new Intl.DateTimeFormat("en-GB", { ...FORMS[form], timeZone: zone });
    } catch {
      const utc = new Intl.DateTimeFormat("en-GB", { ...FORMS[form], timeZone: "UTC" });
      format = { format: (date) => `${utc.format(date)} UTC` }; // this browser does not know the zone
    }
    formats.set(key, format);
  }
  return formats.get(key).format(new Date(seconds * 1000));
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86_400) return `${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3_600)} h`;
}

function about(seconds) {
  const units = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  const [size, name] = units.find(([unit]) => seconds % unit === 0) ?? [1, "s"];
  return `${grouped.format(seconds / size)} ${name}`;
}

const age = (query) => (query.answered_at === null ? "–" : span(now() - query.answered_at));

function next(query) {
  if (query.busy) return "now";
  const left = query.next_at === null ? 0 : query.next_at - now();
  return left >= 0.5 ? `in ${span(left)}` : "next scrape";
}

const TICKING = {
  answered: (query) => (query.answered_at === null ? "never" : `${local(query.answered_at, query.zone, "moment")}, ${age(query)} ago`),
  next,
};

// ---- points ----

function starts(query) {
  const { starts: told, first, values } = query.points;
  return told ?? values.map((_, index) => first + index * SECONDS.hour);
}

const held = (query) => query.points !== null && query.points.values.length > 0;
const noPoints = (query) => (query.points === null ? "no answer yet" : "no data in the answer");

function standing(query, index) {
  if (index < query.points.settled) return "settled";
  return index < query.points.ended ? "ended, may change" : "in progress";
}

// Bars from zero: what has settled is solid, what may still change is hollow, and what is not known is a gap.
function bars(query, width, height, shape) {
  const { values, settled } = query.points;
  const at = starts(query);
  const slots = at.map((start) => Math.round((start - at[0]) / SECONDS[query.unit]));
  const step = width / (slots.at(-1) + 1);
  const wide = Math.max(step * 0.75, step - 4);
  const most = Math.max(...values, query.baseline ?? 0) || 1;
  const tall = (value) => (value / most) * (height - 1);
  const bar = (index, inset) => {
    const up = Math.max(1, tall(values[index])) - inset;
    return `M${(slots[index] * step + inset).toFixed(2)} ${height - inset / 2}v${-up.toFixed(2)}h${Math.max(0.1, wide - 2 * inset).toFixed(2)}v${up.toFixed(2)}z`;
  };
  const lines = {
    settled: values.slice(0, settled).map((_, index) => bar(index, 0)),
    open: values.slice(settled).map((_, index) => bar(settled + index, 0.5)),
    usual: [],
  };
  const usual = query.baseline === null ? -1 : at.indexOf(query.settled_start);
  if (usual >= 0) lines.usual.push(`M${(slots[usual] * step - 1).toFixed(2)} ${(height - tall(query.baseline)).toFixed(2)}h${(wide + 2).toFixed(2)}`);
  const label = `${count(values.length, query.unit)} from ${number(Math.min(...values))} to ${number(Math.max(...values))}, of which the newest ${values.length - settled} may change`;
  const svg = drawing("svg", { class: `bars ${shape}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  for (const [name, found] of Object.entries(lines)) {
    if (found.length) svg.append(drawing("path", { class: name, d: found.join(""), "vector-effect": "non-scaling-stroke" }));
  }
  return svg;
}

// ---- workspaces ----

function meter({ limit, remaining, reserve }) {
  const share = (value) => Math.min(100, (100 * value) / limit);
  const label = `${number(remaining)} of ${number(limit)} calls left, ${number(reserve)} in reserve`;
  return drawing(
    "svg",
    { class: "meter", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label },
    drawing("rect", { class: "all", width: 100, height: 10, "vector-effect": "non-scaling-stroke" }),
    drawing("rect", { class: remaining <= reserve ? "low" : "left", width: share(remaining), height: 10 }),
    drawing("path", { class: "reserve", d: `M${share(reserve)} -2v14`, "vector-effect": "non-scaling-stroke" }),
  );
}

function pool(found, zone) {
  const { name, limit, remaining, reserve, reset_at: reset, planned, allowed } = found;
  const apart = (...texts) => element("p", { class: "quiet" }, ...texts.map((text) => element("span", {}, text)));
  const calls = `${number(planned)} of ${number(allowed)}/h planned`; // of what the budget allows
  if (remaining === null) return element("div", { class: "pool" }, apart("Braze has not told its rate limit yet", calls));
  const left = element("span", {}, element("b", {}, number(remaining)), ` of ${number(limit)} calls left`);
  if (name !== "default") left.append(` (${name})`);
  const window = reset === null ? "" : `${reset < now() ? "window ended" : "until"} ${local(reset, zone, "clock")}`;
  const first = element("p", {}, left, element("span", { class: "quiet" }, window));
  return element("div", { class: "pool" }, first, meter(found), apart(`reserve ${number(reserve)}`, calls));
}

function workspace(found) {
  const zone = element("span", { class: "quiet", title: "The times of this workspace are in this zone" }, found.zone);
  const sentences = found.sentences.map((text, index) => element("li", {}, index ? text : level(found.level, text)));
  return element(
    "article",
    { class: `workspace ${found.level}` },
    element("header", {}, element("h2", {}, element("bdi", {}, found.name)), zone),
    element("div", { class: "quiet clip", title: found.url }, found.url),
    element("ul", {}, ...sentences),
    ...found.pools.map((one) => pool(one, found.zone)),
  );
}

// ---- rows ----

function shortened(name) {
  if (name.length <= LONGEST_NAME) return name;
  return `${[...name.slice(0, 2 * LONGEST_NAME)].slice(0, LONGEST_NAME).join("")}…`;
}

// What tells the query from others of its name.
function tags(query) {
  const found = [...query.tags];
  if (facts.workspaces.length > 1) found.push(["workspace", query.workspace]);
  const texts = found.map(([title, text]) => element("bdi", { title }, shortened(text)));
  return element("span", { class: "tags clip" }, ...texts.flatMap((text, index) => (index ? [" · ", text] : [text])));
}

function makeRow(query) {
  made += 1;
  const id = `detail-${made}`;
  const title = element("bdi", { class: "title clip" }, shortened(query.name));
  const button = element("button", { type: "button", class: "name", "aria-expanded": "false", "aria-controls": id }, title, tags(query));
  const cells = {};
  for (const { key, title: label, class: name } of COLUMNS) {
    const role = key === "name" ? { scope: "row", role: "rowheader" } : { role: "cell" };
    cells[key] = element(key === "name" ? "th" : "td", { ...role, class: name, "data-label": label });
  }
  cells.name.append(button);
  const tr = element("tr", { class: "row", role: "row" }, ...Object.values(cells));
  tr.addEventListener("click", (event) => {
    if (String(getSelection()) === "" || event.target.closest("button")) toggle(query.key);
  });
  return { id, tr, cells, button, query, print: "", detail: null };
}

function fillRow(row, query) {
  row.query = query;
  const print = JSON.stringify(query);
  if (row.print !== print) {
    row.print = print;
    const { state, points, latest, settled, baseline } = row.cells;
    state.replaceChildren(level(query.level, query.words));
    state.title = query.error === null ? query.words : query.error.detail;
    points.replaceChildren(held(query) ? bars(query, 144, 28, "spark") : element("span", { class: "none" }, noPoints(query)));
    write(latest, number(query.latest));
    write(settled, number(query.settled));
    baseline.replaceChildren(number(query.baseline));
    if (query.baseline > 0 && query.settled !== null) {
      const delta = percent.format(query.settled / query.baseline - 1);
      baseline.append(" ", element("span", { class: "delta", title: "Settled against baseline" }, delta));
    }
  }
  const isOpen = view.open.has(query.key);
  row.button.setAttribute("aria-expanded", String(isOpen));
  if (!isOpen) row.detail = null;
  else if (row.detail?.print !== print) openRow(row, print);
}

function openRow(row, print) {
  const before = row.detail?.tr;
  const top = before?.querySelector(".points")?.scrollTop ?? 0;
  const hadFocus = before?.contains(document.activeElement) ?? false;
  row.detail = { tr: detail(row.id, row.query), print };
  before?.replaceWith(row.detail.tr);
  const points = row.detail.tr.querySelector(".points");
  if (points && top) points.scrollTop = top;
  if (hadFocus) (points ?? row.button).focus({ preventScroll: true });
}

function tick({ query, cells, detail: opened }) {
  write(cells.age, age(query));
  write(cells.next, next(query));
  for (const target of opened?.tr.querySelectorAll("[data-tick]") ?? []) write(target, TICKING[target.dataset.tick](query));
}

// ---- an opened row ----

function selector(metric, labels) {
  const escaped = (text) => text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return `${metric}{${pairs.join(",")}}`;
}

function legend(name, words) {
  const sign = name === "usual" ? drawing("path", { class: name, d: "M0 5h10" }) : drawing("rect", { class: name, x: 0.5, y: 0.5, width: 9, height: 9 });
  return element("span", {}, drawing("svg", { class: "bars", viewBox: "0 0 10 10", "aria-hidden": "true" }, sign), words);
}

function chart(query) {
  const at = starts(query);
  const end = (start) => element("span", {}, local(start, query.zone, query.unit));
  const signs = [legend("settled", "settled"), legend("open", "may still change")];
  if (query.baseline !== null) signs.push(legend("usual", "baseline"));
  return element(
    "div",
    {},
    element("h3", {}, `Points held: ${count(at.length, query.unit)}`),
    element("div", { class: "quiet" }, number(Math.max(...query.points.values, query.baseline ?? 0))),
    bars(query, 600, 120, "chart"),
    element("div", { class: "ends" }, end(at[0]), end(at.at(-1))),
    element("p", { class: "legend" }, ...signs),
  );
}

function rawPoints(query) {
  const lines = starts(query).map((start, index) => {
    const words = standing(query, index);
    return element(
      "tr",
      words === "settled" ? {} : { class: "may-change" },
      element("td", {}, local(start, query.zone, query.unit)),
      element("td", { class: "number" }, number(query.points.values[index])),
      element("td", {}, words),
    );
  });
  const head = [`${query.unit === "hour" ? "Hour" : "Day"} (${query.zone})`, "Value", "State"].map((title) =>
    element("th", title === "Value" ? { scope: "col", class: "number" } : { scope: "col" }, title),
  );
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...lines.reverse()));
  const box = element("div", { class: "points", tabindex: "0", role: "region", "aria-label": "Raw points, the newest first" }, table);
  return element("div", {}, element("h3", {}, "Raw points"), box);
}

function properties(query) {
  const list = element("dl");
  const add = (term, ...told) => list.append(element("dt", {}, term), element("dd", {}, ...told));
  const { braze_app: app, segment } = query.labels;
  add("Workspace", element("bdi", {}, query.workspace));
  if (query.app_id) add("App", element("bdi", {}, app), ` (${query.app_id})`);
  if (query.segment_id) add("Segment", element("bdi", {}, segment), ` (${query.segment_id})`);
  add("Last answer", element("span", { "data-tick": "answered" }));
  add("Next fetch", element("span", { "data-tick": "next" }));
  add("Refresh", `every ${about(query.refresh)}; settled ${about(query.settle)} after the end of ${query.unit === "hour" ? "an hour" : "a day"}; shown for ${about(query.max_age)}`);
  if (query.weeks) add("Baseline", `${query.baseline === null ? "not known yet" : number(query.baseline)}, of the last ${count(query.weeks, "week")}`);
  if (query.total !== null) add("Counter", `${number(query.total)} reported since the first answer`);
  add("In Prometheus", ...query.metrics.map((metric) => element("code", {}, selector(metric, query.labels))));
  return list;
}

function allSeries(query) {
  const cells = ({ noun, labels, latest, settled, total }) => [
    element("td", {}, noun),
    element("td", { class: "parts" }, element("bdi", {}, labels.map(shortened).join(" · "))),
    ...[latest, settled, total].map((value) => element("td", { class: "number" }, number(value))),
  ];
  const heads = [["Count"], ["Of"], ["Latest", "number"], ["Settled", "number"], ["Counter", "number"]];
  const head = element("tr", {}, ...heads.map(([text, name = ""]) => element("th", { scope: "col", class: name }, text)));
  const body = query.series.map((one) => element("tr", {}, ...cells(one)));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  const title = `All ${grouped.format(body.length)} series of its answers`;
  return element("div", { class: "full" }, element("h3", {}, title), element("div", { class: "points", tabindex: "0", role: "region", "aria-label": title }, table));
}

function detail(id, query) {
  const inside = element("div", { class: "inside" }, element("p", { class: "whole full", dir: "auto" }, query.name));
  if (query.error !== null) {
    const { reason, failures, detail: told } = query.error;
    const times = failures > 1 ? `, ${failures} times in a row` : "";
    inside.append(element("p", { class: "error full" }, element("b", {}, `Last error (${reason}${times}): `), element("bdi", {}, told)));
  }
  const left = held(query) ? chart(query) : element("p", { class: "none" }, `Points held: ${noPoints(query)}.`);
  inside.append(element("div", {}, left, properties(query)));
  if (held(query)) inside.append(rawPoints(query));
  if (query.series.length) inside.append(allSeries(query));
  const td = element("td", { colspan: columnsShown(), role: "cell" }, inside);
  return element("tr", { class: "detail", id, role: "row" }, td);
}

// On a narrow page some columns are hidden, and a cell over more than there are would make new ones.
function columnsShown() {
  return [...byId("columns").children].filter((th) => getComputedStyle(th).display !== "none").length;
}

function toggle(key, open = !view.open.has(key)) {
  view.open[open ? "add" : "delete"](key);
  render();
}

// ---- what is shown: filtered, sorted, and as much of it as there is to see ----

function matching() {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  return queries.filter(({ letters }) => words.every((word) => letters.includes(word)));
}

function sorted(found) {
  const { key, value } = COLUMNS.find((column) => column.key === view.sort);
  const isKnown = (query) => value === undefined || value(query) !== null;
  const order = {
    name: (one, other) => collator.compare(one.name, other.name),
    state: (one, other) => one.urgency - other.urgency,
  }[key] ?? ((one, other) => value(one) - value(other));
  const known = found.filter(isKnown).sort(view.down ? (one, other) => order(other, one) : order);
  return [...known, ...found.filter((query) => !isKnown(query))]; // what has no value is last in either order
}

function render() {
  const matches = matching();
  const shown = sorted(view.state ? matches.filter(({ state }) => state === view.state) : matches);
  const focused = document.activeElement;
  let place = byId("rows").firstElementChild;
  const put = (tr) => {
    if (tr === place) place = place.nextElementSibling;
    else byId("rows").insertBefore(tr, place);
  };
  for (const query of shown.slice(0, view.many)) {
    if (!rows.has(query.key)) rows.set(query.key, makeRow(query));
    const row = rows.get(query.key);
    fillRow(row, query);
    tick(row);
    put(row.tr);
    if (row.detail !== null) put(row.detail.tr);
  }
  while (place !== null) {
    const after = place.nextElementSibling;
    place.remove();
    place = after;
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  renderStates(matches);
  renderCount(shown.length);
  for (const th of byId("columns").children) {
    if (th.dataset.key === view.sort) th.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
  byId("sort").value = `${view.sort} ${view.down ? "down" : "up"}`;
}

function renderStates(matches) {
  const many = (state) => matches.filter((query) => query.state === state).length;
  const chips = [["", "all", matches.length], ...facts.states.map(({ state, name }) => [state, name, many(state)])];
  for (const [index, [state, name, found]] of chips.entries()) {
    const chip = byId("states").children[index] ?? element("button", { type: "button", "data-state": state }, `${name} `, element("b"));
    if (!chip.isConnected) byId("states").append(chip);
    write(chip.lastElementChild, grouped.format(found));
    chip.setAttribute("aria-pressed", String(view.state === state));
    chip.hidden = state !== "" && state !== view.state && !queries.some((query) => query.state === state);
  }
}

function renderCount(many) {
  const all = count(queries.length, "query");
  const part = many === queries.length ? all : `${grouped.format(many)} of ${all}`;
  write(byId("count"), many === 0 && queries.length > 0 ? "No query matches." : part);
  byId("grow").hidden = many <= view.many;
  write(byId("grow"), `Show ${Math.min(CHUNK, many - view.many)} more`);
}

function renderTop() {
  write(byId("version"), facts.version);
  write(byId("scraped"), facts.scraped_at === null ? "not scraped yet" : `scraped ${span(now() - facts.scraped_at)} ago`);
  const bad = queries.filter((query) => query.level === "bad").length;
  document.title = bad > 0 ? `(${bad}) Braze exporter` : "Braze exporter";
  const troubles = lost ? [lost, ...facts.troubles] : facts.troubles;
  refill(byId("troubles"), troubles, () => troubles.map((text) => element("p", {}, text)));
  const ended = facts.workspaces.flatMap(({ pools }) => pools.map(({ reset_at: reset }) => reset !== null && reset < now()));
  refill(byId("workspaces"), [facts.workspaces, ended], () => facts.workspaces.map(workspace));
}

// Fill a box anew only if what it shows has changed, so that a reader is not disturbed, nor one who listens.
function refill(box, what, make) {
  const print = JSON.stringify(what);
  if (box.dataset.print === print) return;
  box.dataset.print = print;
  box.replaceChildren(...make());
}

function show(found) {
  facts = found;
  ahead = found.now * 1000 - Date.now();
  const zones = new Map(found.workspaces.map(({ name, zone }) => [name, zone]));
  const states = new Map(found.states.map(({ state, level: name }, urgency) => [state, { urgency, level: name }]));
  queries = found.queries.map((query) => ({
    ...query,
    ...states.get(query.state),
    zone: zones.get(query.workspace),
    key: JSON.stringify([query.metrics[0], query.labels, query.app_id, query.segment_id]),
    letters: [...Object.values(query.labels), ...query.tags.map(([, text]) => text), query.name, query.state, query.words].join("\n").toLowerCase(),
  }));
  const keys = new Set(queries.map(({ key }) => key));
  for (const key of rows.keys()) if (!keys.has(key)) rows.delete(key);
  byId("queries").hidden = false;
  renderTop();
  render();
}

// ---- newer facts ----

async function ask() {
  clearTimeout(timer);
  if (view.paused || document.hidden) return;
  const began = performance.now();
  try {
    const address = location.origin + location.pathname; // without a user and a password that may stand in it
    const answer = await fetch(address, { headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(20_000) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const found = await answer.json();
    if (found.version !== facts.version) location.reload(); // another exporter runs, and brings another page
    lost = "";
    show(found);
  } catch (error) {
    lost ||= `The exporter does not answer this page (${error.message}): it shows how things were at ${new Date(facts.now * 1000).toLocaleTimeString("en-GB")}.`;
    renderTop();
  }
  timer = setTimeout(ask, Math.max(EVERY, 20 * (performance.now() - began)));
}

function everySecond() {
  if (document.hidden) return;
  renderTop();
  for (const row of rows.values()) if (row.tr.isConnected) tick(row);
}

// ---- what people do ----

function choose(changes) {
  Object.assign(view, { many: CHUNK }, changes);
  const kept = new URLSearchParams();
  if (view.text) kept.set("q", view.text);
  if (view.state) kept.set("state", view.state);
  if (view.sort !== "state" || view.down) kept.set("sort", `${view.sort} ${view.down ? "down" : "up"}`);
  history.replaceState(null, "", `#${kept}`);
  render();
}

// What was chosen stands behind the # of the address, so that it outlives a reload and can be sent to others.
function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const [key, direction] = (kept.get("sort") ?? "").split(" ");
  const isColumn = COLUMNS.some((column) => column.key === key && key !== "points");
  view.text = kept.get("q") ?? "";
  view.state = kept.get("state") ?? "";
  [view.sort, view.down] = isColumn ? [key, direction === "down"] : ["state", false];
  byId("filter").value = view.text;
}

function move(from, by) {
  const buttons = [...document.querySelectorAll("#rows .name")];
  const index = from === null ? 0 : buttons.indexOf(from) + by;
  (index < 0 ? byId("filter") : buttons[Math.min(index, buttons.length - 1)])?.focus();
}

function close(target) {
  const tr = target.closest("#rows > tr");
  const row = [...rows.values()].find((one) => one.tr === tr || one.detail?.tr === tr);
  const key = row !== undefined && view.open.has(row.query.key) ? row.query.key : [...view.open].at(-1);
  if (key === undefined) return;
  toggle(key, false);
  rows.get(key)?.button.focus();
}

function onKey(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || !(target instanceof Element)) return;
  const inFilter = target === byId("filter");
  const inRow = target.matches("#rows .name");
  if (key === "/" && !target.matches("input, select")) byId("filter").select();
  else if (key === "Escape" && inFilter) choose({ text: (target.value = "") });
  else if (key === "Escape" && !target.matches("select")) close(target);
  else if (key === "ArrowDown" && inFilter) move(null, 0);
  else if (key === "ArrowDown" && inRow) move(target, 1);
  else if (key === "ArrowUp" && inRow) move(target, -1);
  else return;
  event.preventDefault();
}

function prepareColumns() {
  const orders = { name: ["A to Z", "Z to A"], state: ["urgent first", "urgent last"], age: ["newest first", "oldest first"], next: ["soonest first", "latest first"] };
  for (const { key, title, class: name } of COLUMNS) {
    const kind = name.startsWith("number") ? "number " : "";
    const head = key === "points" ? element("div", {}, title) : element("button", { type: "button" }, title);
    byId("columns").append(element("th", { scope: "col", role: "columnheader", "data-key": key, class: `${kind}c-${key}` }, head));
    if (key === "points") continue;
    const [up, down] = orders[key] ?? ["least first", "most first"];
    byId("sort").append(element("option", { value: `${key} up` }, `${title}: ${up}`), element("option", { value: `${key} down` }, `${title}: ${down}`));
  }
}

function prepare() {
  prepareColumns();
  byId("columns").addEventListener("click", (event) => {
    const key = event.target.closest("button")?.parentElement.dataset.key;
    if (key === undefined) return;
    const most = ["latest", "settled", "baseline", "age"].includes(key); // of these one looks for the most
    choose(view.sort === key ? { down: !view.down } : { sort: key, down: most });
  });
  byId("sort").addEventListener("change", ({ target }) => {
    const [sort, direction] = target.value.split(" ");
    choose({ sort, down: direction === "down" });
  });
  byId("filter").addEventListener("input", ({ target }) => choose({ text: target.value }));
  byId("states").addEventListener("click", ({ target }) => {
    const chip = target.closest("button");
    if (chip !== null) choose({ state: chip.dataset.state });
  });
  byId("grow").addEventListener("click", () => {
    view.many += CHUNK;
    render();
  });
  const seen = new IntersectionObserver(
    (found) => {
      if (found.at(-1).isIntersecting && !byId("grow").hidden) byId("grow").click();
    },
    { rootMargin: "400px" },
  );
  seen.observe(byId("more"));
  byId("pause").hidden = false;
  byId("pause").addEventListener("click", () => {
    view.paused = !view.paused;
    write(byId("pause"), view.paused ? "Go on" : "Pause");
    ask();
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", ask);
  addEventListener("resize", () => {
    for (const td of document.querySelectorAll("#rows > .detail > td")) td.setAttribute("colspan", columnsShown());
  });
  addEventListener("hashchange", () => {
    recall();
    render();
  });
}

prepare();
recall();
show(JSON.parse(byId("facts").textContent));
timer = setTimeout(ask, EVERY);
setInterval(everySecond, 1_000);
