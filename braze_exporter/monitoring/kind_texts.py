"""What the series of a kind are called: in the sentences of alerts, and in the titles of a dashboard."""

from collections.abc import Mapping
from dataclasses import dataclass

from braze_exporter.braze.kinds import CAMPAIGNS, CANVASES, CUSTOM_EVENTS, REVENUE, SEGMENT_USERS, Kind
from braze_exporter.braze.query import Query

_FILTERS = {
    "product": "{{ with $labels.product }} of {{ . }}{{ end }}",
    "braze_app": "{{ with $labels.braze_app }} from {{ . }}{{ end }}",
    "segment": "{{ with $labels.segment }} of the segment {{ . }}{{ end }}",
}
_SENDS = "Is it still active, does what triggers it still arrive, and has its audience still users?"


@dataclass(frozen=True, slots=True)
class Words:
    """The words for a kind. Those of sentences are templates of Prometheus, which name people's texts by labels alone.

    `counted` are what a query counts, `silence` is said when nothing was counted, before a time, and `advice` with it.
    """

    title: str
    counted: str
    are: str = "are"
    silence: str = ""
    advice: str = "Look at what was released last in the apps: a broken SDK, its key, a consent banner."


_OWN: Mapping[Kind, Words] = {
    CUSTOM_EVENTS: Words(
        "Custom events",
        "{{ $labels.event }}",
        "is",
        advice="Ask what was changed or released where the event is sent; campaigns that wait for it send nothing.",
    ),
    REVENUE: Words("Revenue", "revenue", "is"),
    SEGMENT_USERS: Words("Segment users", "users in the segment {{ $labels.segment }}"),
    CAMPAIGNS: Words(
        "Messages sent",
        "messages of the campaign {{ $labels.campaign }}",
        silence="The campaign {{ $labels.campaign }} in {{ $labels.workspace }} has sent nothing",
        advice=_SENDS,
    ),
    CANVASES: Words(
        "Canvas entries",
        "entries into the Canvas {{ $labels.canvas }}",
        silence="Nobody has entered the Canvas {{ $labels.canvas }} in {{ $labels.workspace }}",
        advice=_SENDS,
    ),
}


def words(kind: Kind) -> Words:
    """Return the words for a kind; most are called as their section in the config."""
    name = heading(kind)
    return _OWN.get(kind) or Words(name, name.lower())


def heading(kind: Kind) -> str:
    """Return what a kind is called as a whole."""
    return kind.section.replace("_", " ").capitalize()


def alert_of(kind: Kind) -> str:
    """Return how the names of a kind's alerts begin: with its subject if every query has one."""
    name = kind.subject if kind.subject in kind.noun.labels else kind.section
    return f"Braze{name.title().replace('_', '')}"


def what(query: Query) -> str:
    """Return the template that names what a query, or another one of its families, counts, by its labels alone."""
    plain = query.kind.noun.labels
    filters = "".join(_FILTERS[name] for name in query.noun.labels if name not in plain)
    return f"{words(query.kind).counted}{filters} in {{{{ $labels.workspace }}}}"


def silence(query: Query, span: str) -> str:
    """Return the sentence for a query that has counted nothing for a span of time."""
    found = words(query.kind)
    were = {"are": "were", "is": "was"}[found.are]
    said = found.silence or f"No {what(query)} {were} counted"
    return f"{said} for {span} or longer."


def capital(text: str) -> str:
    """Return a text as a sentence begins; the name of an event stays as it is."""
    return text[:1].upper() + text[1:]
