"""Test the series of a campaign against a model that reads each number on its own."""

import json
import math
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

import pytest
from support import NOW

from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.kinds import CAMPAIGNS, Unit
from braze_exporter.braze.parsing import parse_series
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import ABSENT, HOLE

# The value of a day whose rows have different numbers.
CONFLICT = -math.inf
STATS = ("sent", "unique_clicks", "revenue")
# The part, the channel and the statistic of a series, or the field of a row.
Key = tuple[str, ...]


def make_rows(draw: Random) -> list[dict[str, Any]]:
    """Return random rows in any order, some of the same day, with nulls and missing parts."""

    def make_entry() -> dict[str, Any]:
        values = {stat: draw.choice((0, 3, None) if stat != "revenue" else (-1.5, 2.5)) for stat in STATS}
        kept = {stat: value for stat, value in values.items() if draw.random() < 0.9}
        return {"variation_api_id": draw.choice("ab"), "variation_name": draw.choice(("A", 7, None)), **kept}

    def make_channels() -> dict[str, Any]:
        counts = {channel: draw.choice((None, 0, 1, 1, 1, 2)) for channel in ("email", "sms")}
        return {
            channel: None if count is None else [make_entry() for _ in range(count)]
            for channel, count in counts.items()
        }

    days = draw.choices(range(18, 24), k=draw.randint(1, 4))
    return [
        {
            "time": f"2026-11-{day}",
            "conversions": draw.choice((0, 4, None)),
            "messages": draw.choice((None, *[make_channels()] * 5)),
        }
        for day in days
    ]


def value_of_row(row: Mapping[str, Any], key: Key) -> float:
    """Return the value of a series in a row. A null is a hole, and so is a statistic that its entry lacks."""
    if len(key) == 1:
        return HOLE if row[key[0]] is None else float(row[key[0]])
    part, channel, stat = key
    entries = row["messages"] and row["messages"][channel]
    if entries is None:
        return HOLE
    found = [entry for entry in entries if entry["variation_api_id"] == part]
    values = [entry[stat] for entry in found if stat in entry]
    if not values:
        return HOLE if found else ABSENT
    if len(values) > 1 and stat.startswith("unique_"):
        return ABSENT
    return HOLE if None in values else float(sum(values))


def value_of_day(rows: Iterable[Mapping[str, Any]], key: Key) -> float:
    """Return the value of a series in the rows of a day, or `CONFLICT` if they have different numbers."""
    values = {value_of_row(row, key) for row in rows}
    numbers = [value for value in values if math.isfinite(value)]
    if len(numbers) > 1:
        return CONFLICT
    return min(numbers, default=HOLE if any(map(math.isnan, values)) else ABSENT)


def test_statistics_with_same_clean_name_are_added() -> None:
    """Two fields whose names differ by half a character only are one statistic."""
    entry = {"variation_api_id": "a", **dict.fromkeys(("sent \ud83d", "sent \ud83e"), 3)}
    rows = [{"time": "2026-11-20", "messages": {"email": [entry]}}]
    body = json.dumps({"message": "success", "data": rows}).encode()
    series = parse_series(Query("production", CAMPAIGNS, Unit.DAY, subject_id="x"), body, 14, NOW, NOW)
    assert {each.head.key[-1]: [*each.values] for each in series if not each.head.is_only} == {"sent \ufffd": [6]}


@pytest.mark.parametrize(("count", "padding"), [(400, 0), (60, 2**18)])
def test_series_of_campaign_equal_model(count: int, padding: int) -> None:
    """The series have the values of the model, whatever is missing, and however large the body is."""
    query = Query("production", CAMPAIGNS, Unit.DAY, subject_id="x")
    for seed in range(count):
        rows = make_rows(Random(seed))  # noqa: S311 - does not need to be secure
        days = [[row for row in rows if row["time"] == day] for day in sorted({row["time"] for row in rows})]
        keys = [(part, channel, stat) for part in "ab" for channel in ("email", "sms") for stat in STATS]
        expected = {key: [value_of_day(of_day, key) for of_day in days] for key in (("conversions",), *keys)}
        body = json.dumps({"message": "success", "data": rows, "padding": " " * padding}).encode()
        if any(CONFLICT in values for values in expected.values()):
            with pytest.raises(BrazeError, match="has two different values"):
                parse_series(query, body, 14, NOW, NOW)
            continue
        parsed = {_model_key(series.head.key): [*series.values] for series in parse_series(query, body, 14, NOW, NOW)}
        for key, values in expected.items():
            found = parsed.get(key, [ABSENT])
            if any(map(math.isfinite, [*values, *found])):
                assert repr(found) == repr(values), f"seed {seed}: {key} in {rows}"


def _model_key(key: Key) -> Key:
    """Return the key of the model for that of a series: metric group, id, name, channel and statistic."""
    if len(key) == 1:
        return (key[0].removeprefix("campaign_"),)
    metric_group, part, _, channel, *stat = key
    assert metric_group == ("campaign_messages" if stat else "campaign_message_revenue_dollars")
    assert "revenue" not in stat
    return (part, channel, *(stat or ["revenue"]))
