"""Grafana panels as dataclasses, and their layout. Independent of Braze.

Grafana's schema allows only objects as values of overrides. So the color and the style of a line can be overridden, but
not its width. Overrides select series by a list of names, not by a pattern.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

# The dashboard variable for the Prometheus data source.
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24

SOLID: Json = {"fill": "solid"}
DASHED: Json = {"fill": "dash", "dash": [10, 10]}
DOTTED: Json = {"fill": "dot", "dash": [2, 6]}


@dataclass(frozen=True, slots=True)
class Target:
    """A query and its legend format. Series whose legend is in `names` are drawn with `color` and the style `line`."""

    expr: str
    legend: str = ""
    names: tuple[str, ...] = ()
    color: str = ""
    line: Json = field(default_factory=lambda: SOLID)


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel without its position.

    `interval` is the minimum interval between its points. The panel is repeated for each selected value of the variable
    `repeat`, if that is not empty.
    """

    title: str
    description: str
    type: str
    targets: tuple[Target, ...]
    defaults: Json
    options: Json
    height: int = 8
    interval: str = ""
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and lines of panels. The panels of a line have the same width."""

    title: str
    lines: tuple[Sequence[Panel], ...]
    is_collapsed: bool = False


@dataclass(slots=True)
class Grid:
    """Places rows below each other, and gives each panel an id."""

    _number: int = 0
    _bottom: int = 0
    panels: list[Json] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Place a row and its panels. A row without a title has no heading; a row without panels is skipped."""
        if not any(row.lines):
            return
        if not row.title:
            self.panels += self._lines(row.lines)
            return
        heading: Json = {
            "type": "row",
            "id": self._next(),
            "title": row.title,
            "gridPos": {"x": 0, "y": self._bottom, "w": _COLUMNS, "h": 1},
            "collapsed": row.is_collapsed,
            "panels": [],
        }
        self._bottom += 1
        below = self._bottom
        panels = list(self._lines(row.lines))
        if row.is_collapsed:
            heading["panels"] = panels
            self._bottom = below  # collapsed panels use no height
            panels = []
        self.panels += [heading, *panels]

    def _lines(self, lines: Iterable[Sequence[Panel]]) -> Iterator[Json]:
        for line in lines:
            edges = [_COLUMNS * at // max(len(line), 1) for at in range(len(line) + 1)]
            for panel, left, right in zip(line, edges, edges[1:], strict=False):
                position = {"x": left, "y": self._bottom, "w": right - left, "h": panel.height}
                yield _panel_json(panel, self._next(), position)
            self._bottom += max((panel.height for panel in line), default=0)

    def _next(self) -> int:
        self._number += 1
        return self._number


def _panel_json(panel: Panel, number: int, position: Json) -> Json:
    is_instant = panel.type in {"stat", "bargauge"}
    names = [chr(ord("A") + index) for index in range(len(panel.targets))]
    result: Json = {
        "type": panel.type,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": position,
        "targets": [
            {
                "refId": name,
                "datasource": DATASOURCE,
                "editorMode": "code",
                "expr": target.expr,
                "legendFormat": target.legend or "__auto",
                "instant": is_instant,
                "range": not is_instant,
            }
            for name, target in zip(names, panel.targets, strict=True)
        ],
        "fieldConfig": {
            "defaults": panel.defaults,
            "overrides": [_override(target) for target in panel.targets if target.names],
        },
        "options": panel.options,
    }
    if panel.interval:
        result["interval"] = panel.interval
    if panel.repeat:
        result |= {"repeat": panel.repeat, "repeatDirection": "h", "maxPerRow": 3}
    return result


def _override(target: Target) -> Json:
    return {
        "matcher": {"id": "byNames", "options": {"mode": "include", "names": [*target.names]}},
        "properties": [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": target.color}},
            {"id": "custom.lineStyle", "value": target.line},
        ],
    }


def steps(first: str, *others: tuple[float, str]) -> Json:
    """Return thresholds: the first color, and the values from which the other colors apply."""
    result = [{"value": None, "color": first}, *({"value": value, "color": color} for value, color in others)]
    return {"mode": "absolute", "steps": result}


def stat(
    title: str,
    description: str,
    *targets: Target,
    thresholds: Json,
    unit: str = "short",
    decimals: int = 0,
    value_texts: Mapping[str, str] | None = None,
) -> Panel:
    """Return a stat panel with one number for each target. If any target has a legend, the legends are shown.

    `value_texts` maps values to the texts that are shown instead.
    """
    defaults: Json = {
        "unit": unit,
        "decimals": decimals,
        "noValue": "unknown",
        "color": {"mode": "thresholds"},
        "thresholds": thresholds,
    }
    if value_texts is not None:
        options = {value: {"text": text, "index": index} for index, (value, text) in enumerate(value_texts.items())}
        defaults["mappings"] = [{"type": "value", "options": options}]
    panel_options = {
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value_and_name" if any(target.legend for target in targets) else "value",
        **_last_value_options(),
    }
    return Panel(title, description, "stat", targets, defaults, panel_options, height=4)


def bars(
    title: str,
    description: str,
    targets: Sequence[Target],
    *,
    unit: str,
    thresholds: Json,
    no_value: str = "none",
    bounds: Mapping[str, float] | None = None,
) -> Panel:
    """Return a panel with a horizontal bar for each series, in the order of the query result."""
    defaults = {
        "unit": unit,
        "decimals": 0,
        "noValue": no_value,
        "color": {"mode": "thresholds"},
        "thresholds": thresholds,
        **(bounds or {}),
    }
    options = {"displayMode": "basic", "orientation": "horizontal", "showUnfilled": True, **_last_value_options()}
    return Panel(title, description, "bargauge", tuple(targets), defaults, options)


def chart(
    title: str,
    description: str,
    targets: Sequence[Target],
    *,
    unit: str,
    interval: str,
    limit: float | None = None,
    style: str = "line",
    repeat: str = "",
    can_be_negative: bool = False,
) -> Panel:
    """Return a panel with lines over time. `style` is `line`, `steps`, `bars` or `stacked`.

    `limit` draws a dashed red line. The axis begins at 0 unless `can_be_negative`.
    """
    stacked = style in {"bars", "stacked"}
    custom: Json = {
        "drawStyle": "bars" if style == "bars" else "line",
        "lineInterpolation": "stepAfter" if style == "steps" else "linear",
        "lineWidth": 1,
        "fillOpacity": 50 if stacked else 0,
        "showPoints": "auto" if style == "steps" else "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    defaults: Json = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom}
    if not can_be_negative:
        defaults["min"] = 0
    if limit is not None:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        defaults["thresholds"] = steps("transparent", (limit, "red"))
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel(title, description, "timeseries", tuple(targets), defaults, options, interval=interval, repeat=repeat)


def timeline(title: str, description: str, targets: Sequence[Target], *, states: Mapping[str, Json]) -> Panel:
    """Return a state timeline with one line for each series. `states` maps each value to its text and color."""
    defaults = {"mappings": [{"type": "value", "options": dict(states)}], "color": {"mode": "thresholds"}}
    options = {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return Panel(title, description, "state-timeline", tuple(targets), defaults, options, interval="1m")


def _last_value_options() -> Json:
    return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
