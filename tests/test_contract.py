"""Hold the metrics page to the contract: the names, types, labels and help texts of all metrics.

Dashboards and alerts of users depend on them. `python tests/test_contract.py` writes the files of the contract.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import response_faults
from recorded_counts import RecordedCounts
from servers import require_tool
from support import SELF_FAMILIES, ExporterRig, running_exporter, wait_until

from braze_exporter.braze.kinds import KINDS, PURCHASES, REVENUE, SeriesKind
from braze_exporter.metrics.families import GAUGE_HELP, QUERY_FAMILIES, build_counter, build_gauge
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory

CONTRACT = Path(__file__).parent / "contract"
FORMATS = ("metrics.txt", "metrics.openmetrics")
CAMPAIGN = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back", variations=("A", "B"))
CANVAS = Canvas("4ffe74b7-ca90-4046-ae7f-68b1b337f6a6", "Onboarding", steps=(("Hello", "email"),))
SUBJECTS = {"event": "purchase", "product": "Mug", "segment": "vip", "campaign": CAMPAIGN.id, "canvas": CANVAS.id}
# Labels whose values are a part of the contract.
_FIXED_VALUES = {"kind", "list", "path", "pool", "reason", "state", "unit"}
_SAMPLE = re.compile(r"([a-z0-9_]+)(?:\{(.*)\})? \S+")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def entries(kind: SeriesKind) -> Iterator[dict[str, Any]]:
    """Yield entries of a kind in each unit, for every combination of parts, and with baselines."""
    subjects: Sequence[dict[str, Any]] = [{}]
    if kind.list_endpoint is not None:
        subject = {
            "event": "purchase",
            "segment": "vip",
            "campaign": CAMPAIGN.id,
            "canvas": CANVAS.id,
            "product": "Mug",
        }
        subjects = [{kind.subject_label: subject[kind.subject_label]}, {"regex": "x.*"}]
    if kind in {PURCHASES, REVENUE}:
        subjects = [{}, *subjects]
    for base in subjects:
        parts: dict[str, Any] = {"baseline": {"weeks": 1}}
        if "braze_app" in kind.part_labels:
            parts["apps"] = ["all", "ios"]
        if "segment" in kind.part_labels:
            parts["segments"] = ["all", "vip"]
        yield from ({**base, **parts, **({"unit": unit.value} if len(kind.units) > 1 else {})} for unit in kind.units)


def add_revenue(document: dict[str, Any]) -> None:
    """Add revenue to the messages of each step."""
    for row in document["data"]["stats"]:
        for step in row["step_stats"].values():
            for messages in step["messages"].values():
                messages[0]["revenue"] = 1.5


def read_pages() -> tuple[str, str]:
    """Return the page of an exporter with every metric, in the text format and in OpenMetrics."""
    events, *others = ([*entries(kind)] for kind in KINDS)
    text = "".join(f"    {kind.section}: {json.dumps(group)}\n" for kind, group in zip(KINDS[1:], others, strict=True))
    text += "refresh_interval: {hour: 1h, day: 1h}\nbudget: {share: 1, reserve: 0}\n"
    counts = RecordedCounts(events=["purchase"])
    with running_exporter("\n".join(map(json.dumps, events)), counts, extra_yaml=text, reads_lists=True) as exporter:
        exporter.braze.inventory = Inventory(campaigns=(CAMPAIGN,), canvases=(CANVAS,), products=("Mug",))
        exporter.braze.inject(response_faults.edited(add_revenue), path="/canvas/data_series")
        wait_until(lambda: is_complete(exporter), "all history and lists are read", 60)
        text_page, openmetrics_page = (
            b"".join(exporter.exporter.render(openmetrics=which)).decode() for which in (False, True)
        )
    return text_page, openmetrics_page


def is_complete(exporter: ExporterRig) -> bool:
    """Scrape a minute later, and return whether all history and all lists have been read."""
    exporter.clock.advance(60)
    exporter.refresh()
    exporter.read_lists()
    page = exporter.page()
    read_times = page.values("braze_discovery_list_last_success_timestamp_seconds")
    return exporter.wait_for_history() and all(read_times) and page.values("braze_up") == [1]


def contract(page: str) -> str:
    """Return the headers of a page, each followed by its samples with the names of their labels.

    The values of labels follow if they are fixed. Process metrics are omitted, since they depend on the platform.
    """
    lines: list[str] = []
    values: dict[str, dict[str, set[str]]] = {}
    for line in page.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            lines.append(line)
            continue
        labels = _LABEL.findall(sample[2] or "")
        series = sample[1] + (f"{{{', '.join(name for name, _ in labels)}}}" if labels else "")
        if series not in values:
            lines.append(series)
        for name, value in labels:
            values.setdefault(series, {}).setdefault(name, set()).add(value)
        values.setdefault(series, {})
    kept = [line for line in lines if not re.match(r"(# \w+ )?process_", line)]
    return "".join(f"{line}\n{_fixed_values(values.get(line, {}))}" for line in kept)


def _fixed_values(values: Mapping[str, set[str]]) -> str:
    """Return a line for each label with fixed values."""
    return "".join(
        f"  {label}: {', '.join(sorted(values[label]))}\n" for label in sorted(values) if label in _FIXED_VALUES
    )


@pytest.fixture(scope="module")
def pages() -> tuple[str, str]:
    """Return the pages that `read_pages` returns."""
    return read_pages()


@pytest.mark.parametrize(("name", "which"), [(name, which) for which, name in enumerate(FORMATS)])
def test_metrics_are_those_of_contract(pages: tuple[str, str], name: str, which: int) -> None:
    """The names, types, labels and help texts of all metrics are those of the contract."""
    assert contract(pages[which]).splitlines() == (CONTRACT / name).read_text(encoding="utf-8").splitlines()


def test_contract_has_every_declared_family(pages: tuple[str, str]) -> None:
    """The page has each family that the endpoint table declares, and no other."""
    declared = {family.name for family in (*SELF_FAMILIES, *QUERY_FAMILIES)}
    for kind in KINDS:
        groups = [*kind.metric_groups, *kind.partial_groups]
        declared |= {build_counter(kind, group).name for group in groups if group.is_additive}
        declared |= {
            build_gauge(kind, group, unit, measure).name
            for group in groups
            for unit in kind.units
            for measure in GAUGE_HELP
        }
    assert {line.split()[2] for line in pages[0].splitlines() if line.startswith("# TYPE braze_")} == declared


def test_value_families_have_no_empty_labels(pages: tuple[str, str]) -> None:
    """No value has an empty label, so that each family holds one sort of parts."""
    values = [
        line for line in pages[0].splitlines() if line.startswith("braze_") and not line.startswith("braze_query_")
    ]
    assert values
    assert [line for line in values if '=""' in line] == []


def test_promtool_reports_nothing(pages: tuple[str, str]) -> None:
    """`promtool check metrics` reports nothing about the page."""
    check = subprocess.run(  # noqa: S603
        [require_tool("promtool"), "check", "metrics"], input=pages[0], capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


if __name__ == "__main__":
    for file_name, content in zip(FORMATS, read_pages(), strict=True):
        (CONTRACT / file_name).write_text(contract(content), encoding="utf-8")
