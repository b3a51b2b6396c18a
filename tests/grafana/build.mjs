// Bundles harness.jsx with Grafana's front-end libraries: node build.mjs OUTPUT
import { build } from "esbuild";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));

// Editors that no panel shows.
const stubs = {
  name: "stubs",
  setup(plugin) {
    plugin.onResolve({ filter: /^(monaco-editor|@monaco-editor\/react|react-monaco-editor|@grafana\/assistant)/ }, ({ path }) => ({
      path,
      namespace: "stub",
    }));
    plugin.onLoad({ filter: /.*/, namespace: "stub" }, () => ({ contents: "module.exports = {}", loader: "js" }));
    plugin.onResolve({ filter: /^react-router-dom-v5-compat$/ }, () =>
      plugin.resolve("react-router-dom", { resolveDir: here, kind: "import-statement" }),
    );
  },
};

// The named imports of plugin-compat do not exist in all versions of the runtime, so they become optional.
const optionalImports = {
  name: "optional-imports",
  setup(plugin) {
    plugin.onLoad({ filter: /plugin-compat\/dist\/esm\/.*\.mjs$/ }, async ({ path }) => ({
      contents: (await readFile(path, "utf8")).replace(
        /^import \{([^}]*)\} from ('@grafana\/[^']*');/gm,
        (_, names, source) => {
          const local = `module_${names.replace(/\W+/g, "_")}`;
          const each = names.split(",").map((name) => name.trim().split(/\s+as\s+/));
          return [`import * as ${local} from ${source};`, ...each.map(([from, to]) => `const ${to ?? from} = ${local}[${JSON.stringify(from)}];`)].join(" ");
        },
      ),
      loader: "js",
    }));
  },
};

await build({
  entryPoints: [`${here}/harness.jsx`],
  outfile: process.argv[2],
  bundle: true,
  format: "iife",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"', global: "window" },
  loader: { ".svg": "dataurl" },
  plugins: [stubs, optionalImports],
  logLevel: "error",
});
