"""The names of kinds in alert texts and dashboard titles."""

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
    """The texts for a kind. All but `title` are Prometheus templates, which take names from labels only.

    `counted` is what a query counts, and `are` its verb. `silence` is the sentence for a query that counted nothing,
    without the time. `advice` follows it.
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
    """Return the texts for a kind. By default they come from the name of its config section."""
    title = kind_title(kind)
    return _TEXTS.get(kind) or KindTexts(title, title.lower())


def kind_title(kind: SeriesKind) -> str:
    """Return the title of a kind, made from its config section."""
    return kind.section.replace("_", " ").capitalize()


def alert_prefix(kind: SeriesKind) -> str:
    """Return the prefix of a kind's alert names: its subject label if every query has a subject, else its section."""
    name = kind.subject_label if kind.subject_label in kind.metric_group.labels else kind.section
    return f"Braze{name.title().replace('_', '')}"


def query_text(query: Query) -> str:
    """Return the template for what a query counts. It uses only labels, so it also fits the query's other families."""
    plain = query.kind.metric_group.labels
    filters = "".join(_FILTERS[name] for name in query.metric_group.labels if name not in plain)
    return f"{kind_texts(query.kind).counted}{filters} in {{{{ $labels.workspace }}}}"


def silence_text(query: Query, span: str) -> str:
    """Return the sentence for a query that has counted nothing for `span`."""
    texts = kind_texts(query.kind)
    were = {"are": "were", "is": "was"}[texts.are]
    sentence = texts.silence or f"No {query_text(query)} {were} counted"
    return f"{sentence} for {span} or longer."


def capitalize(text: str) -> str:
    """Return a text with its first letter in uppercase. A text that begins with a template does not change."""
    return text[:1].upper() + text[1:]
