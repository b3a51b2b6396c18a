"""The queries of wildcards as rules and dashboards ask for them: by what is matched, for no list is known there."""

import re
from collections.abc import Iterator
from dataclasses import replace

from braze_exporter.braze.query import Query
from braze_exporter.config.schema import Asking
from braze_exporter.metrics.promql import Matched
from braze_exporter.scheduler.plan import Plan

# What tells apart those that have one name in Braze.
_ID_BEHIND = r"( \([0-9A-Fa-f-]{36}\))?"


def wild_queries(plan: Plan) -> Iterator[tuple[Query, Asking]]:
    """Yield the queries of wildcards with their entries; what they match is less what other entries ask for.

    Those win that name their subject, and of wildcards the first.
    """
    before: dict[tuple[object, ...], list[str]] = {}
    ids: dict[tuple[object, ...], list[str]] = {}
    for query in plan.queries:
        known = ids if query.kind.is_named else before
        known.setdefault(_place(query), []).append(re.escape(query.asked if query.kind.is_named else query.subject))
    for wildcard in plan.wildcards:
        for query in wildcard.queries:
            expression = _expression(query, wildcard.entry)
            less = before.setdefault(_place(query), [])
            subject = Matched(query.subject, expression, "|".join(less))
            subject_id = Matched("", less="|".join(ids.get(_place(query), ())))
            yield replace(query, subject=subject, subject_id=subject_id), wildcard.entry
            if getattr(wildcard.entry, "tag", None) is None:  # else a name does not tell whether it is taken
                less.append(f"(?:{expression})")


def _expression(query: Query, entry: Asking) -> str:
    """Return what the label matches: an id may stand behind a name, if there are ids. A tag says nothing of names."""
    match = getattr(entry, "match", None)
    if match is None:
        return ""
    has_ids = query.kind.listing is not None and query.kind.listing.has_ids
    return f"(?:{match.text}){_ID_BEHIND}" if has_ids else str(match.text)


def _place(query: Query) -> tuple[object, ...]:
    """Return what two queries have in common that differ by their subject alone."""
    return (query.workspace, query.kind, query.unit, query.app_id, query.segment_id)
