// Grafana's libraries read this when they are imported.
window.grafanaBootData = {
  settings: {
    appSubUrl: "",
    buildInfo: { version: "13.2.3", env: "production" },
    datasources: {},
    defaultDatasource: "prometheus",
    featureToggles: {},
    licenseInfo: { enabledFeatures: {} },
    namespace: "default",
    panels: {},
    regionalFormatPreference: "en-US",
  },
  user: { locale: "en-US", language: "en-US", timezone: "browser", weekStart: "", regionalFormat: "en-US" },
  navTree: [],
};
// Grafana warns that this harness registers its data source in the way of earlier versions.
console.warn = () => {};
