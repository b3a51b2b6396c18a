"""The names of kinds in alert texts and dashboard titles."""

from collections.abc import Mapping
from dataclasses import dataclass

from braze_exporter.braze.kinds import CAMPAIGNS, CANVASES, CUSTOM_EVENTS, REVENUE, SEGMENT_USERS, SeriesKind
from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import QUERY_LAST_SUCCESS

_FILTERS = {
    "product": "{{ with $labels.product }} of product {{ . }}{{ end }}",
    "braze_app": "{{ with $labels.braze_app }} from app {{ . }}{{ end }}",
    "segment": "{{ with $labels.segment }} in segment {{ . }}{{ end }}",
}


def name_template(kind: SeriesKind) -> str:
    """Return the template for the name of a subject that Braze identifies by an id, or for the id if it has no name.

    The name is not a label of the alert, because a label that changes would restart the alert. So the template queries
    it.
    """
    selector = f'{QUERY_LAST_SUCCESS.name}{{workspace=%q, {kind.subject_parameter}=%q, {kind.subject_label}!=""}}'
    return (
        f"{{{{ with printf `{selector}` $labels.workspace $labels.{kind.subject_parameter} | query }}}}"
        f'{{{{ . | first | label "{kind.subject_label}" }}}}{{{{ else }}}}{{{{ $labels.{kind.subject_parameter} }}}}'
        "{{ end }}"
    )


_SENDS = "Check that it is active, that its trigger still occurs, and that its audience has users."


@dataclass(frozen=True, slots=True)
class KindTexts:
    """The texts for a kind.

    `title` is for panels, and `noun` for alert summaries. `counted` is what a query counts, and `verb` agrees with it.
    `silence_sentence` is for a query that has counted nothing, without the time; if it is empty, it is made from
    `counted`. `advice` follows it. `counted` and `silence_sentence` are Prometheus templates, in which names come from
    labels only.
    """

    title: str
    noun: str
    counted: str
    verb: str = "are"
    silence_sentence: str = ""
    advice: str = "Check recent app releases for a broken SDK, a wrong SDK key or a consent banner."


_TEXTS: Mapping[SeriesKind, KindTexts] = {
    CUSTOM_EVENTS: KindTexts(
        "Custom events",
        "custom events",
        "{{ $labels.event }} events",
        advice="Check recent changes and releases of the source of the event. Campaigns triggered by it send nothing.",
    ),
    REVENUE: KindTexts("Revenue", "revenue", "revenue", "is"),
    SEGMENT_USERS: KindTexts("Segment users", "segment users", "users in segment {{ $labels.segment }}"),
    CAMPAIGNS: KindTexts(
        "Messages sent",
        "campaign messages",
        f"messages of campaign {name_template(CAMPAIGNS)}",
        silence_sentence=f"Campaign {name_template(CAMPAIGNS)} in workspace {{{{ $labels.workspace }}}} has sent no "
        "messages",
        advice=_SENDS,
    ),
    CANVASES: KindTexts(
        "Canvas entries",
        "Canvas entries",
        f"entries into Canvas {name_template(CANVASES)}",
        silence_sentence=f"No users have entered Canvas {name_template(CANVASES)} in workspace "
        "{{ $labels.workspace }}",
        advice=_SENDS,
    ),
}


def kind_texts(kind: SeriesKind) -> KindTexts:
    """Return the texts for a kind. By default they come from the name of its config section."""
    title = kind_title(kind)
    return _TEXTS.get(kind) or KindTexts(title, title.lower(), title.lower())


def kind_title(kind: SeriesKind) -> str:
    """Return the title of a kind, made from its config section."""
    return kind.section.replace("_", " ").capitalize()


def alert_prefix(kind: SeriesKind) -> str:
    """Return the prefix of a kind's alert names. It contains the subject label if all queries have a subject.

    Otherwise it contains the section.
    """
    name = kind.subject_label if kind.subject_label in kind.metric_group.labels else kind.section
    return f"Braze{name.title().replace('_', '')}"


def query_text(query: Query) -> str:
    """Return the template for what a query counts. It takes names from labels, so it fits all queries of the kind."""
    plain = query.kind.metric_group.labels
    labels = query.metric_group.labels
    filters = "".join(text for name, text in _FILTERS.items() if name in labels and name not in plain)
    return f"{kind_texts(query.kind).counted}{filters} in workspace {{{{ $labels.workspace }}}}"


def silence_text(query: Query, span: str) -> str:
    """Return the sentence for a query that has counted nothing for `span`."""
    texts = kind_texts(query.kind)
    were = {"are": "were", "is": "was"}[texts.verb]
    sentence = texts.silence_sentence or f"No {query_text(query)} {were} counted"
    return f"{sentence} for {span} or longer."


def capitalize(text: str) -> str:
    """Return a text with its first letter in uppercase. A text that begins with a template is returned unchanged."""
    return text[:1].upper() + text[1:]
