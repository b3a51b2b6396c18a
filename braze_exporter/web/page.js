"use strict";
// The script of the status page at `/`. It fetches the status regularly, and shows it.
//
// Names and messages come from users and from Braze. They are inserted only as text: this script creates no HTML from
// strings, and the page's Content-Security-Policy forbids it. The exporter writes the messages and sends the most urgent
// queries first. This script formats numbers and times, and filters and sorts.

const UPDATE_INTERVAL_MS = 5_000; // the minimum; it is longer if responses are slow
const MAX_UPDATE_INTERVAL_MS = 60_000;
const MAX_ROWS = 200;
const UNIT_SECONDS = { hour: 3_600, day: 86_400 };
const TIME_FORMATS = {
  clock: { hour: "2-digit", minute: "2-digit" },
  hour: { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" },
  day: { weekday: "short", day: "numeric", month: "short" },
};

const byId = (id) => document.getElementById(id);
const rows = new Map(); // the element of each query, by its first metric
let statusData; // the newest status response
let timer;

// ---- elements ----

function element(name, attributes = {}, ...children) {
  const isSvg = name === "svg" || name === "path";
  const result = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) result.setAttribute(key, value);
  result.append(...children);
  return result;
}

// Show `data` as the children of `target`, which `create` returns. If the data is the same as before, they stay, so that
// selections and screen readers are not disturbed.
function show(target, data, create) {
  const content = JSON.stringify(data);
  if (target.content === content) return;
  target.content = content;
  target.replaceChildren(...create(data));
}

// ---- numbers and times ----

const numberFormat = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const percentFormat = new Intl.NumberFormat("en", { style: "percent", signDisplay: "exceptZero", maximumFractionDigits: 0 });
const formatNumber = (value) => (value === null ? "–" : numberFormat.format(value));
const pluralize = (number, singular, plural) => `${formatNumber(number)} ${number === 1 ? singular : plural}`;

function formatTime(seconds, zone, format) {
  const inZone = (timeZone) => new Date(seconds * 1_000).toLocaleString("en-GB", { ...TIME_FORMATS[format], timeZone });
  try {
    return inZone(zone);
  } catch {
    return `${inZone("UTC")} UTC`; // the browser does not support the time zone
  }
}

// Format an age or a remaining time in up to two units. Parts of the last unit are dropped.
function formatSpan(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86_400) return `${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3_600)} h`;
}

function nextFetchText({ in_flight: inFlight, next_at: nextAt }) {
  if (inFlight) return "now";
  return nextAt === null ? "next scrape" : `in ${formatSpan(nextAt - statusData.now)}`;
}

// ---- workspaces ----

function poolElement({ name, limit, remaining, reserve, reset_at: resetAt, planned, allowed }, zone) {
  const line = (...texts) => element("p", {}, ...texts.map((text) => element("span", {}, text)));
  const calls = `${formatNumber(planned)} of ${formatNumber(allowed)} calls/h planned`; // `allowed` by the budget
  if (remaining === null) return element("div", { class: "pool" }, line(`Rate limit (${name}) not known yet`, calls));
  const meter = element("meter", { max: limit, low: reserve, high: reserve, optimum: limit, value: remaining, "aria-label": `Calls left (${name})` });
  const bar = element("div", { class: "bar" }, meter);
  bar.style.setProperty("--reserve", reserve / limit);
  const reset = resetAt === null ? "" : `${resetAt > statusData.now ? "resets" : "window ended"} at ${formatTime(resetAt, zone, "clock")}`;
  const left = `${formatNumber(remaining)} of ${formatNumber(limit)} calls left (${name})`;
  return element("div", { class: "pool" }, line(left, reset), bar, line(`reserve ${formatNumber(reserve)}`, calls));
}

function workspaceElement({ name, zone, url, level, messages, pools }) {
  const items = messages.map((text, index) => element("li", index ? {} : { class: `level ${level}` }, text));
  const head = element("header", {}, element("h2", {}, element("bdi", {}, name)), element("span", { title: "Time zone of this workspace" }, zone));
  const address = element("div", { class: "ellipsis" }, url);
  return element("article", { class: `workspace ${level}` }, head, address, element("ul", {}, ...items), ...pools.map((pool) => poolElement(pool, zone)));
}

// ---- queries ----

// Return a chart of the buckets with bars that start at zero. Settled buckets are solid, and buckets that may still change
// are hollow. Buckets without a value are gaps.
function chartElement({ unit, starts, values, settled_count: settledCount }) {
  const slots = starts.map((start) => Math.round((start - starts[0]) / UNIT_SECONDS[unit]));
  const known = values.filter((value) => value !== null);
  const top = Math.max(0, ...known) || 1;
  const bar = (value, index) => (value === null ? "" : `M${slots[index]} 1V${Math.min(0.97, 1 - value / top)}h.75V1z`);
  const bars = values.map(bar);
  const label = `${pluralize(known.length, "bucket", "buckets")} from ${formatNumber(Math.min(...known))} to ${formatNumber(Math.max(...known))}`;
  return element(
    "svg",
    { class: "chart", viewBox: `0 0 ${slots.at(-1) + 0.75} 1`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    element("path", { class: "settled", d: bars.slice(0, settledCount).join("") }),
    element("path", { class: "unsettled", d: bars.slice(settledCount).join("") }),
  );
}

function pointsContent(query) {
  if (query.last_success_at === null) return "no response yet";
  return query.values.some((value) => value !== null) ? chartElement(query) : "no data in the response";
}

function summaryContent([query, age, next]) {
  const { name, tags, level, message, error, latest, settled, baseline, change } = query;
  const texts = tags.flatMap((tag, index) => [index ? " · " : "", element("bdi", {}, tag)]);
  const delta = change === null ? "" : ` ${percentFormat.format(change)}`;
  const numbers = { Latest: formatNumber(latest), Settled: formatNumber(settled), Baseline: formatNumber(baseline) + delta, Age: age, "Next fetch": next };
  return [
    element("span", { class: "name" }, element("bdi", { class: "title ellipsis" }, name), element("span", { class: "tags ellipsis" }, ...texts)),
    element("span", { class: `level ${level}`, title: error ?? message }, message),
    element("span", { class: "points" }, pointsContent(query)),
    ...Object.entries(numbers).map(([label, text]) => element("span", { class: "number" }, element("span", { class: "label" }, label), " ", text)),
  ];
}

function detailsContent(query) {
  const { name, error, unit, zone, starts, values, settled_count: settledCount, total, metrics, properties } = query;
  const lines = starts.map((start, index) =>
    element(
      "tr",
      { class: index < settledCount ? "settled" : "unsettled" },
      element("th", { scope: "row" }, formatTime(start, zone, unit)),
      element("td", { class: "number" }, formatNumber(values[index])),
      element("td", {}, index < settledCount ? "settled" : "may still change"),
    ),
  );
  const terms = [...Object.entries(properties), ["counter", formatNumber(total)]];
  return [
    element("p", { class: "full-name", dir: "auto" }, name),
    ...(error === null ? [] : [element("p", { class: "last-error" }, element("b", {}, "Last error: "), element("bdi", {}, error))]),
    element(
      "div",
      { class: "points" },
      pointsContent(query),
      element("dl", {}, ...terms.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, element("bdi", {}, text))])),
      ...metrics.map((metric) => element("code", {}, metric)),
    ),
    element("table", {}, element("caption", {}, `Buckets, newest first (${zone})`), ...lines.reverse()),
  ];
}

// Return the element of a query, which stays the same, so that it keeps the focus and stays open.
function rowElement(query) {
  const key = query.metrics[0];
  if (!rows.has(key)) rows.set(key, element("details", {}, element("summary", { class: "cells" }), element("div", { class: "content" })));
  const row = rows.get(key);
  const age = query.last_success_at === null ? "–" : formatSpan(statusData.now - query.last_success_at);
  const data = { ...query, next_at: null }; // with the exact time, each response would change the elements
  show(row.firstChild, [data, age, nextFetchText(query)], summaryContent);
  if (row.open) show(row.lastChild, data, detailsContent);
  return row;
}

function filterQueries() {
  const words = byId("filter").value.toLowerCase().split(/\s+/);
  return statusData.queries.filter(({ searchText }) => words.every((word) => searchText.includes(word)));
}

// Return a comparison by a field, in descending order if it begins with a minus. Queries without a value are last.
function compareBy(field) {
  const [sign, key] = field.startsWith("-") ? [-1, field.slice(1)] : [1, field];
  return ({ [key]: one }, { [key]: other }) => {
    if (one === null || other === null) return (one === null) - (other === null);
    return key === "name" ? one.localeCompare(other, "en", { numeric: true }) : sign * (one - other);
  };
}

function renderQueries() {
  const matches = filterQueries();
  const field = byId("sort").value;
  if (field) matches.sort(compareBy(field));
  const shown = matches.slice(0, MAX_ROWS).map(rowElement);
  const list = byId("rows");
  if (shown.length !== list.children.length || shown.some((row, index) => row !== list.children[index])) {
    const focused = document.activeElement;
    list.replaceChildren(...shown);
    focused.focus({ preventScroll: true });
  }
  const part = matches.length > MAX_ROWS ? `, the first ${MAX_ROWS} are shown` : "";
  const count = `${formatNumber(matches.length)} of ${pluralize(statusData.queries.length, "query", "queries")}${part}`;
  show(byId("count"), count, () => [count]);
}

function renderErrors(errors) {
  show(byId("errors"), errors, () => errors.map((text) => element("p", {}, text)));
}

function showStatus(response) {
  statusData = response;
  const { version, now, scraped_at: scrapedAt, errors, workspaces, queries } = response;
  for (const query of queries) {
    const { name, tags, message, settled, baseline } = query;
    query.change = baseline > 0 && settled !== null ? settled / baseline - 1 : null;
    query.searchText = [name, ...tags, message].join("\n").toLowerCase();
  }
  const keys = new Set(queries.map(({ metrics }) => metrics[0]));
  for (const key of rows.keys()) if (!keys.has(key)) rows.delete(key);
  byId("version").textContent = version;
  byId("last-scrape").textContent = scrapedAt === null ? "No scrape yet" : `Last scrape ${formatSpan(now - scrapedAt)} ago`;
  renderErrors(errors);
  show(byId("workspaces"), workspaces, () => workspaces.map(workspaceElement));
  byId("queries").hidden = false;
  renderQueries();
}

// ---- updates ----

async function update() {
  const startedAt = performance.now();
  if (!document.hidden && byId("live").checked) {
    try {
      const url = location.origin + location.pathname; // without the credentials that a URL may contain
      const response = await fetch(url, { headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(20_000) });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const newStatus = await response.json();
      if (statusData && newStatus.version !== statusData.version) location.reload(); // it has another page
      showStatus(newStatus);
    } catch (error) {
      const since = statusData ? ` Status as of ${new Date(statusData.now * 1_000).toLocaleTimeString("en-GB")}.` : "";
      renderErrors([`No response from the exporter (${error.message}).${since}`, ...(statusData?.errors ?? [])]);
    }
  }
  clearTimeout(timer);
  const interval = Math.max(UPDATE_INTERVAL_MS, 20 * (performance.now() - startedAt));
  timer = setTimeout(update, Math.min(MAX_UPDATE_INTERVAL_MS, interval));
}

// The fragment of the URL keeps the filter and the order across reloads and in shared URLs.
function changeView() {
  history.replaceState(null, "", `#${new URLSearchParams({ q: byId("filter").value, sort: byId("sort").value })}`);
  renderQueries();
}

function restoreView() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  byId("filter").value = parameters.get("q") ?? "";
  byId("sort").value = parameters.get("sort") ?? "";
  if (statusData) renderQueries();
}

restoreView();
addEventListener("hashchange", restoreView); // a shared URL or another one of the history was opened
byId("filter").addEventListener("input", changeView);
byId("sort").addEventListener("input", changeView);
byId("rows").addEventListener("toggle", renderQueries, true);
document.addEventListener("visibilitychange", update);
update();
