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
const SVG_NAMES = ["svg", "path", "rect"];
const NUMBER_ORDERS = ["lowest first", "highest first"];
// Columns with a `value` can be sorted. `orders` name the ascending and the descending order.
const COLUMNS = [
  { key: "name", title: "Query", class: "name-cell", value: (query) => query.name, orders: ["A to Z", "Z to A"], content: nameContent },
  { key: "state", title: "State", class: "state", value: (query) => query.urgency, orders: ["most urgent first", "least urgent first"], content: stateContent },
  { key: "points", title: "Points", class: "points-cell", content: pointsContent },
  { key: "latest", title: "Latest", class: "number", value: (query) => query.latest, orders: NUMBER_ORDERS, content: ({ latest }) => [formatNumber(latest)] },
  { key: "settled", title: "Settled", class: "number", value: (query) => query.settled, orders: NUMBER_ORDERS, content: ({ settled }) => [formatNumber(settled)] },
  { key: "baseline", title: "Baseline", class: "number baseline", value: (query) => query.baseline, orders: NUMBER_ORDERS, content: baselineContent },
  { key: "age", title: "Age", class: "number", value: (query) => query.last_success_at && -query.last_success_at, orders: ["newest first", "oldest first"], content: (query) => [timeText(() => ageText(query))] },
  { key: "next", title: "Next fetch", class: "number next", value: (query) => query.next_at ?? 0, orders: ["soonest first", "latest first"], content: (query) => [timeText(() => nextFetchText(query))] },
];
const DESCENDING_FIRST = ["latest", "settled", "baseline", "age"];

const byId = (id) => document.getElementById(id);
const view = { filter: "", state: "", sortKey: "state", isDescending: false, maxRows: ROW_CHUNK, open: new Set(), isPaused: false };
let statusData; // the newest status response
let queries = []; // the queries of `statusData`, each with its id, key, level, urgency, time zone and search text
let clockOffset = 0; // milliseconds by which the exporter's clock is ahead of the browser's
let connectionError = ""; // why `statusData` may be outdated
let timer;

// ---- elements ----

function element(name, attributes = {}, ...children) {
  const result = SVG_NAMES.includes(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) result.setAttribute(key, value);
  result.append(...children);
  return result;
}

function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// Return an element whose text changes with time.
function timeText(getText) {
  return Object.assign(element("span", { class: "time" }, getText()), { getText });
}

// Show `items` as the children of `target`. Each item has a key, its data, and a function that creates its element. Only
// elements of changed data are created again, so that selections and screen readers are not disturbed.
function show(target, items) {
  const focused = document.activeElement;
  const keys = new Set(items.map(([key]) => key));
  for (const child of [...target.children]) if (!keys.has(child.key)) child.remove();
  const before = new Map([...target.children].map((child) => [child.key, child]));
  let position = target.firstElementChild;
  for (const [key, data, create] of items) {
    const content = JSON.stringify(data);
    let child = before.get(key);
    if (child?.content !== content) {
      const created = Object.assign(create(), { key, content });
      if (child && child === position) position = created;
      if (child) replaceElement(child, created);
      child = created;
    }
    if (child === position) position = position.nextElementSibling;
    else target.insertBefore(child, position);
  }
  if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

// Replace an element by a similar one, with its focus and scroll position.
function replaceElement(before, after) {
  const [partsBefore, partsAfter] = [before, after].map((parent) => [parent, ...parent.querySelectorAll("button, .points")]);
  const focused = partsAfter[partsBefore.indexOf(document.activeElement)];
  const tops = partsBefore.map(({ scrollTop }) => scrollTop);
  before.replaceWith(after);
  for (const [index, part] of partsAfter.entries()) part.scrollTop = tops[index] ?? 0;
  focused?.focus({ preventScroll: true });
}

function levelElement(level, message, title = "") {
  const path = element("path", { d: ICON_PATHS[level], fill: "currentColor", "fill-rule": "evenodd" });
  const icon = element("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, path);
  return element("span", { class: `level ${level}`, title }, icon, element("span", { class: "message" }, message));
}

// Return a scrollable table. Its columns with the titles in `numeric` are aligned to the right.
function tableElement(label, titles, numeric, body) {
  const attributes = (index) => (numeric.includes(titles[index]) ? { class: "number" } : {});
  const head = titles.map((title, index) => element("th", { scope: "col", ...attributes(index) }, title));
  const lines = body.map(({ name = "", cells }) => element("tr", { class: name }, ...cells.map((cell, index) => element("td", attributes(index), cell))));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...lines));
  return element("div", { class: "points", tabindex: "0", role: "region", "aria-label": label }, table);
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

const CLOCK = { hour: "2-digit", minute: "2-digit" };
const DATE = { day: "numeric", month: "short" };
const TIME_FORMATS = { clock: CLOCK, hour: { weekday: "short", ...DATE, ...CLOCK }, day: { weekday: "short", ...DATE }, moment: { ...DATE, ...CLOCK, second: "2-digit" } };
const timeFormats = new Map();

function formatTime(seconds, zone, name) {
  const key = `${name} ${zone}`;
  if (!timeFormats.has(key)) {
    const create = (timeZone) => new Intl.DateTimeFormat("en-GB", { ...TIME_FORMATS[name], timeZone });
    try {
      timeFormats.set(key, create(zone));
    } catch {
      const utc = create("UTC");
      timeFormats.set(key, { format: (date) => `${utc.format(date)} UTC` }); // the browser does not support the time zone
    }
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
  const units = [[86_400, "d"], [3_600, "h"], [60, "min"]];
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
  return query.last_success_at === null ? "never" : `${formatTime(query.last_success_at, query.zone, "moment")}, ${ageText(query)} ago`;
}

// ---- points ----

const bucketStarts = ({ points: { starts, first, values } }) => starts ?? values.map((_, index) => first + index * UNIT_SECONDS.hour);
const hasPoints = (query) => query.points !== null && query.points.values.length > 0;
const noPointsText = (query) => (query.points === null ? "no response yet" : "no data in the response");

// Bars start at zero. Settled buckets are solid, buckets that may still change are hollow, and missing ones are gaps.
function barChart(query, width, height, name) {
  const { values, settled } = query.points;
  const starts = bucketStarts(query);
  const slots = starts.map((start) => Math.round((start - starts[0]) / UNIT_SECONDS[query.unit]));
  const step = width / (slots.at(-1) + 1);
  const barWidth = Math.max(step * 0.75, step - 4);
  const max = Math.max(...values, query.baseline ?? 0) || 1;
  const barHeight = (value) => (value / max) * (height - 1);
  const bar = (value, index) => {
    const inset = index < settled ? 0 : 0.5;
    const up = Math.max(1, barHeight(value)) - inset;
    return `M${(slots[index] * step + inset).toFixed(2)} ${height - inset / 2}v${-up.toFixed(2)}h${Math.max(0.1, barWidth - 2 * inset).toFixed(2)}v${up.toFixed(2)}z`;
  };
  const bars = values.map(bar);
  const index = query.baseline === null ? -1 : starts.indexOf(query.settled_start);
  const baseline = index < 0 ? "" : `M${(slots[index] * step - 1).toFixed(2)} ${(height - barHeight(query.baseline)).toFixed(2)}h${(barWidth + 2).toFixed(2)}`;
  const paths = Object.entries({ settled: bars.slice(0, settled).join(""), unsettled: bars.slice(settled).join(""), baseline })
    .filter(([, d]) => d)
    .map(([key, d]) => element("path", { class: key, d, "vector-effect": "non-scaling-stroke" }));
  const range = `from ${formatNumber(Math.min(...values))} to ${formatNumber(Math.max(...values))}`;
  const label = `${pluralize(values.length, query.unit)}, values ${range}; the newest ${values.length - settled} may change`;
  return element("svg", { class: `bars ${name}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ...paths);
}

// ---- workspaces ----

function poolElement({ name, limit, remaining, reserve, reset_at: resetAt, planned, allowed }, zone) {
  const line = (...children) => element("p", { class: "muted" }, ...children);
  const calls = element("span", {}, `${formatNumber(planned)} of ${formatNumber(allowed)} calls/h planned`); // `allowed` by the budget
  if (remaining === null) return element("div", { class: "pool" }, line(element("span", {}, "Rate limit not known yet"), calls));
  const share = (value) => Math.min(100, (100 * value) / limit);
  const label = `${formatNumber(remaining)} of ${formatNumber(limit)} calls left, reserve ${formatNumber(reserve)}`;
  const meter = element(
    "svg",
    { class: "meter", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label },
    element("rect", { class: "limit", width: 100, height: 10, "vector-effect": "non-scaling-stroke" }),
    element("rect", { class: remaining <= reserve ? "low" : "remaining", width: share(remaining), height: 10 }),
    element("path", { class: "reserve", d: `M${share(reserve)} -2v14`, "vector-effect": "non-scaling-stroke" }),
  );
  const left = element("span", { class: "left" }, element("b", {}, formatNumber(remaining)), ` of ${formatNumber(limit)} calls left${name === "default" ? "" : ` (${name})`}`);
  const resetText = () => (resetAt === null ? "" : `${resetAt < now() ? "window ended" : "resets"} at ${formatTime(resetAt, zone, "clock")}`);
  const reserveLabel = element("span", { class: "reserve-label" }, `reserve ${formatNumber(reserve)}`);
  return element("div", { class: "pool" }, line(left, timeText(resetText)), meter, line(reserveLabel, calls));
}

function workspaceElement({ name, zone, url, level, messages, pools }) {
  return element(
    "article",
    { class: `workspace ${level}` },
    element("header", {}, element("h2", {}, element("bdi", {}, name)), element("span", { class: "muted", title: "Time zone of this workspace" }, zone)),
    element("div", { class: "muted ellipsis", title: url }, url),
    element("ul", {}, ...messages.map((text, index) => element("li", {}, index ? text : levelElement(level, text)))),
    ...pools.map((pool) => poolElement(pool, zone)),
  );
}

// ---- rows ----

function shorten(name) {
  if (name.length <= MAX_NAME_LENGTH) return name;
  return `${[...name.slice(0, 2 * MAX_NAME_LENGTH)].slice(0, MAX_NAME_LENGTH).join("")}…`;
}

function stateContent({ level, message, error }) {
  return [levelElement(level, message, error?.detail ?? message)];
}

function pointsContent(query) {
  return [hasPoints(query) ? barChart(query, 144, 28, "sparkline") : element("span", { class: "no-data" }, noPointsText(query))];
}

function baselineContent({ baseline, settled }) {
  if (!(baseline > 0) || settled === null) return [formatNumber(baseline)];
  const title = "Settled value compared with the baseline";
  return [formatNumber(baseline), " ", element("span", { class: "delta", title }, percentFormat.format(settled / baseline - 1))];
}

// The name of a query, and the tags that distinguish it from others with the same name.
function nameContent({ id, key, name, tags, workspace }) {
  const all = statusData.workspaces.length > 1 ? [...tags, ["workspace", workspace]] : tags;
  const texts = all.flatMap(([title, text], index) => [index ? " · " : "", element("bdi", { title }, shorten(text))]);
  const attributes = { type: "button", class: "name", "aria-expanded": view.open.has(key), "aria-controls": id };
  return [element("button", attributes, element("bdi", { class: "title ellipsis" }, shorten(name)), element("span", { class: "tags ellipsis" }, ...texts))];
}

function rowElement(query) {
  const cells = COLUMNS.map(({ key, title, class: name, content }) => {
    const [cell, attributes] = key === "name" ? ["th", { scope: "row", role: "rowheader" }] : ["td", { role: "cell" }];
    return element(cell, { ...attributes, class: name, "data-label": title }, ...content(query));
  });
  return element("tr", { class: "row", role: "row" }, ...cells);
}

// ---- expanded rows ----

function promqlSelector(metric, labels) {
  const escape = (text) => text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
  return `${metric}{${Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`).join(",")}}`;
}

function chartElement(query) {
  const starts = bucketStarts(query);
  const tick = (start) => element("span", {}, formatTime(start, query.zone, query.unit));
  const legend = [["settled", "settled"], ["unsettled", "may still change"], ["baseline", "baseline"]]
    .filter(([name]) => name !== "baseline" || query.baseline !== null)
    .map(([name, text]) => {
      const sign = element("path", { class: name, d: name === "baseline" ? "M0 5h10" : "M.5 .5h9v9h-9z" });
      return element("span", {}, element("svg", { class: "bars", viewBox: "0 0 10 10", "aria-hidden": "true" }, sign), text);
    });
  return element(
    "div",
    {},
    element("h3", {}, `Points: ${pluralize(starts.length, query.unit)}`),
    element("div", { class: "muted" }, formatNumber(Math.max(...query.points.values, query.baseline ?? 0))),
    barChart(query, 600, 120, "chart"),
    element("div", { class: "axis" }, tick(starts[0]), tick(starts.at(-1))),
    element("p", { class: "legend" }, ...legend),
  );
}

function pointsTable(query) {
  const { values, settled, ended } = query.points;
  const body = bucketStarts(query).map((start, index) => {
    const state = index < settled ? "settled" : index < ended ? "ended, may change" : "in progress";
    const cells = [formatTime(start, query.zone, query.unit), formatNumber(values[index]), state];
    return { name: index < settled ? "" : "may-change", cells };
  });
  const titles = [`${query.unit === "hour" ? "Hour" : "Day"} (${query.zone})`, "Value", "State"];
  return element("div", {}, element("h3", {}, "Raw points"), tableElement("Raw points, newest first", titles, ["Value"], body.reverse()));
}

function propertyList(query) {
  const { labels, app_id: appId, segment_id: segmentId, baseline, baseline_weeks: weeks, total } = query;
  const name = (text, id = "") => [element("bdi", {}, text), id && ` (${id})`];
  const properties = [
    ["Workspace", ...name(query.workspace)],
    appId && ["App", ...name(labels.braze_app, appId)],
    segmentId && ["Segment", ...name(labels.segment, segmentId)],
    ["Last success", timeText(() => lastSuccessText(query))],
    ["Next fetch", timeText(() => nextFetchText(query))],
    ["Refresh", `every ${formatDuration(query.refresh)}`],
    ["Settle", `${formatDuration(query.settle)} after the end of the ${query.unit}`],
    ["Max age", formatDuration(query.max_age)],
    weeks && ["Baseline", `${baseline === null ? "not known yet" : formatNumber(baseline)}, from the last ${pluralize(weeks, "week")}`],
    total !== null && ["Counter", `${formatNumber(total)} since the first response`],
    ["Metrics", ...query.metrics.map((metric) => element("code", {}, promqlSelector(metric, labels)))],
  ];
  return element("dl", {}, ...properties.filter(Boolean).flatMap(([term, ...values]) => [element("dt", {}, term), element("dd", {}, ...values)]));
}

function seriesTable({ series }) {
  const body = series.map(({ metric_group: group, labels, latest, settled, total }) => ({
    cells: [group, element("bdi", {}, labels.map(shorten).join(" · ")), ...[latest, settled, total].map(formatNumber)],
  }));
  const title = `All ${numberFormat.format(series.length)} series`;
  const numeric = ["Latest", "Settled", "Counter"];
  return element("div", { class: "full-width" }, element("h3", {}, title), tableElement(title, ["Metric", "Labels", ...numeric], numeric, body));
}

function errorElement({ reason, failures, detail }) {
  const times = failures > 1 ? `, ${failures} times in a row` : "";
  return element("p", { class: "last-error full-width" }, element("b", {}, `Last error (${reason}${times}): `), element("bdi", {}, detail));
}

function detailElement(query, columnCount) {
  const chart = hasPoints(query) ? chartElement(query) : element("p", { class: "no-data" }, `Points: ${noPointsText(query)}.`);
  const content = element("div", { class: "detail-content" }, element("p", { class: "full-name full-width", dir: "auto" }, query.name));
  if (query.error !== null) content.append(errorElement(query.error));
  content.append(element("div", {}, chart, propertyList(query)));
  if (hasPoints(query)) content.append(pointsTable(query));
  if (query.series.length) content.append(seriesTable(query));
  return element("tr", { class: "detail", id: query.id, role: "row" }, element("td", { colspan: columnCount, role: "cell" }, content));
}

function toggle(key) {
  if (!view.open.delete(key)) view.open.add(key);
  render();
}

// ---- rendering: the filtered and sorted queries, up to `maxRows` ----

function filterQueries() {
  const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  return queries.filter(({ searchText }) => words.every((word) => searchText.includes(word)));
}

// Queries without a value are last in both orders.
function sortQueries(matches) {
  const { key, value } = COLUMNS.find((column) => column.key === view.sortKey);
  const compare = key === "name" ? collator.compare : (one, other) => one - other;
  const sign = view.isDescending ? -1 : 1;
  return [...matches].sort((first, second) => {
    const [one, other] = [value(first), value(second)];
    return one === null || other === null ? (one === null) - (other === null) : sign * compare(one, other);
  });
}

// Return the row of a query, and its details if they are open.
function rowItems(query, columnCount) {
  const isOpen = view.open.has(query.key);
  const row = [query.key, [query, isOpen], () => rowElement(query)];
  return isOpen ? [row, [`${query.key} details`, [query, columnCount], () => detailElement(query, columnCount)]] : [row];
}

function headElement({ key, title, class: name, value }) {
  const order = key === view.sortKey ? { "aria-sort": view.isDescending ? "descending" : "ascending" } : {};
  const attributes = { scope: "col", role: "columnheader", "data-key": key, class: `${name} c-${key}`, ...order };
  return element("th", attributes, value ? element("button", { type: "button" }, title) : element("div", {}, title));
}

function stateButton(state, name, number) {
  const attributes = { type: "button", "data-state": state, "aria-pressed": state === view.state };
  return element("button", attributes, `${name} `, element("b", {}, numberFormat.format(number)));
}

function render() {
  const matches = filterQueries();
  const shown = sortQueries(view.state ? matches.filter(({ state }) => state === view.state) : matches);
  show(byId("columns"), COLUMNS.map((column) => [column.key, column.key === view.sortKey && sortName(), () => headElement(column)]));
  // A cell that spans more columns than are visible would add some. A narrow page hides columns.
  const columnCount = [...byId("columns").children].filter((th) => getComputedStyle(th).display !== "none").length;
  show(byId("rows"), shown.slice(0, view.maxRows).flatMap((query) => rowItems(query, columnCount)));
  const count = (state) => matches.filter((query) => query.state === state).length;
  const states = statusData.states.filter(({ state }) => state === view.state || queries.some((query) => query.state === state));
  const buttons = [["", "all", matches.length], ...states.map(({ state, name }) => [state, name, count(state)])];
  show(byId("states"), buttons.map(([state, name, number]) => [state, [number, state === view.state], () => stateButton(state, name, number)]));
  const all = pluralize(queries.length, "query");
  const part = shown.length === queries.length ? all : `${numberFormat.format(shown.length)} of ${all}`;
  setText(byId("count"), shown.length === 0 && queries.length > 0 ? "No query matches." : part);
  byId("show-more").hidden = shown.length <= view.maxRows;
  setText(byId("show-more"), `Show ${Math.min(ROW_CHUNK, shown.length - view.maxRows)} more`);
  byId("sort").value = sortName();
  updateTimes();
}

function renderHeader() {
  setText(byId("version"), statusData.version);
  const number = queries.filter((query) => query.level === "error").length;
  document.title = number > 0 ? `(${number}) Braze exporter` : "Braze exporter";
  const errors = connectionError ? [connectionError, ...statusData.errors] : statusData.errors;
  show(byId("errors"), errors.map((text) => [text, text, () => element("p", {}, text)]));
  show(byId("workspaces"), statusData.workspaces.map((workspace) => [workspace.name, workspace, () => workspaceElement(workspace)]));
}

function updateTimes() {
  const scrapedAt = statusData.scraped_at;
  setText(byId("last-scrape"), scrapedAt === null ? "No scrape yet" : `Last scrape ${formatSpan(now() - scrapedAt)} ago`);
  for (const target of document.querySelectorAll(".time")) setText(target, target.getText());
}

function showStatus(response) {
  statusData = response;
  clockOffset = response.now * 1000 - Date.now();
  const zones = new Map(response.workspaces.map(({ name, zone }) => [name, zone]));
  const states = new Map(response.states.map(({ state, level }, urgency) => [state, { urgency, level }]));
  queries = response.queries.map((query, index) => ({
    ...query,
    ...states.get(query.state),
    zone: zones.get(query.workspace),
    id: `detail-${index}`,
    key: JSON.stringify([query.metrics[0], query.labels, query.app_id, query.segment_id]),
    searchText: [...Object.values(query.labels), ...query.tags.map(([, text]) => text), query.name, query.state, query.message].join("\n").toLowerCase(),
  }));
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

// ---- input ----

const sortName = () => `${view.sortKey} ${view.isDescending ? "down" : "up"}`;

function changeView(changes) {
  Object.assign(view, { maxRows: ROW_CHUNK }, changes);
  const parameters = new URLSearchParams();
  if (view.filter) parameters.set("q", view.filter);
  if (view.state) parameters.set("state", view.state);
  if (sortName() !== "state up") parameters.set("sort", sortName());
  history.replaceState(null, "", `#${parameters}`);
  render();
}

// Restore the filter and the order from the fragment of the URL, which keeps them across reloads and in shared URLs.
function restoreView() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const [key, direction] = (parameters.get("sort") ?? "").split(" ");
  const isSortable = COLUMNS.some((column) => column.key === key && column.value);
  view.filter = byId("filter").value = parameters.get("q") ?? "";
  view.state = parameters.get("state") ?? "";
  [view.sortKey, view.isDescending] = isSortable ? [key, direction === "down"] : ["state", false];
}

// Move the focus by a number of rows. The filter is before the first row.
function moveFocus(from, offset) {
  const buttons = [byId("filter"), ...document.querySelectorAll("#rows .name")];
  buttons[Math.min(buttons.indexOf(from) + offset, buttons.length - 1)].focus();
}

// Close the details of the row that contains `target`, or those that were opened last if they are not open.
function closeRow(target) {
  const trKey = target.closest("#rows > tr")?.key;
  const key = [...view.open].find((open) => trKey === open || trKey === `${open} details`) ?? [...view.open].at(-1);
  if (key === undefined) return;
  toggle(key);
  [...byId("rows").children].find((tr) => tr.key === key)?.querySelector("button").focus();
}

function onKey(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || !(target instanceof Element)) return;
  const isFilter = target === byId("filter");
  const isRow = target.matches("#rows .name");
  if (key === "/" && !target.matches("input, select")) byId("filter").select();
  else if (key === "Escape" && isFilter) changeView({ filter: (target.value = "") });
  else if (key === "Escape" && !target.matches("select")) closeRow(target);
  else if (key === "ArrowDown" && (isFilter || isRow)) moveFocus(target, 1);
  else if (key === "ArrowUp" && isRow) moveFocus(target, -1);
  else return;
  event.preventDefault();
}

const sortOptions = ({ key, title, orders = [] }) =>
  orders.map((order, index) => element("option", { value: `${key} ${index ? "down" : "up"}` }, `${title}: ${order}`));

function listen(id, type, listener) {
  byId(id).addEventListener(type, ({ target }) => listener(target));
}

function listenToInput() {
  listen("columns", "click", (target) => {
    const key = target.closest("button")?.parentElement.dataset.key;
    if (key) changeView(view.sortKey === key ? { isDescending: !view.isDescending } : { sortKey: key, isDescending: DESCENDING_FIRST.includes(key) });
  });
  listen("rows", "click", (target) => {
    const key = target.closest(".row")?.key;
    if (key && (target.closest("button") || String(getSelection()) === "")) toggle(key);
  });
  listen("sort", "change", ({ value }) => {
    const [sortKey, direction] = value.split(" ");
    changeView({ sortKey, isDescending: direction === "down" });
  });
  listen("filter", "input", ({ value }) => changeView({ filter: value }));
  listen("states", "click", (target) => {
    const button = target.closest("button");
    if (button) changeView({ state: button.dataset.state });
  });
  listen("show-more", "click", () => {
    view.maxRows += ROW_CHUNK;
    render();
  });
  listen("pause", "click", (target) => {
    view.isPaused = !view.isPaused;
    setText(target, view.isPaused ? "Resume" : "Pause");
    update();
  });
  const showMore = (entries) => entries.at(-1).isIntersecting && !byId("show-more").hidden && byId("show-more").click();
  new IntersectionObserver(showMore, { rootMargin: "400px" }).observe(byId("table-end"));
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", update);
  addEventListener("resize", render);
  addEventListener("hashchange", () => {
    restoreView();
    render();
  });
}

byId("sort").append(...COLUMNS.flatMap(sortOptions));
byId("pause").hidden = byId("queries").hidden = false;
listenToInput();
restoreView();
showStatus(JSON.parse(byId("status-data").textContent));
timer = setTimeout(update, UPDATE_INTERVAL_MS);
setInterval(() => document.hidden || updateTimes(), 1_000);
