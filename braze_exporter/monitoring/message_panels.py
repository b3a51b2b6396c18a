"""What campaigns and Canvases tell beside the number that stands for them: their messages, and what came of those."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.kinds import Noun, Unit
from braze_exporter.metrics.promql import of_stats
from braze_exporter.monitoring.panel_groups import Slice, legend
from braze_exporter.monitoring.panels import Panel, Target, chart
from braze_exporter.scheduler.plan import Plan

_INTERVAL = "30m"
# Whoever is in two variations, or gets a message by two channels, is in both numbers.
_UNIQUE = "unique_.+"


def lines(plan: Plan, one: Slice) -> Iterator[Sequence[Panel]]:
    """Yield the lines of panels for the nouns of a kind that answers with several."""
    nouns = one.kind.nouns
    others = [noun for noun in nouns if noun is not one.noun and not noun.breakdown]
    for noun in nouns:
        if noun.breakdown:
            yield [_sent(plan, one, noun), _came_of_it(plan, one, noun)]
    yield [_chart(noun.name, f"{noun.counts}, each day once it has settled.", one, noun) for noun in others]


def _chart(name: str, description: str, one: Slice, noun: Noun) -> Panel:
    return chart(
        f"{_spoken(name)}, settled day",
        description,
        [Target(one.held(Unit.DAY, "settled", noun=noun), one.legend)],
        unit="short",
        interval=_INTERVAL,
        style="steps",
        may_sink=noun.may_sink,
    )


def _sent(plan: Plan, one: Slice, noun: Noun) -> Panel:
    """Return what was sent by channel; of a Canvas by step, which has one message or none."""
    by = tuple(label for label in noun.breakdown if label in {"step", "channel"})
    labels = (*noun.labels, *by) if "step" in by else by
    return chart(
        f"{_spoken(noun.name)} by {' and '.join(by)}, settled day",
        "What was sent on each day once it has settled, and of in-app messages how often they were shown: of all that "
        "is chosen, and all variations together.",
        [Target(one.held(Unit.DAY, "settled", noun=noun, by=("workspace", *labels)), legend(plan, labels))],
        unit="short",
        interval=_INTERVAL,
        style="stacked",
    )


def _came_of_it(plan: Plan, one: Slice, noun: Noun) -> Panel:
    """Return what share of the messages of a channel was delivered, opened, clicked, …: each statistic Braze has."""
    by = ("workspace", "channel")
    others = f'stat!~"{"|".join([*noun.headline, _UNIQUE])}"'
    each = one.held(Unit.DAY, "settled", noun=noun, stats=others, by=(*by, "stat"))
    sent = one.held(Unit.DAY, "settled", noun=noun, stats=of_stats(noun.headline)[0], by=by)
    return chart(
        f"{_spoken(noun.name)}: what came of them, settled day",
        "Each statistic that Braze has of a channel, as a share of what was sent or shown there: choose a channel to "
        "see it alone. Not those of unique users, who cannot be added up.",
        [Target(f"{each}\n  / on ({', '.join(by)}) group_left ()\n({sent} > 0)", legend(plan, ["channel", "stat"]))],
        unit="percentunit",
        interval=_INTERVAL,
        style="steps",
        may_sink=True,
    )


def _spoken(name: str) -> str:
    return name.replace("_", " ").capitalize()
