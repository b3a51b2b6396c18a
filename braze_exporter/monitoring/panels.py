"""Grafana panels, and their layout. Independent of Braze."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

Json = dict[str, Any]

# The dashboard variable for the Prometheus data source.
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
GREY = "#8e8e8e"
# The text of a panel that is empty only if the exporter has no data.
NO_DATA = "No data: the exporter is down, or has not fetched it yet."
_COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and its panels, which fill lines of the grid from left to right."""

    title: str
    panels: Sequence[Json]
    is_collapsed: bool = False


def lay_out(rows: Iterable[Row]) -> list[Json]:
    """Return the rows below each other, with an id for each panel. A row without a title has no heading.

    The last panel of a line is as wide as what remains of the line. Rows without panels are left out.
    """
    result: list[Json] = []
    ids = itertools.count(1)
    bottom = 0
    for row in rows:
        if not row.panels:
            continue
        panels = [] if row.is_collapsed else result
        if row.title:
            place = {"x": 0, "y": bottom, "w": _COLUMNS, "h": 1}
            heading = {"type": "row", "id": next(ids), "title": row.title, "gridPos": place}
            result.append({**heading, "collapsed": row.is_collapsed, "panels": panels if row.is_collapsed else []})
            bottom += 1
        below, left = bottom, 0
        for panel, following in itertools.zip_longest(row.panels, row.panels[1:]):
            width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
            if following is None or left + width + following["gridPos"]["w"] > _COLUMNS:
                width = _COLUMNS - left
            panels.append({**panel, "id": next(ids), "gridPos": {"x": left, "y": bottom, "w": width, "h": height}})
            left += width
            if left == _COLUMNS:
                left = 0
                bottom += height
        if row.is_collapsed:
            bottom = below  # collapsed panels use no height
    return result


def steps(first: str, *others: tuple[float, str]) -> Json:
    """Return thresholds: the first color, and the values from which the other colors apply."""
    colors = [{"value": None, "color": first}, *({"value": value, "color": color} for value, color in others)]
    return {"mode": "absolute", "steps": colors}


def numbers(
    unit: str = "locale",
    *,
    decimals: int | None = 0,
    thresholds: Json | None = None,
    values: Mapping[str, tuple[str, str]] | None = None,
    unknown: str = "unknown",
) -> Json:
    """Return the field config of numbers: colored by `thresholds`, or grey with the text `unknown` if missing.

    `values` maps values to the text and the color that are shown instead. An empty text keeps the value.
    """
    options = {
        value: {**({"text": text} if text else {}), "color": color, "index": index}
        for index, (value, (text, color)) in enumerate((values or {}).items())
    }
    # Without a mapping, Grafana shows a missing value in the color of 0.
    missing = {"match": "null+nan", "result": {"text": unknown, "color": GREY, "index": len(options)}}
    return {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": thresholds or steps("text"),
        "mappings": [{"type": "value", "options": options}] * bool(options) + [{"type": "special", "options": missing}],
        "noValue": unknown,
        **({} if decimals is None else {"decimals": decimals}),
    }


def stat(title: str, description: str, expr: str, field: Json) -> Json:
    """Return a panel with the current value of an expression in large type."""
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value",
        "justifyMode": "center",
        "text": {"valueSize": 36},
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return _panel(title, description, {expr: ""}, kind="stat", size=(3, 4), field=field, options=options)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the values of a label, or the results of a query if it has `expr`.

    Results are colored text, or bars if `is_bar`. `width` is in pixels, and 0 for a share of the rest. `link` is a URL.
    """

    title: str
    label: str = ""
    expr: str = ""
    field: Json | None = None
    is_bar: bool = False
    width: int = 0
    link: str = ""

    @property
    def override(self) -> Json:
        """The override of the fields of the panel for this column."""
        # Without its own text, an empty cell has that of an empty table.
        properties: Json = {"noValue": "-", "unit": "string", **(self.field or {})}
        if self.is_bar:
            properties["custom.cellOptions"] = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        elif self.field is not None:
            properties["custom.cellOptions"] = {"type": "color-text"}
        if self.width:
            properties["custom.width"] = self.width
        if self.link:
            properties["links"] = [{"title": self.title, "url": self.link}]
        return {
            "matcher": {"id": "byName", "options": self.title},
            "properties": [{"id": name, "value": value} for name, value in properties.items()],
        }


def table(
    title: str,
    description: str,
    columns: Sequence[Column],
    *,
    no_value: str = NO_DATA,
    width: int = 24,
    height: int = 8,
    sort: tuple[str, bool] | None = None,
) -> Json:
    """Return a table with a row for each label set, from the current results of the queries of `columns`.

    Labels without a column distinguish rows, but are not shown. `sort` is the title of a column, and whether to sort it
    in descending order.
    """
    exprs = [column.expr for column in columns if column.expr]
    refs = iter(ascii_uppercase)
    values = (f"Value #{ref}" if len(exprs) > 1 else "Value" for ref in refs)
    names = [next(values) if column.expr else column.label for column in columns]
    transformations = [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": names}}},
        _organize(names, columns),
    ]
    used = transformations[len(exprs) == 1 :]
    return _table(title, description, exprs, columns, used, no_value=no_value, size=(width, height), sort=sort)


def matrix(title: str, description: str, expr: str, column_label: str, row: Column) -> Json:
    """Return a table of the current values of an expression by two labels: `column_label` and that of `row`."""
    shape = {"columnField": column_label, "rowField": row.label, "valueField": "Value", "emptyValue": "null"}
    transformations = [
        {"id": "groupingToMatrix", "options": shape},
        _organize([f"{row.label}\\{column_label}"], [row]),  # the name that Grafana gives to the first column
    ]
    return _table(title, description, [expr], [row], transformations, size=(12, 8))


def _organize(names: Sequence[str], columns: Sequence[Column]) -> Json:
    """Return the transformation that orders the fields with these names, and names them after their columns."""
    titles = {name: column.title for name, column in zip(names, columns, strict=True)}
    order = {name: index for index, name in enumerate(names)}
    return {"id": "organize", "options": {"excludeByName": {}, "indexByName": order, "renameByName": titles}}


def _table(
    title: str,
    description: str,
    exprs: Iterable[str],
    columns: Iterable[Column],
    transformations: Sequence[Json],
    *,
    size: tuple[int, int],
    no_value: str = NO_DATA,
    sort: tuple[str, bool] | None = None,
) -> Json:
    panel = _panel(
        title,
        description,
        dict.fromkeys(exprs, ""),
        kind="table",
        size=size,
        field=numbers(unknown="-") | {"noValue": no_value, "custom": {"align": "auto", "minWidth": 60}},
        options={"cellHeight": "sm", "sortBy": [{"displayName": sort[0], "desc": sort[1]}] if sort else []},
        overrides=[column.override for column in columns],
    )
    return {**panel, "transformations": transformations}


def chart(
    title: str,
    description: str,
    legends: Mapping[str, str],
    *,
    unit: str = "locale",
    min_step: str = "",
    interval: str = "1m",
    time_from: str = "",
    style: str = "line",
    width: int = 12,
    decimals: int | None = None,
    colors: Mapping[str, str] | None = None,
    can_be_negative: bool = False,
    no_value: str = "No data",
) -> Json:
    """Return a panel with lines over time. `style` is `line`, `steps`, `bars` or `stacked`.

    `legends` are the legend formats by expression. `min_step` is the minimum interval between the points of a query.
    `$__rate_interval` is at least four times that, so it must be at least the scrape interval.

    `time_from` is the length of its time range, if it differs from that of the dashboard. `colors` are the colors of
    series by their legends. The axis begins at 0, or includes it if `can_be_negative`.
    """
    stacked = style in {"bars", "stacked"}
    custom: Json = {
        "drawStyle": "bars" if style == "bars" else "line",
        "lineInterpolation": "stepAfter" if style in {"steps", "stacked"} else "linear",
        "lineWidth": 1,
        "fillOpacity": 60 if stacked else 0,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    field: Json = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom, "noValue": no_value}
    if can_be_negative:
        custom["axisSoftMin"] = 0
    else:
        field["min"] = 0
    if decimals is not None:
        field["decimals"] = decimals
    options = {
        "legend": {
            "displayMode": "table",
            "placement": "right",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"] if width >= _COLUMNS / 2 else ["lastNotNull"],
            "sortBy": "Last *",
            "sortDesc": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for name, color in (colors or {}).items()
    ]
    result = _panel(
        title,
        description,
        legends,
        kind="timeseries",
        min_step=min_step,
        size=(width, 8),
        field=field,
        options=options,
        overrides=overrides,
    )
    return {**result, "interval": interval, **({"timeFrom": time_from} if time_from else {})}


def _panel(
    title: str,
    description: str,
    legends: Mapping[str, str],
    *,
    kind: str,
    size: tuple[int, int],
    field: Json,
    options: Json,
    overrides: Sequence[Json] = (),
    min_step: str = "",
) -> Json:
    """Return a panel without its position. `size` is its width and height. Only charts show a range of time."""
    is_range = kind == "timeseries"
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": dict(zip("wh", size, strict=True)),
        "targets": [
            {
                "refId": letter,
                "datasource": DATASOURCE,
                "editorMode": "code",
                "expr": expr,
                "legendFormat": legend or "__auto",
                "format": "table" if kind == "table" else "time_series",
                "instant": not is_range,
                "range": is_range,
                **({"interval": min_step} if min_step else {}),
            }
            for letter, (expr, legend) in zip(ascii_uppercase, legends.items(), strict=False)
        ],
        "fieldConfig": {"defaults": field, "overrides": [*overrides]},
        "options": options,
    }
