"""Test the metrics page byte for byte in both formats."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import response_faults
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from recorded_counts import RecordedCounts
from support import CURRENT_HOUR, HOUR, IOS, VIP, MetricsPage, running_exporter

from braze_exporter.metrics.exposition import format_header, format_labels, format_samples
from braze_exporter.metrics.families import Family

GOLDEN = Path(__file__).parents[1] / "golden"
EVENTS = """
{event: purchase, apps: [all, ios], segments: [all, vip]}
{event: purchase, unit: day}
{event: "sign \\"up\\" \\\\ 🎉"}
{event: broken}
{event: empty}
"""


@pytest.fixture(scope="module")
def pages() -> tuple[str, str]:
    """Return a page in the text format and in OpenMetrics, with queries in every state."""
    recorded = RecordedCounts(events=["broken", "empty", 'sign "up" \\ 🎉', "purchase"])
    for back in range(400):
        for app, segment, count in (("", "", 100), (IOS, "", 60), ("", VIP, 9), (IOS, VIP, 4)):
            recorded.set("purchase", CURRENT_HOUR - back * HOUR, count + back % 24, app, segment)
    with running_exporter(
        EVENTS, recorded, extra_yaml="budget: {concurrency: 1}\n"
    ) as exporter:  # responses come in order
        exporter.braze.inject(response_faults.data([]), event="empty")
        exporter.scrape()
        recorded.set("purchase", CURRENT_HOUR, 1_234_567)
        exporter.braze.inject(response_faults.status(500), event="broken")
        exporter.clock.advance(600)
        exporter.scrape()
        text, openmetrics = (b"".join(exporter.exporter.render(openmetrics=which)).decode() for which in (False, True))
    return text, openmetrics


def without_machine_values(page: str) -> str:
    """Return a page without the parts that depend on the machine: process metrics and versions."""
    kept = (line for line in page.splitlines() if "process_" not in line and "build_info{" not in line)
    return "\n".join(kept) + "\n"


@pytest.mark.parametrize(("name", "which"), [("page.txt", 0), ("page.openmetrics", 1)])
def test_page_equals_golden_file(pages: tuple[str, str], name: str, which: int) -> None:
    """The page equals the golden file byte for byte."""
    assert without_machine_values(pages[which]) == (GOLDEN / name).read_text(encoding="utf-8")


def test_both_formats_have_same_samples(pages: tuple[str, str]) -> None:
    """The OpenMetrics page has the same samples as the text page."""
    text, openmetrics = ([line for line in page.splitlines() if line[0] != "#"] for page in pages)
    assert sorted(map(_without_values, text)) == sorted(map(_without_values, openmetrics))
    assert pages[1].endswith("# EOF\n")


def _without_values(line: str) -> str:
    return line if line.startswith("braze_custom") else line.rpartition(" ")[0]


def test_client_library_parses_both_formats(pages: tuple[str, str]) -> None:
    """The parsers of `prometheus_client` read both pages, and the OpenMetrics one finds each family once."""
    text, openmetrics = pages
    assert MetricsPage(text).value("braze_custom_events_hourly_latest", event="purchase") == 1_234_567
    names = [family.name for family in parse_openmetrics(openmetrics)]
    assert len(names) == len(set(names))
    assert "braze_custom_events" in names


def test_no_created_series_are_exposed(pages: tuple[str, str]) -> None:
    """Counters and histograms have no `_created` series."""
    assert "_created" not in pages[0] + pages[1]


text_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ESCAPED = '"quoted", \\ and\na line'
label_sets = st.dictionaries(st.sampled_from(["workspace", "event", "braze_app", "segment"]), text_values, min_size=1)
numbers = st.one_of(st.floats(), st.integers(0, 10**18).map(float))


@example("counter", ESCAPED, {"event": ESCAPED}, 1.0)
@given(st.sampled_from(["gauge", "counter"]), text_values, label_sets, numbers)
def test_lines_equal_those_of_client_library(kind: str, text: str, labels: dict[str, str], value: float) -> None:
    """Headers and samples equal those of `prometheus_client` byte for byte, for any labels, help and value."""
    name = "braze_things_total" if kind == "counter" else "braze_things"
    family = Family(name, kind, text, tuple(labels))
    family_class = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    metric = family_class(name, text, labels=list(labels))
    metric.add_metric(list(labels.values()), value)

    class One:
        def collect(self) -> Iterator[Metric]:
            yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(One())
    line = format_samples(name, [(format_labels(labels.items()), value)])
    assert (format_header(family, openmetrics=False) + line).encode() == generate_latest(registry)
    assert (format_header(family, openmetrics=True) + line + "# EOF\n").encode() == generate_openmetrics(registry)
