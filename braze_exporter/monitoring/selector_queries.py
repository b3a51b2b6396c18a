"""The queries of selectors for rules and dashboards.

Rules and dashboards are generated without reading Braze's lists. So the subjects of these queries are regexes.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from braze_exporter.braze.kinds import SEGMENT_USERS
from braze_exporter.braze.names import normalize_id
from braze_exporter.braze.query import Query
from braze_exporter.config.schema import Entry
from braze_exporter.metrics.promql import LabelRegex
from braze_exporter.scheduler.plan import Plan

# The ids that may follow the name in the label of a segment, to distinguish segments with the same name.
_ID_SUFFIXES = r"( \([0-9A-Fa-f-]{36}\))*"
# Matches the empty label of a query of all subjects together.
_NO_SUBJECT = "()"


def selector_queries(plan: Plan) -> Iterator[tuple[Query, Entry]]:
    """Yield the queries of selectors with their entries. Their regexes exclude the subjects of entries before them.

    An entry that names a subject comes before all selectors, and an earlier selector before a later one.
    """
    before: dict[tuple[object, ...], list[str]] = {}
    ids: dict[tuple[object, ...], list[str]] = {}
    for query in plan.queries:
        is_by_id = query.kind.is_identified_by_id
        known = ids if is_by_id else before
        subject = normalize_id(query.subject_id) if is_by_id else query.subject
        known.setdefault(_group_key(query), []).append(re.escape(subject) or _NO_SUBJECT)
    for selector in plan.selectors:
        for query in selector.queries:
            expression = _subject_regex(query, selector.entry)
            excluded = before.setdefault(_group_key(query), [])
            subject = LabelRegex(_selector_text(selector.entry), expression, "|".join(excluded))
            subject_id = LabelRegex("", excluded="|".join(ids.get(_group_key(query), ())))
            yield replace(query, subject=subject, subject_id=subject_id), selector.entry
            if selector.entry.selector[1] is None:  # a tag cannot be derived from a name
                excluded.append(f"(?:{expression})")


def _selector_text(entry: Entry) -> str:
    """Return the value of the label `selector`: the regex of the entry, its tag as `tag: NAME`, or both."""
    regex, tag = entry.selector
    return ", ".join([*([regex.text] if regex is not None else []), *([f"tag: {tag}"] if tag is not None else [])])


def _subject_regex(query: Query, entry: Entry) -> str:
    """Return the regex for the labels of an entry's items. It is empty (any label) for an entry with only a tag."""
    regex, _ = entry.selector
    if regex is None:
        return ""
    return f"(?:{regex.text}){_ID_SUFFIXES}" if query.kind is SEGMENT_USERS else regex.text


def _group_key(query: Query) -> tuple[object, ...]:
    """Return the fields that are equal in queries that differ only by their subject."""
    return (query.workspace, query.kind, query.unit, query.app_id, query.segment_id)
