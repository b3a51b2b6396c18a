"""The rows of a dashboard that each kind has: what was counted, by subject, by app and segment, and each by itself."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.kinds import Kind, Unit
from braze_exporter.monitoring import message_panels
from braze_exporter.monitoring.kind_texts import heading
from braze_exporter.monitoring.overview_rows import MOST, SPANS, a_week_before
from braze_exporter.monitoring.panel_groups import Slice, drawn, legend
from braze_exporter.monitoring.panels import DASHED, DOTTED, Panel, Row, Target, bars, chart, steps
from braze_exporter.scheduler.plan import Plan

# With more subjects than these, the charts of each are folded away; with more kinds, all of them but the first.
MANY = 12
_MANY_KINDS = 3

_PROGRESS = "orange"
_USUAL = "#8e8e8e"


def repeated(one: Slice, unit: Unit) -> str:
    """Return the hidden variable of the chosen subjects that have series of a unit, for which charts are repeated."""
    return f"{one.kind.subject}_{unit.adverb}"


def is_repeated(one: Slice) -> bool:
    """Return whether each subject has a chart of its own: what does not add up has no bucket that grows."""
    return one.has_subject and not one.filters and one.noun.is_additive


def sections(plan: Plan, found: Sequence[Slice]) -> Iterator[Row]:
    """Yield the rows of all kinds; those of users, which have but a number for each day, share one."""
    of_users = [one for one in found if _is_of_users(one.kind)]
    kinds = list(dict.fromkeys(one.kind for one in found if not _is_of_users(one.kind)))
    are_many = len(kinds) + bool(of_users) > _MANY_KINDS
    for kind in kinds:
        mine, is_folded = [one for one in found if one.kind is kind], are_many and kind is not kinds[0]
        yield Row(heading(kind), tuple(_lines(plan, mine)), is_collapsed=is_folded)
        for one in mine:
            if is_repeated(one):
                yield from (_each(plan, one, unit, is_folded=is_folded) for unit in one.units)
    yield Row("Users", tuple(_lines(plan, of_users)), is_collapsed=are_many)


def _is_of_users(kind: Kind) -> bool:
    return not kind.noun.labels and kind.units == (Unit.DAY,)


def _lines(plan: Plan, found: Sequence[Slice]) -> Iterator[Sequence[Panel]]:
    """Yield the lines of panels of some slices: first what is not filtered."""
    plain = [one for one in found if not one.filters]
    yield [_alone(plan, one, unit) for one in plain if not one.has_subject for unit in one.units] + [
        _rolling(plan, one) for one in plain if one.is_counted and not one.has_subject and Unit.HOUR in one.units
    ]
    for one in plain:
        if one.has_subject:
            for unit in one.units:
                yield [_settled(one, unit), _so_far(one, unit)]
            yield from message_panels.lines(plan, one)
            if one.is_counted:
                yield [*_reported(one), *([_rolling(plan, one)] if Unit.HOUR in one.units else [])]
    beside = {(one.kind, unit): one for one in plain for unit in one.units}
    for one in found:
        if one.filters:
            for unit in one.units:
                yield list(_filtered(plan, one, unit, beside.get((one.kind, unit))))


def _settled(one: Slice, unit: Unit) -> Panel:
    return chart(
        f"{one.title}, settled {unit}",
        f"Each {unit} once it has settled, which is when its number can be trusted. Drawn at the time when it was "
        "known, as the alerts saw it.",
        [Target(one.held(unit, "settled"), one.legend)],
        unit="short",
        interval=interval(unit),
        style="steps",
        may_sink=one.noun.may_sink,
    )


def _so_far(one: Slice, unit: Unit) -> Panel:
    about = f"What Braze has counted of the newest {unit} so far."
    if one.noun.is_additive:
        about += f" It grows until the {unit} ends, and a little longer: a low number says nothing yet."
    return bars(
        f"{one.title}, {unit} in progress",
        about,
        [Target(f"topk({MOST}, {one.now(unit, 'latest')})", one.legend)],
        unit="short",
        thresholds=steps(_PROGRESS),
        bounds=_from_zero(one),
    )


def _alone(plan: Plan, one: Slice, unit: Unit) -> Panel:
    """Return the chart of what is counted as a whole."""
    return _three_lines(plan, one, unit, f"{one.title} by the {unit}")


def _each(plan: Plan, one: Slice, unit: Unit, *, is_folded: bool) -> Row:
    """Return the charts of each subject."""
    name = repeated(one, unit)
    subjects = {query.subject for query in one.queries if query.unit is unit}
    panel = _three_lines(plan, one, unit, f"${{{name}}}", repeat=name)
    return Row(f"Each {one.kind.subject} by the {unit}", ([panel],), is_collapsed=is_folded or len(subjects) > MANY)


def _three_lines(plan: Plan, one: Slice, unit: Unit, title: str, repeat: str = "") -> Panel:
    """Return a chart of the settled bucket, of the one in progress and, if it is known, of what is usual."""
    settled = one.held(unit, "settled", subject=repeat)
    targets = [
        drawn(plan, settled, legend(plan, [], "settled"), "blue"),
        drawn(plan, _in_progress(one, unit, repeat), legend(plan, [], "in progress"), _PROGRESS, DOTTED),
    ]
    grows = ", which still grows" if one.noun.is_additive else ""
    about = f"The settled {unit}, and the {unit} in progress (dotted){grows}."
    if one.has_baseline(unit):
        usual = one.held(unit, "baseline", subject=repeat)
        targets.append(drawn(plan, usual, legend(plan, [], "usual"), _USUAL, DASHED))
        about += " Usual is the median of the same time in the last weeks."
    return chart(
        title,
        about,
        targets,
        unit="short",
        interval=interval(unit),
        style="steps",
        repeat=repeat,
        may_sink=one.noun.may_sink,
    )


def _in_progress(one: Slice, unit: Unit, subject: str) -> str:
    """Return the growth of the bucket that is the newest at the end of the chart: all of them would be a saw."""
    latest, start = (
        one.held(unit, f"latest{measure}", subject=subject) for measure in ("", "_bucket_start_timestamp_seconds")
    )
    newest = one.held(unit, "latest_bucket_start_timestamp_seconds", subject=subject, at="end()")
    return f"{latest}\n  and {start}\n  == {newest}"


def _reported(one: Slice) -> Iterator[Panel]:
    for span, words in SPANS.items():
        yield bars(
            f"{one.title}, reported in {words}",
            f"What Braze has reported in the last {words}. Late arrivals and repairs count when they are seen.",
            [Target(f"topk({MOST}, {one.reported(span)})", one.legend)],
            unit="short",
            thresholds=steps("blue"),
            bounds={"min": 0},
        )


def _rolling(plan: Plan, one: Slice) -> Panel:
    return chart(
        f"{one.title}, reported in the 24 h before",
        "What Braze had reported in the 24 hours before each moment, of everything that is chosen, and the same a week "
        "earlier.",
        [
            drawn(plan, f"sum({one.reported('24h')})", "now", "blue"),
            drawn(plan, f"sum({a_week_before(one)})", "a week earlier", _USUAL, DASHED),
        ],
        unit="short",
        interval="30m",
    )


def _filtered(plan: Plan, one: Slice, unit: Unit, total: Slice | None) -> Iterator[Panel]:
    """Yield what is filtered by app, segment or product, beside the total where that is asked for."""
    settled, by = one.held(unit, "settled"), _filters(one)
    subject = ", ".join(("workspace", *one.kind.noun.labels))
    beside = []
    if total is not None:
        all_of_it = f"{total.held(unit, 'settled')}\n  and on ({subject}) {settled}"
        beside.append(Target(all_of_it, legend(plan, one.kind.noun.labels, "all")))
    same = f" of the same {one.kind.subject}" if one.has_subject else ""
    yield chart(
        f"{one.title} by {by}, settled {unit}",
        f"Each {unit} once it has settled, of what is chosen by {by}" + (f", and all{same}." if beside else "."),
        [Target(settled, one.legend), *beside],
        unit="short",
        interval=interval(unit),
        style="steps",
        may_sink=one.noun.may_sink,
    )
    if total is not None:
        start = "settled_bucket_start_timestamp_seconds"
        yield chart(
            f"{one.title} by {by}, share of all, settled {unit}",
            "A release that breaks something shows as a share that falls, even where the total hides it. Only where "
            f"both numbers are of the same {unit}: they turn over one after the other.",
            [
                Target(
                    f"{settled}\n  / on ({subject}) group_left ()\n{total.held(unit, 'settled')}\n"
                    f"  and on ({', '.join(one.labels)})\n"
                    f"{one.held(unit, start)}\n  == on ({subject}) group_left ()\n{total.held(unit, start)}",
                    one.legend,
                )
            ],
            unit="percentunit",
            interval=interval(unit),
            style="steps",
        )
    if one.is_counted and unit is one.units[0]:
        yield bars(
            f"{one.title} by {by}, reported in 24 hours",
            "What Braze has reported in the last 24 hours. Late arrivals and repairs count when they are seen.",
            [Target(f"topk({MOST}, {one.reported('24h')})", one.legend)],
            unit="short",
            thresholds=steps("blue"),
            bounds={"min": 0},
        )


def interval(unit: Unit) -> str:
    """Return the least distance of the points of a chart: fine enough for a bucket that grows."""
    return {Unit.HOUR: "5m", Unit.DAY: "30m"}[unit]


def _from_zero(one: Slice) -> dict[str, float]:
    return {} if one.noun.may_sink else {"min": 0}


def _filters(one: Slice) -> str:
    return " and ".join(name.removeprefix("braze_") for name in one.filters)
