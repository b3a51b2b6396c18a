"use strict";
// The script of the status page at `/`. It shows the status that the page contains, and fetches a new one regularly.
//
// Names and messages come from users and from Braze. They are inserted only as text: this script creates no HTML from
// strings, and the page's Content-Security-Policy forbids it. The exporter writes the messages. This script formats
// ages, and sorts, filters and expands the rows.

const UPDATE_INTERVAL_MS = 5_000; // the minimum; it is longer if responses are slow
const ROW_CHUNK = 100; // the number of rows that are added at a time
const MAX_NAME_LENGTH = 200; // characters of a name in a row; the expanded row shows the whole name
const UNIT_SECONDS = { hour: 3_600, day: 86_400 };
const ICON_PATHS = {
  ok: "M6 1a5 5 0 1 0 .01 0z",
  warning: "M1 0h10v2L7.4 6 11 10v2H1v-2l3.6-4L1 2z",
  pending: "M6 1a5 5 0 1 0 .01 0zm0 1.6a3.4 3.4 0 1 1-.01 0z",
  error: "M6 0l6 11.5H0zM5.3 4v4h1.4V4zm0 4.8v1.4h1.4V8.8z",
};
const COLUMNS = [
  { key: "name", title: "Query", class: "name-cell" },
  { key: "state", title: "State", class: "state" },
  { key: "points", title: "Points", class: "points-cell" },
  { key: "latest", title: "Latest", class: "number", value: (query) => query.latest },
  { key: "settled", title: "Settled", class: "number", value: (query) => query.settled },
  { key: "baseline", title: "Baseline", class: "number baseline", value: (query) => query.baseline },
  { key: "age", title: "Age", class: "number", value: (query) => (query.last_success_at === null ? null : -query.last_success_at) },
  { key: "next", title: "Next fetch", class: "number next", value: (query) => query.next_at ?? 0 },
];

const byId = (id) => document.getElementById(id);
const view = { filter: "", state: "", sortKey: "state", isDescending: false, maxRows: ROW_CHUNK, open: new Set(), isPaused: false };
const rows = new Map(); // the elements of each row, by the key of its query
let createdRows = 0;
let statusData; // the newest status response
let queries = []; // the queries of `statusData`, each with its key, level, urgency, time zone and search text
let clockOffset = 0; // milliseconds by which the exporter's clock is ahead of the browser's
let connectionError = ""; // why `statusData` may be outdated
let timer;

// ---- elements ----

function element(name, attributes = {}, ...children) {
  const result = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) result.setAttribute(key, value);
  result.append(...children);
  return result;
}

function svgElement(name, attributes, ...children) {
  const result = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) result.setAttribute(key, value);
  result.append(...children);
  return result;
}

function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function levelElement(level, message) {
  const path = svgElement("path", { d: ICON_PATHS[level], fill: "currentColor", "fill-rule": "evenodd" });
  const icon = svgElement("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, path);
  return element("span", { class: `level ${level}` }, icon, element("span", { class: "message" }, message));
}

// ---- numbers and times ----

const numberFormat = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const percentFormat = new Intl.NumberFormat("en", { style: "percent", signDisplay: "exceptZero", maximumFractionDigits: 0 });
const collator = new Intl.Collator("en", { numeric: true });
const formatNumber = (value) => (value === null ? "–" : numberFormat.format(value));
const now = () => (Date.now() + clockOffset) / 1000;

function pluralize(number, singular) {
  const plural = singular.endsWith("y") ? `${singular.slice(0, -1)}ies` : `${singular}s`;
  return `${numberFormat.format(number)} ${number === 1 ? singular : plural}`;
}

const TIME_FORMATS = {
  clock: { hour: "2-digit", minute: "2-digit" },
  hour: { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" },
  day: { weekday: "short", day: "numeric", month: "short" },
  moment: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" },
};
const timeFormats = new Map();

function formatTime(seconds, zone, name) {
  const key = `${name} ${zone}`;
  if (!timeFormats.has(key)) {
    let format;
    try {
      format = new Intl.DateTimeFormat("en-GB", { ...TIME_FORMATS[name], timeZone: zone });
    } catch {
      const utc = new Intl.DateTimeFormat("en-GB", { ...TIME_FORMATS[name], timeZone: "UTC" });
      format = { format: (date) => `${utc.format(date)} UTC` }; // the browser does not support the time zone
    }
    timeFormats.set(key, format);
  }
  return timeFormats.get(key).format(new Date(seconds * 1000));
}

// Format an age or a remaining time in up to two units. Parts of the last unit are dropped.
function formatSpan(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86_400) return `${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3_600)} h`;
}

// Format a configured duration in the largest unit that gives a whole number.
function formatDuration(seconds) {
  const units = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  const [size, name] = units.find(([unit]) => seconds % unit === 0) ?? [1, "s"];
  return `${numberFormat.format(seconds / size)} ${name}`;
}

const ageText = (query) => (query.last_success_at === null ? "–" : formatSpan(now() - query.last_success_at));

function nextFetchText(query) {
  if (query.in_flight) return "now";
  const left = query.next_at === null ? 0 : query.next_at - now();
  return left >= 0.5 ? `in ${formatSpan(left)}` : "next scrape";
}

function lastSuccessText(query) {
  if (query.last_success_at === null) return "never";
  return `${formatTime(query.last_success_at, query.zone, "moment")}, ${ageText(query)} ago`;
}

// The texts of an expanded row that change with time, by the value of `data-time`.
const TIME_TEXTS = { "last-success": lastSuccessText, "next-fetch": nextFetchText };

// ---- points ----

function bucketStarts(query) {
  const { starts, first, values } = query.points;
  return starts ?? values.map((_, index) => first + index * UNIT_SECONDS.hour);
}

const hasPoints = (query) => query.points !== null && query.points.values.length > 0;
const noPointsText = (query) => (query.points === null ? "no response yet" : "no data in the response");

function bucketState(query, index) {
  if (index < query.points.settled) return "settled";
  return index < query.points.ended ? "ended, may change" : "in progress";
}

// Bars start at zero. Settled buckets are solid, buckets that may still change are hollow, and missing ones are gaps.
function barChart(query, width, height, name) {
  const { values, settled } = query.points;
  const starts = bucketStarts(query);
  const slots = starts.map((start) => Math.round((start - starts[0]) / UNIT_SECONDS[query.unit]));
  const step = width / (slots.at(-1) + 1);
  const barWidth = Math.max(step * 0.75, step - 4);
  const max = Math.max(...values, query.baseline ?? 0) || 1;
  const barHeight = (value) => (value / max) * (height - 1);
  const bar = (index, inset) => {
    const up = Math.max(1, barHeight(values[index])) - inset;
    return `M${(slots[index] * step + inset).toFixed(2)} ${height - inset / 2}v${-up.toFixed(2)}h${Math.max(0.1, barWidth - 2 * inset).toFixed(2)}v${up.toFixed(2)}z`;
  };
  const paths = {
    settled: values.slice(0, settled).map((_, index) => bar(index, 0)),
    unsettled: values.slice(settled).map((_, index) => bar(settled + index, 0.5)),
    baseline: [],
  };
  const index = query.baseline === null ? -1 : starts.indexOf(query.settled_start);
  if (index >= 0) paths.baseline.push(`M${(slots[index] * step - 1).toFixed(2)} ${(height - barHeight(query.baseline)).toFixed(2)}h${(barWidth + 2).toFixed(2)}`);
  const range = `from ${formatNumber(Math.min(...values))} to ${formatNumber(Math.max(...values))}`;
  const label = `${pluralize(values.length, query.unit)}, values ${range}; the newest ${values.length - settled} may change`;
  const svg = svgElement("svg", { class: `bars ${name}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  for (const [key, parts] of Object.entries(paths)) {
    if (parts.length) svg.append(svgElement("path", { class: key, d: parts.join(""), "vector-effect": "non-scaling-stroke" }));
  }
  return svg;
}

// ---- workspaces ----

function rateLimitMeter({ limit, remaining, reserve }) {
  const share = (value) => Math.min(100, (100 * value) / limit);
  const label = `${formatNumber(remaining)} of ${formatNumber(limit)} calls left, reserve ${formatNumber(reserve)}`;
  return svgElement(
    "svg",
    { class: "meter", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svgElement("rect", { class: "limit", width: 100, height: 10, "vector-effect": "non-scaling-stroke" }),
    svgElement("rect", { class: remaining <= reserve ? "low" : "remaining", width: share(remaining), height: 10 }),
    svgElement("path", { class: "reserve", d: `M${share(reserve)} -2v14`, "vector-effect": "non-scaling-stroke" }),
  );
}

function poolElement(pool, zone) {
  const { name, limit, remaining, reserve, reset_at: resetAt, planned, allowed } = pool;
  const muted = (...texts) => element("p", { class: "muted" }, ...texts.map((text) => element("span", {}, text)));
  const calls = `${formatNumber(planned)} of ${formatNumber(allowed)} calls/h planned`; // `allowed` by the budget
  if (remaining === null) return element("div", { class: "pool" }, muted("Rate limit not known yet", calls));
  const left = element("span", {}, element("b", {}, formatNumber(remaining)), ` of ${formatNumber(limit)} calls left`);
  if (name !== "default") left.append(` (${name})`);
  const reset = resetAt === null ? "" : `${resetAt < now() ? "window ended" : "resets"} at ${formatTime(resetAt, zone, "clock")}`;
  const first = element("p", {}, left, element("span", { class: "muted" }, reset));
  const legend = element("span", { class: "reserve-label" }, `reserve ${formatNumber(reserve)}`);
  return element("div", { class: "pool" }, first, rateLimitMeter(pool), element("p", { class: "muted" }, legend, element("span", {}, calls)));
}

function workspaceElement(workspace) {
  const zone = element("span", { class: "muted", title: "Time zone of this workspace" }, workspace.zone);
  const messages = workspace.messages.map((text, index) => element("li", {}, index ? text : levelElement(workspace.level, text)));
  return element(
    "article",
    { class: `workspace ${workspace.level}` },
    element("header", {}, element("h2", {}, element("bdi", {}, workspace.name)), zone),
    element("div", { class: "muted ellipsis", title: workspace.url }, workspace.url),
    element("ul", {}, ...messages),
    ...workspace.pools.map((pool) => poolElement(pool, workspace.zone)),
  );
}

// ---- rows ----

function shorten(name) {
  if (name.length <= MAX_NAME_LENGTH) return name;
  return `${[...name.slice(0, 2 * MAX_NAME_LENGTH)].slice(0, MAX_NAME_LENGTH).join("")}…`;
}

// Return the element with the tags that distinguish a query from others with the same name.
function tagsElement(query) {
  const tags = [...query.tags];
  if (statusData.workspaces.length > 1) tags.push(["workspace", query.workspace]);
  const texts = tags.map(([title, text]) => element("bdi", { title }, shorten(text)));
  return element("span", { class: "tags ellipsis" }, ...texts.flatMap((text, index) => (index ? [" · ", text] : [text])));
}

function createRow(query) {
  createdRows += 1;
  const id = `detail-${createdRows}`;
  const title = element("bdi", { class: "title ellipsis" }, shorten(query.name));
  const button = element("button", { type: "button", class: "name", "aria-expanded": "false", "aria-controls": id }, title, tagsElement(query));
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
  return { id, tr, cells, button, query, content: "", detail: null };
}

function updateRow(row, query) {
  row.query = query;
  const content = JSON.stringify(query);
  if (row.content !== content) {
    row.content = content;
    const { state, points, latest, settled, baseline } = row.cells;
    state.replaceChildren(levelElement(query.level, query.message));
    state.title = query.error === null ? query.message : query.error.detail;
    points.replaceChildren(hasPoints(query) ? barChart(query, 144, 28, "sparkline") : element("span", { class: "no-data" }, noPointsText(query)));
    setText(latest, formatNumber(query.latest));
    setText(settled, formatNumber(query.settled));
    baseline.replaceChildren(formatNumber(query.baseline));
    if (query.baseline > 0 && query.settled !== null) {
      const delta = percentFormat.format(query.settled / query.baseline - 1);
      baseline.append(" ", element("span", { class: "delta", title: "Settled value compared with the baseline" }, delta));
    }
  }
  const isOpen = view.open.has(query.key);
  row.button.setAttribute("aria-expanded", String(isOpen));
  if (!isOpen) row.detail = null;
  else if (row.detail?.content !== content) updateDetail(row, content);
}

function updateDetail(row, content) {
  const before = row.detail?.tr;
  const top = before?.querySelector(".points")?.scrollTop ?? 0;
  const hadFocus = before?.contains(document.activeElement) ?? false;
  row.detail = { tr: detailRow(row.id, row.query), content };
  before?.replaceWith(row.detail.tr);
  const points = row.detail.tr.querySelector(".points");
  if (points && top) points.scrollTop = top;
  if (hadFocus) (points ?? row.button).focus({ preventScroll: true });
}

function updateTimes({ query, cells, detail }) {
  setText(cells.age, ageText(query));
  setText(cells.next, nextFetchText(query));
  for (const target of detail?.tr.querySelectorAll("[data-time]") ?? []) setText(target, TIME_TEXTS[target.dataset.time](query));
}

// ---- expanded rows ----

function promqlSelector(metric, labels) {
  const escape = (text) => text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
  const matchers = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`);
  return `${metric}{${matchers.join(",")}}`;
}

function legendItem(name, text) {
  const sign = name === "baseline" ? svgElement("path", { class: name, d: "M0 5h10" }) : svgElement("rect", { class: name, x: 0.5, y: 0.5, width: 9, height: 9 });
  return element("span", {}, svgElement("svg", { class: "bars", viewBox: "0 0 10 10", "aria-hidden": "true" }, sign), text);
}

function chartElement(query) {
  const starts = bucketStarts(query);
  const tick = (start) => element("span", {}, formatTime(start, query.zone, query.unit));
  const items = [legendItem("settled", "settled"), legendItem("unsettled", "may still change")];
  if (query.baseline !== null) items.push(legendItem("baseline", "baseline"));
  return element(
    "div",
    {},
    element("h3", {}, `Points: ${pluralize(starts.length, query.unit)}`),
    element("div", { class: "muted" }, formatNumber(Math.max(...query.points.values, query.baseline ?? 0))),
    barChart(query, 600, 120, "chart"),
    element("div", { class: "axis" }, tick(starts[0]), tick(starts.at(-1))),
    element("p", { class: "legend" }, ...items),
  );
}

function pointsTable(query) {
  const body = bucketStarts(query).map((start, index) => {
    const state = bucketState(query, index);
    return element(
      "tr",
      state === "settled" ? {} : { class: "may-change" },
      element("td", {}, formatTime(start, query.zone, query.unit)),
      element("td", { class: "number" }, formatNumber(query.points.values[index])),
      element("td", {}, state),
    );
  });
  const head = [`${query.unit === "hour" ? "Hour" : "Day"} (${query.zone})`, "Value", "State"].map((title) =>
    element("th", title === "Value" ? { scope: "col", class: "number" } : { scope: "col" }, title),
  );
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body.reverse()));
  const box = element("div", { class: "points", tabindex: "0", role: "region", "aria-label": "Raw points, newest first" }, table);
  return element("div", {}, element("h3", {}, "Raw points"), box);
}

function propertyList(query) {
  const list = element("dl");
  const add = (term, ...values) => list.append(element("dt", {}, term), element("dd", {}, ...values));
  const { braze_app: app, segment } = query.labels;
  add("Workspace", element("bdi", {}, query.workspace));
  if (query.app_id) add("App", element("bdi", {}, app), ` (${query.app_id})`);
  if (query.segment_id) add("Segment", element("bdi", {}, segment), ` (${query.segment_id})`);
  add("Last success", element("span", { "data-time": "last-success" }));
  add("Next fetch", element("span", { "data-time": "next-fetch" }));
  add("Refresh", `every ${formatDuration(query.refresh)}`);
  add("Settle", `${formatDuration(query.settle)} after the end of the ${query.unit}`);
  add("Max age", formatDuration(query.max_age));
  if (query.baseline_weeks) add("Baseline", `${query.baseline === null ? "not known yet" : formatNumber(query.baseline)}, from the last ${pluralize(query.baseline_weeks, "week")}`);
  if (query.total !== null) add("Counter", `${formatNumber(query.total)} since the first response`);
  add("Metrics", ...query.metrics.map((metric) => element("code", {}, promqlSelector(metric, query.labels))));
  return list;
}

function seriesTable(query) {
  const cells = ({ metric_group: group, labels, latest, settled, total }) => [
    element("td", {}, group),
    element("td", {}, element("bdi", {}, labels.map(shorten).join(" · "))),
    ...[latest, settled, total].map((value) => element("td", { class: "number" }, formatNumber(value))),
  ];
  const columns = [["Metric"], ["Labels"], ["Latest", "number"], ["Settled", "number"], ["Counter", "number"]];
  const head = element("tr", {}, ...columns.map(([text, name = ""]) => element("th", { scope: "col", class: name }, text)));
  const body = query.series.map((series) => element("tr", {}, ...cells(series)));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  const title = `All ${numberFormat.format(body.length)} series`;
  return element("div", { class: "full-width" }, element("h3", {}, title), element("div", { class: "points", tabindex: "0", role: "region", "aria-label": title }, table));
}

function detailRow(id, query) {
  const content = element("div", { class: "detail-content" }, element("p", { class: "full-name full-width", dir: "auto" }, query.name));
  if (query.error !== null) {
    const { reason, failures, detail } = query.error;
    const times = failures > 1 ? `, ${failures} times in a row` : "";
    content.append(element("p", { class: "last-error full-width" }, element("b", {}, `Last error (${reason}${times}): `), element("bdi", {}, detail)));
  }
  const chart = hasPoints(query) ? chartElement(query) : element("p", { class: "no-data" }, `Points: ${noPointsText(query)}.`);
  content.append(element("div", {}, chart, propertyList(query)));
  if (hasPoints(query)) content.append(pointsTable(query));
  if (query.series.length) content.append(seriesTable(query));
  const td = element("td", { colspan: visibleColumnCount(), role: "cell" }, content);
  return element("tr", { class: "detail", id, role: "row" }, td);
}

// Return how many columns are visible; a narrow page hides some. A cell that spans more of them would add columns.
function visibleColumnCount() {
  return [...byId("columns").children].filter((th) => getComputedStyle(th).display !== "none").length;
}

function toggle(key, open = !view.open.has(key)) {
  view.open[open ? "add" : "delete"](key);
  render();
}

// ---- rendering: the filtered and sorted queries, up to `maxRows` ----

function filterQueries() {
  const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  return queries.filter(({ searchText }) => words.every((word) => searchText.includes(word)));
}

function sortQueries(matches) {
  const { key, value } = COLUMNS.find((column) => column.key === view.sortKey);
  const isKnown = (query) => value === undefined || value(query) !== null;
  const compare = {
    name: (one, other) => collator.compare(one.name, other.name),
    state: (one, other) => one.urgency - other.urgency,
  }[key] ?? ((one, other) => value(one) - value(other));
  const known = matches.filter(isKnown).sort(view.isDescending ? (one, other) => compare(other, one) : compare);
  return [...known, ...matches.filter((query) => !isKnown(query))]; // queries without a value are last in both orders
}

function render() {
  const matches = filterQueries();
  const shown = sortQueries(view.state ? matches.filter(({ state }) => state === view.state) : matches);
  const focused = document.activeElement;
  let position = byId("rows").firstElementChild;
  const place = (tr) => {
    if (tr === position) position = position.nextElementSibling;
    else byId("rows").insertBefore(tr, position);
  };
  for (const query of shown.slice(0, view.maxRows)) {
    if (!rows.has(query.key)) rows.set(query.key, createRow(query));
    const row = rows.get(query.key);
    updateRow(row, query);
    updateTimes(row);
    place(row.tr);
    if (row.detail !== null) place(row.detail.tr);
  }
  while (position !== null) {
    const after = position.nextElementSibling;
    position.remove();
    position = after;
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  renderStateFilter(matches);
  renderCount(shown.length);
  for (const th of byId("columns").children) {
    if (th.dataset.key === view.sortKey) th.setAttribute("aria-sort", view.isDescending ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
  byId("sort").value = `${view.sortKey} ${view.isDescending ? "down" : "up"}`;
}

function renderStateFilter(matches) {
  const count = (state) => matches.filter((query) => query.state === state).length;
  const states = [["", "all", matches.length], ...statusData.states.map(({ state, name }) => [state, name, count(state)])];
  for (const [index, [state, name, number]] of states.entries()) {
    const button = byId("states").children[index] ?? element("button", { type: "button", "data-state": state }, `${name} `, element("b"));
    if (!button.isConnected) byId("states").append(button);
    setText(button.lastElementChild, numberFormat.format(number));
    button.setAttribute("aria-pressed", String(view.state === state));
    button.hidden = state !== "" && state !== view.state && !queries.some((query) => query.state === state);
  }
}

function renderCount(number) {
  const all = pluralize(queries.length, "query");
  const part = number === queries.length ? all : `${numberFormat.format(number)} of ${all}`;
  setText(byId("count"), number === 0 && queries.length > 0 ? "No query matches." : part);
  byId("show-more").hidden = number <= view.maxRows;
  setText(byId("show-more"), `Show ${Math.min(ROW_CHUNK, number - view.maxRows)} more`);
}

function renderHeader() {
  setText(byId("version"), statusData.version);
  setText(byId("last-scrape"), statusData.scraped_at === null ? "No scrape yet" : `Last scrape ${formatSpan(now() - statusData.scraped_at)} ago`);
  const number = queries.filter((query) => query.level === "error").length;
  document.title = number > 0 ? `(${number}) Braze exporter` : "Braze exporter";
  const errors = connectionError ? [connectionError, ...statusData.errors] : statusData.errors;
  replaceIfChanged(byId("errors"), errors, () => errors.map((text) => element("p", {}, text)));
  const windowsEnded = statusData.workspaces.flatMap(({ pools }) => pools.map(({ reset_at: resetAt }) => resetAt !== null && resetAt < now()));
  replaceIfChanged(byId("workspaces"), [statusData.workspaces, windowsEnded], () => statusData.workspaces.map(workspaceElement));
}

// Replace the children of `target` only if `data` has changed, so that selections and screen readers are not disturbed.
function replaceIfChanged(target, data, createChildren) {
  const content = JSON.stringify(data);
  if (target.dataset.content === content) return;
  target.dataset.content = content;
  target.replaceChildren(...createChildren());
}

function showStatus(response) {
  statusData = response;
  clockOffset = response.now * 1000 - Date.now();
  const zones = new Map(response.workspaces.map(({ name, zone }) => [name, zone]));
  const states = new Map(response.states.map(({ state, level }, urgency) => [state, { urgency, level }]));
  queries = response.queries.map((query) => ({
    ...query,
    ...states.get(query.state),
    zone: zones.get(query.workspace),
    key: JSON.stringify([query.metrics[0], query.labels, query.app_id, query.segment_id]),
    searchText: [...Object.values(query.labels), ...query.tags.map(([, text]) => text), query.name, query.state, query.message].join("\n").toLowerCase(),
  }));
  const keys = new Set(queries.map(({ key }) => key));
  for (const key of rows.keys()) if (!keys.has(key)) rows.delete(key);
  byId("queries").hidden = false;
  renderHeader();
  render();
}

// ---- updates ----

async function update() {
  clearTimeout(timer);
  if (view.isPaused || document.hidden) return;
  const startedAt = performance.now();
  try {
    const url = location.origin + location.pathname; // without the credentials that a URL may contain
    const response = await fetch(url, { headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(20_000) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const newStatus = await response.json();
    if (newStatus.version !== statusData.version) location.reload(); // another version of the exporter has another page
    connectionError = "";
    showStatus(newStatus);
  } catch (error) {
    connectionError ||= `No response from the exporter (${error.message}). Status as of ${new Date(statusData.now * 1000).toLocaleTimeString("en-GB")}.`;
    renderHeader();
  }
  timer = setTimeout(update, Math.max(UPDATE_INTERVAL_MS, 20 * (performance.now() - startedAt)));
}

function onSecond() {
  if (document.hidden) return;
  renderHeader();
  for (const row of rows.values()) if (row.tr.isConnected) updateTimes(row);
}

// ---- input ----

function changeView(changes) {
  Object.assign(view, { maxRows: ROW_CHUNK }, changes);
  const parameters = new URLSearchParams();
  if (view.filter) parameters.set("q", view.filter);
  if (view.state) parameters.set("state", view.state);
  if (view.sortKey !== "state" || view.isDescending) parameters.set("sort", `${view.sortKey} ${view.isDescending ? "down" : "up"}`);
  history.replaceState(null, "", `#${parameters}`);
  render();
}

// Restore the filter and the order from the fragment of the URL, which keeps them across reloads and in shared URLs.
function restoreView() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const [key, direction] = (parameters.get("sort") ?? "").split(" ");
  const isColumn = COLUMNS.some((column) => column.key === key && key !== "points");
  view.filter = parameters.get("q") ?? "";
  view.state = parameters.get("state") ?? "";
  [view.sortKey, view.isDescending] = isColumn ? [key, direction === "down"] : ["state", false];
  byId("filter").value = view.filter;
}

// Move the focus by a number of rows, or to the first row if `from` is null.
function moveFocus(from, offset) {
  const buttons = [...document.querySelectorAll("#rows .name")];
  const index = from === null ? 0 : buttons.indexOf(from) + offset;
  (index < 0 ? byId("filter") : buttons[Math.min(index, buttons.length - 1)])?.focus();
}

// Close the expanded row that contains `target`, or the row that was opened last if `target` is not in one.
function closeRow(target) {
  const tr = target.closest("#rows > tr");
  const row = [...rows.values()].find((candidate) => candidate.tr === tr || candidate.detail?.tr === tr);
  const key = row !== undefined && view.open.has(row.query.key) ? row.query.key : [...view.open].at(-1);
  if (key === undefined) return;
  toggle(key, false);
  rows.get(key)?.button.focus();
}

function onKey(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || !(target instanceof Element)) return;
  const isFilter = target === byId("filter");
  const isRow = target.matches("#rows .name");
  if (key === "/" && !target.matches("input, select")) byId("filter").select();
  else if (key === "Escape" && isFilter) changeView({ filter: (target.value = "") });
  else if (key === "Escape" && !target.matches("select")) closeRow(target);
  else if (key === "ArrowDown" && isFilter) moveFocus(null, 0);
  else if (key === "ArrowDown" && isRow) moveFocus(target, 1);
  else if (key === "ArrowUp" && isRow) moveFocus(target, -1);
  else return;
  event.preventDefault();
}

function createColumns() {
  const orders = { name: ["A to Z", "Z to A"], state: ["most urgent first", "least urgent first"], age: ["newest first", "oldest first"], next: ["soonest first", "latest first"] };
  for (const { key, title, class: name } of COLUMNS) {
    const number = name.startsWith("number") ? "number " : "";
    const head = key === "points" ? element("div", {}, title) : element("button", { type: "button" }, title);
    byId("columns").append(element("th", { scope: "col", role: "columnheader", "data-key": key, class: `${number}c-${key}` }, head));
    if (key === "points") continue;
    const [up, down] = orders[key] ?? ["lowest first", "highest first"];
    byId("sort").append(element("option", { value: `${key} up` }, `${title}: ${up}`), element("option", { value: `${key} down` }, `${title}: ${down}`));
  }
}

function initialize() {
  createColumns();
  byId("columns").addEventListener("click", (event) => {
    const key = event.target.closest("button")?.parentElement.dataset.key;
    if (key === undefined) return;
    const isHighestFirst = ["latest", "settled", "baseline", "age"].includes(key);
    changeView(view.sortKey === key ? { isDescending: !view.isDescending } : { sortKey: key, isDescending: isHighestFirst });
  });
  byId("sort").addEventListener("change", ({ target }) => {
    const [key, direction] = target.value.split(" ");
    changeView({ sortKey: key, isDescending: direction === "down" });
  });
  byId("filter").addEventListener("input", ({ target }) => changeView({ filter: target.value }));
  byId("states").addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button !== null) changeView({ state: button.dataset.state });
  });
  byId("show-more").addEventListener("click", () => {
    view.maxRows += ROW_CHUNK;
    render();
  });
  const observer = new IntersectionObserver(
    (entries) => {
      if (entries.at(-1).isIntersecting && !byId("show-more").hidden) byId("show-more").click();
    },
    { rootMargin: "400px" },
  );
  observer.observe(byId("table-end"));
  byId("pause").hidden = false;
  byId("pause").addEventListener("click", () => {
    view.isPaused = !view.isPaused;
    setText(byId("pause"), view.isPaused ? "Resume" : "Pause");
    update();
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", update);
  addEventListener("resize", () => {
    for (const td of document.querySelectorAll("#rows > .detail > td")) td.setAttribute("colspan", visibleColumnCount());
  });
  addEventListener("hashchange", () => {
    restoreView();
    render();
  });
}

initialize();
restoreView();
showStatus(JSON.parse(byId("status-data").textContent));
timer = setTimeout(update, UPDATE_INTERVAL_MS);
setInterval(onSecond, 1_000);
