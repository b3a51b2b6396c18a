// Renders a dashboard with Grafana's own front-end libraries, and queries a Prometheus.
//
// Real: variables, interpolation, repeats, the grid, transformations, field configs, and the components that draw.
// Written here: the data source and thin panel plugins, since Grafana does not publish its own.
//
// `window.scene` has the dashboard, the URL of the Prometheus, the time range in milliseconds, and whether it is dark.
import "./boot.js";
import { useMemo } from "react";
import { createRoot } from "react-dom/client";
import { MemoryRouter } from "react-router-dom";
import { Subject, from } from "rxjs";
import { map } from "rxjs/operators";
import {
  FieldType,
  LoadingState,
  PanelPlugin,
  cacheFieldDisplayNames,
  createTheme,
  dataLinksOverrideProcessor,
  dateTime,
  displayNameOverrideProcessor,
  getDefaultTimeRange,
  getDisplayProcessor,
  getFieldDisplayValues,
  identityOverrideProcessor,
  numberOverrideProcessor,
  standardEditorsRegistry,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  stringOverrideProcessor,
  thresholdsOverrideProcessor,
  toDataFrame,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from "@grafana/data";
import { initPluginTranslations } from "@grafana/i18n";
import * as runtime from "@grafana/runtime";
import { initializeLoggersRegistry } from "@grafana/runtime/unstable";
import * as scenes from "@grafana/scenes";
import { BigValue, GlobalStyles, PortalContainer, TimeSeries, VizRepeater } from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import { ThemeContext } from "@grafana/data";

const { dashboard, prometheus, dark } = window.scene;
const range = { from: dateTime(window.scene.from), to: dateTime(window.scene.to) };
const theme = createTheme({ colors: { mode: dark ? "dark" : "light" } });
let running = 0;
window.isIdle = () => running === 0;

// --- the data source: Grafana's for Prometheus, as its documentation describes it ---

const SCRAPE_SECONDS = 15;
const seconds = (text) => {
  const [, number, unit] = /^(\d+)([smhd])$/.exec(text);
  return number * { s: 1, m: 60, h: 3600, d: 86400 }[unit];
};

async function get(path, parameters) {
  running += 1;
  try {
    const response = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`);
    const body = await response.json();
    if (body.status !== "success") {
      console.error(`PromQL: ${body.error} in ${parameters.query}`);
      throw new Error(body.error);
    }
    return body.data;
  } finally {
    running -= 1;
  }
}

async function runTarget(target, request) {
  const minimum = target.interval ? seconds(target.interval) : SCRAPE_SECONDS;
  const start = request.range.from.valueOf() / 1000;
  const end = request.range.to.valueOf() / 1000;
  const step = Math.max(Math.ceil(request.intervalMs / 1000), minimum, Math.ceil((end - start) / 11000));
  const query = runtime
    .getTemplateSrv()
    .replace(target.expr, { ...request.scopedVars, __interval: { value: `${step}s` } })
    .replaceAll("$__rate_interval", `${Math.max(step + minimum, 4 * minimum)}s`);
  if (target.instant) {
    return { target, result: (await get("query", { query, time: end })).result };
  }
  const aligned = { start: Math.floor(start / step) * step, end: Math.floor(end / step) * step };
  return { target, step, ...aligned, result: (await get("query_range", { query, step, ...aligned })).result };
}

const legend = (format, metric) =>
  format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label) => metric[label] ?? "");

function seriesFrame({ target, step, start, end, result }) {
  return result.map(({ metric, value, values }) => {
    const points = target.instant ? [value] : values;
    const byTime = new Map(points.map(([time, number]) => [time, Number(number)]));
    const times = target.instant ? points.map(([time]) => time) : [];
    for (let time = start; !target.instant && time <= end; time += step) times.push(time);
    const name = target.legendFormat && target.legendFormat !== "__auto" ? legend(target.legendFormat, metric) : "";
    return toDataFrame({
      refId: target.refId,
      name,
      fields: [
        { name: "Time", type: FieldType.time, values: times.map((time) => time * 1000), config: { interval: (step ?? 15) * 1000 } },
        {
          name: "Value",
          type: FieldType.number,
          labels: metric,
          values: times.map((time) => byTime.get(time) ?? null),
          config: name ? { displayNameFromDS: name } : {},
        },
      ],
    });
  });
}

function tableFrame({ target, result }, count) {
  const labels = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: "Time", type: FieldType.time, values: result.map(({ value }) => value[0] * 1000) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        values: result.map(({ metric }) => metric[label] ?? ""),
        config: { filterable: true },
      })),
      {
        name: count > 1 ? `Value #${target.refId}` : "Value",
        type: FieldType.number,
        values: result.map(({ value }) => Number(value[1])),
      },
    ],
  });
}

const datasource = {
  uid: "prometheus",
  type: "prometheus",
  name: "Prometheus",
  meta: { id: "prometheus", info: {} },
  getRef: () => ({ type: "prometheus", uid: "prometheus" }),
  query(request) {
    const targets = request.targets.filter((target) => target.expr && !target.hide);
    const tables = targets.filter((target) => target.format === "table").length;
    return from(Promise.all(targets.map((target) => runTarget(target, request)))).pipe(
      map((results) => ({
        state: LoadingState.Done,
        data: results.flatMap((each) => (each.target.format === "table" ? [tableFrame(each, tables)] : seriesFrame(each))),
      })),
    );
  },
  async metricFindQuery(query, options) {
    const [, selector, label] = /^label_values\((.*),\s*(\w+)\)$/s.exec(query);
    const matcher = runtime.getTemplateSrv().replace(selector, options.scopedVars);
    const { from: start, to: end } = options.range ?? range;
    const found = await get(`label/${label}/values`, { "match[]": matcher, start: start.valueOf() / 1000, end: end.valueOf() / 1000 });
    return found.map((text) => ({ text, value: text }));
  },
};

function runRequest(source, request) {
  return source.query(request).pipe(
    map(({ data, state }) => ({ state, series: data, annotations: [], timeRange: request.range, request, structureRev: 1 })),
  );
}

// --- panel plugins ---

const NoData = ({ fieldConfig, width, height }) => (
  <div className="no-data" style={{ width, height, display: "grid", placeItems: "center", color: theme.colors.text.secondary }}>
    {fieldConfig.defaults.noValue ?? "No data"}
  </div>
);
const isEmpty = (data) => data.series.every((frame) => frame.length === 0);

function Stat({ data, options, fieldConfig, width, height, replaceVariables, timeZone }) {
  const getValues = () =>
    getFieldDisplayValues({
      fieldConfig,
      reduceOptions: options.reduceOptions,
      replaceVariables,
      theme,
      data: data.series,
      sparkline: options.graphMode !== "none",
      timeZone,
    });
  const values = getValues();
  return (
    <VizRepeater
      getValues={() => values}
      getAlignmentFactors={() => ({})}
      source={data}
      width={width}
      height={height}
      itemSpacing={3}
      renderCounter={0}
      autoGrid
      orientation={options.orientation ?? "auto"}
      renderValue={({ value, width, height, count }) => (
        <BigValue
          value={value.display}
          count={count}
          sparkline={value.sparkline}
          colorMode={options.colorMode}
          graphMode={options.graphMode}
          justifyMode={options.justifyMode ?? "auto"}
          textMode={options.textMode ?? "auto"}
          wideLayout={options.wideLayout ?? true}
          text={options.text}
          width={width}
          height={height}
          theme={theme}
        />
      )}
    />
  );
}

function Table({ data, options, fieldConfig, width, height, timeRange }) {
  cacheFieldDisplayNames(data.series);
  const frame = data.series.find(({ length }) => length > 0);
  if (!frame) return <NoData fieldConfig={fieldConfig} width={width} height={height} />;
  return (
    <TableNG
      data={frame}
      width={width}
      height={height}
      timeRange={timeRange}
      noHeader={options.showHeader === false}
      sortBy={options.sortBy}
      cellHeight={options.cellHeight}
      resizable
      structureRev={data.structureRev}
      fieldConfig={fieldConfig}
      enableVirtualization={false}
    />
  );
}

function Chart({ data, options, fieldConfig, width, height, timeRange, timeZone }) {
  const frames = useMemo(() => {
    for (const field of data.series.flatMap(({ fields }) => fields)) {
      field.display ??= getDisplayProcessor({ field, theme });
      if (field.type === FieldType.number) field.values = field.values.map((value) => (Number.isFinite(value) ? value : null));
    }
    return data.series;
  }, [data.series]);
  const marks = (data.annotations ?? []).flatMap(({ fields }) => fields.find(({ name }) => name === "time")?.values ?? []);
  // The plot is made anew if these change.
  const plotOptions = useMemo(() => ({ ...options, marks }), [options, String(marks)]);
  if (isEmpty(data)) return <NoData fieldConfig={fieldConfig} width={width} height={height} />;
  return (
    <TimeSeries
      frames={frames}
      structureRev={data.structureRev}
      timeRange={timeRange}
      timeZone={timeZone ?? "browser"}
      width={width}
      height={height}
      legend={options.legend}
      options={plotOptions}
    >
      {(builder) => {
        builder.addHook("draw", (plot) => drawMarks(plot, marks));
        return null;
      }}
    </TimeSeries>
  );
}

function drawMarks({ ctx, bbox, valToPos }, marks) {
  for (const x of marks.map((time) => valToPos(time, "x", true))) {
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.save();
    ctx.strokeStyle = theme.visualization.getColorByName("red");
    ctx.setLineDash([5, 5]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }
}

const custom = (names) => (builder) => {
  for (const [path, defaultValue] of Object.entries(names)) {
    builder.addCustomEditor({
      id: path,
      path,
      name: path,
      defaultValue,
      editor: () => null,
      override: () => null,
      process: identityOverrideProcessor,
      shouldApply: () => true,
      hideFromDefaults: true,
    });
  }
};

const TIME_SERIES = {
  drawStyle: "line",
  lineInterpolation: "linear",
  lineWidth: 1,
  lineStyle: { fill: "solid" },
  fillOpacity: 0,
  gradientMode: "none",
  spanNulls: false,
  showPoints: "auto",
  pointSize: 5,
  barAlignment: 0,
  barWidthFactor: 0.6,
  stacking: { mode: "none", group: "A" },
  axisPlacement: "auto",
  axisLabel: "",
  axisColorMode: "text",
  axisCenteredZero: false,
  axisBorderShow: false,
  axisSoftMin: undefined,
  axisSoftMax: undefined,
  scaleDistribution: { type: "linear" },
  thresholdsStyle: { mode: "off" },
  hideFrom: { viz: false, legend: false, tooltip: false },
};
const TABLE = {
  align: "auto",
  width: undefined,
  minWidth: undefined,
  cellOptions: { type: "auto" },
  wrapText: false,
  wrapHeaderText: false,
  filterable: false,
  inspect: false,
  hidden: undefined,
  hideFrom: { viz: false },
  footer: undefined,
};

function makePlugin(id, component, options, names) {
  const plugin = new PanelPlugin(component).useFieldConfig({ useCustomConfig: names && custom(names) });
  plugin.setPanelOptions((builder) => {
    for (const [path, defaultValue] of Object.entries(options)) {
      builder.addCustomEditor({ id: path, path, name: path, defaultValue, editor: () => null });
    }
  });
  plugin.setDataSupport({ annotations: true, alertStates: false });
  plugin.meta = { id, name: id, info: {}, module: "", baseUrl: "", sort: 0 };
  return plugin;
}

// --- what Grafana's application sets up at its start ---

const standard = (id, process, defaultValue) => ({
  id,
  path: id,
  name: id,
  process,
  defaultValue,
  editor: () => null,
  override: () => null,
  shouldApply: () => true,
});
// Grafana's defaults include these thresholds, so a panel that omits its own shows them.
const DEFAULT_THRESHOLDS = { mode: "absolute", steps: [{ value: -Infinity, color: "green" }, { value: 80, color: "red" }] };

async function start() {
  initializeLoggersRegistry();
  standardEditorsRegistry.setInit(() => []);
  standardFieldConfigEditorRegistry.setInit(() => [
    standard("displayName", displayNameOverrideProcessor),
    standard("unit", unitOverrideProcessor),
    standard("min", numberOverrideProcessor),
    standard("max", numberOverrideProcessor),
    standard("fieldMinMax", identityOverrideProcessor),
    standard("decimals", numberOverrideProcessor),
    standard("noValue", stringOverrideProcessor),
    standard("color", identityOverrideProcessor),
    standard("mappings", valueMappingsOverrideProcessor, []),
    standard("thresholds", thresholdsOverrideProcessor, DEFAULT_THRESHOLDS),
    standard("links", dataLinksOverrideProcessor, []),
    standard("filterable", identityOverrideProcessor),
  ]);
  const transformers = Object.values(Object.fromEntries(Object.values(standardTransformers).map((each) => [each.id, each])));
  standardTransformersRegistry.setInit(() => transformers.map((transformation) => ({ ...transformation, transformation: async () => transformation, editor: () => null })));
  await initPluginTranslations("grafana-ui");
  await initPluginTranslations("grafana-scenes", []).catch(() => undefined);
  runtime.config.theme2 = theme;
  runtime.config.bootData.user.theme = dark ? "dark" : "light";
  const plugins = {
    stat: makePlugin("stat", Stat, { reduceOptions: { calcs: ["lastNotNull"], values: false }, graphMode: "area", colorMode: "value" }),
    table: makePlugin("table", Table, { showHeader: true, cellHeight: "sm" }, TABLE),
    timeseries: makePlugin("timeseries", Chart, { legend: { showLegend: true, displayMode: "list", placement: "bottom", calcs: [] } }, TIME_SERIES),
  };
  runtime.setPluginImportUtils({ importPanelPlugin: async (id) => plugins[id], getPanelPluginFromCache: (id) => plugins[id] });
  runtime.setBackendSrv({ get: async () => ({}), fetch: () => from([{ data: {} }]), datasourceRequest: async () => ({}) });
  runtime.setAppEvents({ publish: ({ payload }) => payload && console.error(payload), subscribe: () => ({ unsubscribe() {} }), getStream: () => new Subject() });
  runtime.setLocationSrv?.({ update() {} });
  runtime.setTemplateSrv({
    replace: (text, scopedVars, format) =>
      scopedVars?.__sceneObject
        ? scenes.sceneGraph.interpolate(scopedVars.__sceneObject.valueOf?.() ?? scopedVars.__sceneObject.value, text, scopedVars, format)
        : scenes.sceneGraph.interpolate(scene, text, scopedVars, format),
    getVariables: () => [],
    containsTemplate: (text) => /\$/.test(text ?? ""),
    updateTimeRange() {},
  });
  const settings = { ...datasource, isDefault: true, jsonData: {}, meta: { ...datasource.meta, id: "prometheus" } };
  runtime.setDataSourceSrv({ get: async () => datasource, getList: () => [settings], getInstanceSettings: () => settings, reload() {} });
  runtime.setRunRequest(runRequest);
  const scene = makeScene();
  window.sceneObject = scene;
  createRoot(document.getElementById("root")).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <MemoryRouter future={{ v7_startTransition: true, v7_relativeSplatPath: true }}>
        <scene.Component model={scene} />
      </MemoryRouter>
      <PortalContainer />
    </ThemeContext.Provider>,
  );
}

// --- from the dashboard's JSON to scene objects ---

function makeVariable(item) {
  const { name, label, hide, query, current, multi, includeAll, allValue, sort, refresh } = item;
  if (item.type === "datasource") {
    return new scenes.DataSourceVariable({ name, label, hide, pluginId: query, value: "prometheus", text: "Prometheus" });
  }
  return new scenes.QueryVariable({
    name,
    label,
    hide,
    query,
    refresh,
    sort,
    isMulti: multi,
    includeAll,
    allValue,
    defaultToAll: true,
    value: current?.value ?? "$__all",
    text: current?.text ?? "All",
    datasource: item.datasource,
  });
}

function makePanel(panel) {
  const $timeRange = panel.timeFrom
    ? new scenes.SceneTimeRange({
        from: dateTime(range.to.valueOf() - seconds(panel.timeFrom) * 1000).toISOString(),
        to: range.to.toISOString(),
      })
    : undefined;
  const runner = new scenes.SceneQueryRunner({
    datasource: panel.datasource,
    queries: panel.targets,
    minInterval: panel.interval,
    maxDataPoints: panel.maxDataPoints,
  });
  return new scenes.VizPanel({
    key: `panel-${panel.id}`,
    title: panel.title,
    description: panel.description,
    pluginId: panel.type,
    options: panel.options,
    fieldConfig: panel.fieldConfig,
    $timeRange,
    $data: panel.transformations?.length
      ? new scenes.SceneDataTransformer({ $data: runner, transformations: panel.transformations })
      : runner,
  });
}

const place = ({ gridPos: { x, y, w, h } }) => ({ x, y, width: w, height: h });

function makeItem(panel) {
  return panel.repeat
    ? new RepeatedItem({ ...place(panel), panel, variable: panel.repeat })
    : new scenes.SceneGridItem({ ...place(panel), body: makePanel(panel) });
}

// A panel for each selected value of a variable, in one cell of the grid that grows with their number.
class RepeatedItem extends scenes.SceneObjectBase {
  constructor(state) {
    super(state);
    this._variableDependency = new scenes.VariableDependencyConfig(this, {
      variableNames: [state.variable],
      onVariableUpdateCompleted: () => this.repeat(),
    });
    this.addActivationHandler(() => this.repeat());
  }

  repeat() {
    const { panel, variable } = this.state;
    const found = scenes.sceneGraph.lookupVariable(variable, this);
    if (scenes.sceneGraph.hasVariableDependencyInLoadingState(this) || !found) return;
    const isAll = [found.getValue()].flat().some((value) => value?.isCustomValue || value === "$__all");
    const values = isAll ? found.state.options.map(({ value }) => value) : [found.getValue()].flat();
    const children = values.map((value, index) => {
      const body = makePanel(panel);
      body.setState({
        key: `panel-${panel.id}-${index}`,
        $variables: new scenes.SceneVariableSet({ variables: [new scenes.LocalValueVariable({ name: variable, value, text: String(value) })] }),
      });
      return body;
    });
    const lines = Math.max(1, Math.ceil(children.length / (panel.maxPerRow ?? 4)));
    this.setState({ children, height: panel.gridPos.h * lines });
  }
}
RepeatedItem.Component = ({ model }) => {
  const { children = [], panel } = model.useState();
  const style = { display: "grid", width: "100%", height: "100%", gap: 8, gridTemplateColumns: `repeat(${panel.maxPerRow ?? 4}, 1fr)`, gridAutoRows: panel.gridPos.h * 38 - 8 };
  return (
    <div style={style}>
      {children.map((child) => (
        <div key={child.state.key} style={{ position: "relative" }}>
          <child.Component model={child} />
        </div>
      ))}
    </div>
  );
};

function makeRows() {
  const children = [];
  for (const panel of dashboard.panels) {
    if (panel.type !== "row") {
      const row = children.at(-1);
      const inRow = row instanceof scenes.SceneGridRow && !row.state.wasCollapsed;
      if (inRow) row.setState({ children: [...row.state.children, makeItem(panel)] });
      else children.push(makeItem(panel));
      continue;
    }
    children.push(
      new scenes.SceneGridRow({
        y: panel.gridPos.y,
        title: panel.title,
        isCollapsed: panel.collapsed,
        wasCollapsed: panel.collapsed,
        children: panel.panels.map(makeItem),
      }),
    );
  }
  return children;
}

function makeScene() {
  const annotations = dashboard.annotations.list.filter(({ expr }) => expr);
  return new scenes.EmbeddedScene({
    $timeRange: new scenes.SceneTimeRange({ from: range.from.toISOString(), to: range.to.toISOString(), timeZone: "browser" }),
    $variables: new scenes.SceneVariableSet({ variables: dashboard.templating.list.map(makeVariable) }),
    $behaviors: [new scenes.behaviors.CursorSync({ sync: 1 })],
    $data: annotations.length ? new scenes.SceneDataLayerSet({ layers: annotations.map((each) => new AlertLayer({ name: each.name, isEnabled: each.enable, query: each })) }) : undefined,
    controls: [new scenes.VariableValueSelectors({})],
    body: new scenes.SceneGridLayout({ isDraggable: false, isResizable: false, isLazy: false, children: makeRows() }),
  });
}

// The annotations of a PromQL expression: a mark where a series begins.
class AlertLayer extends scenes.dataLayers.AnnotationsDataLayer {
  runWithTimeRange() {
    const { query } = this.state;
    const step = seconds(query.step);
    const ask = async () => {
      const expr = scenes.sceneGraph.interpolate(this, query.expr, {}, undefined);
      const [start, end] = [range.from.valueOf() / 1000, range.to.valueOf() / 1000];
      const { result } = await get("query_range", { query: expr, step, start, end });
      const marks = result.flatMap(({ metric, values }) =>
        values.filter(([time], index) => index === 0 || time - values[index - 1][0] > step).map(([time]) => ({ time: time * 1000, title: legend(query.titleFormat, metric), text: legend(query.textFormat ?? "", metric) })),
      );
      const frame = toDataFrame({
        fields: [
          { name: "time", type: FieldType.time, values: marks.map(({ time }) => time) },
          { name: "title", type: FieldType.string, values: marks.map(({ title }) => title) },
          { name: "text", type: FieldType.string, values: marks.map(({ text }) => text) },
        ],
      });
      frame.meta = { dataTopic: "annotations" };
      this.publishResults({ state: LoadingState.Done, series: [frame], annotations: [frame], timeRange: getDefaultTimeRange() });
    };
    ask();
  }
}

// What each panel shows, by its title: its text, whether it is an error, and the cells of a table or a stat with the
// names of their colors.
window.readPanels = () => {
  const names = {};
  for (const name of ["red", "orange", "green", "blue", "purple", "text", "#8e8e8e"]) {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = theme.visualization.getColorByName(name);
    names[getComputedStyle(probe).color] = name;
    probe.remove();
  }
  const cell = (element) => {
    const inner = [...element.querySelectorAll("*")].reverse().find(({ childNodes }) => [...childNodes].some(({ nodeType }) => nodeType === 3));
    const color = getComputedStyle(inner ?? element).color;
    const link = element.querySelector("a")?.getAttribute("href") ?? undefined;
    return { link, text: element.innerText.replace(/\s*\n\s*/g, ""), color: names[color] ?? color };
  };
  const panels = [...document.querySelectorAll("[data-testid^='data-testid Panel header']")].map((panel) => {
    const content = panel.querySelector("[data-testid='data-testid panel content']");
    const rows = [...panel.querySelectorAll("[role=row]")].map((row) => [...row.querySelectorAll("[role=columnheader], [role=gridcell]")].map(cell));
    return {
      title: panel.querySelector("h2").innerText,
      text: content.innerText,
      isError: panel.querySelector("[data-testid='data-testid Panel status error']") !== null,
      rows: rows.length ? rows : [[cell(content)]],
    };
  });
  return panels;
};

start().catch((error) => console.error(error));
