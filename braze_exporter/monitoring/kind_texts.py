"""What the series of a kind are called: in the sentences of alerts, and in the titles of a dashboard."""

from collections.abc import Mapping
from dataclasses import dataclass

from braze_exporter.braze.kinds import CAMPAIGNS, CANVASES, CUSTOM_EVENTS, REVENUE, SEGMENT_USERS, SeriesKind
from braze_exporter.braze.query import Query

_FILTERS = {
    "product": "{{ with $labels.product }} of {{ . }}{{ end }}",
    "braze_app": "{{ with $labels.braze_app }} from {{ . }}{{ end }}",
    "segment": "{{ with $labels.segment }} of the segment {{ . }}{{ end }}",
}
_SENDS = "Is it still active, does what triggers it still arrive, and has its audience still users?"


@dataclass(frozen=True, slots=True)
class KindTexts:
    """The words for a kind. Those of sentences are templates of Prometheus, which name people's texts by labels alone.

    `counted` are what a query counts, `silence` is said when nothing was counted, before a time, and `advice` with it.
    """

    title: str
    counted: str
    are: str = "are"
    silence: str = ""
    advice: str = "Look at what was released last in the apps: a broken SDK, its key, a consent banner."


_TEXTS: Mapping[SeriesKind, KindTexts] = {
    CUSTOM_EVENTS: KindTexts(
        "Custom events",
        "{{ $labels.event }}",
        "is",
        advice="Ask what was changed or released where the event is sent; campaigns that wait for it send nothing.",
    ),
    REVENUE: KindTexts("Revenue", "revenue", "is"),
    SEGMENT_USERS: KindTexts("Segment users", "users in the segment {{ $labels.segment }}"),
    CAMPAIGNS: KindTexts(
        "Messages sent",
        "messages of the campaign {{ $labels.campaign }}",
        silence="The campaign {{ $labels.campaign }} in {{ $labels.workspace }} has sent nothing",
        advice=_SENDS,
    ),
    CANVASES: KindTexts(
        "Canvas entries",
        "entries into the Canvas {{ $labels.canvas }}",
        silence="Nobody has entered the Canvas {{ $labels.canvas }} in {{ $labels.workspace }}",
        advice=_SENDS,
    ),
}


def kind_texts(kind: SeriesKind) -> KindTexts:
    """Return the words for a kind; most are called as their section in the config."""
    title = kind_title(kind)
    return _TEXTS.get(kind) or KindTexts(title, title.lower())


def kind_title(kind: SeriesKind) -> str:
    """Return what a kind is called as a whole."""
    return kind.section.replace("_", " ").capitalize()


def alert_prefix(kind: SeriesKind) -> str:
    """Return how the names of a kind's alerts begin: with its subject if every query has one."""
    name = kind.subject_label if kind.subject_label in kind.metric_group.labels else kind.section
    return f"Braze{name.title().replace('_', '')}"


def query_text(query: Query) -> str:
    """Return the template that names what a query, or another one of its families, counts, by its labels alone."""
    plain = query.kind.metric_group.labels
    filters = "".join(_FILTERS[name] for name in query.metric_group.labels if name not in plain)
    return f"{kind_texts(query.kind).counted}{filters} in {{{{ $labels.workspace }}}}"


def silence_text(query: Query, span: str) -> str:
    """Return the sentence for a query that has counted nothing for a span of time."""
    texts = kind_texts(query.kind)
    were = {"are": "were", "is": "was"}[texts.are]
    sentence = texts.silence or f"No {query_text(query)} {were} counted"
    return f"{sentence} for {span} or longer."


def capitalize(text: str) -> str:
    """Return a text as a sentence begins; the name of an event stays as it is."""
    return text[:1].upper() + text[1:]
