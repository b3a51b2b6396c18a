"""The plan from which the dashboard for any config is generated."""

from collections.abc import Iterator
from itertools import product

from braze_exporter.braze.kinds import KINDS, SeriesKind
from braze_exporter.braze.query import Query
from braze_exporter.config.schema import Settings
from braze_exporter.metrics.promql import LabelRegex
from braze_exporter.monitoring.panel_groups import ANY_WORKSPACE
from braze_exporter.scheduler.plan import Plan

# Stands for any subject, app or segment.
_ANY = LabelRegex("any", "")


def build_generic_plan() -> Plan:
    """Return a plan with a query of each kind, unit and combination of filters, and with the default settings."""
    return Plan(tuple(query for kind in KINDS for query in _queries(kind, Settings())), ())


def _queries(kind: SeriesKind, settings: Settings) -> Iterator[Query]:
    subjects = ("", _ANY) if kind.subject_label in kind.part_labels else (_ANY if kind.subject_label else "",)
    apps, segments = (("", _ANY) if label in kind.part_labels else ("",) for label in ("braze_app", "segment"))
    for unit, subject, app, segment in product(kind.units, subjects, apps, segments):
        yield Query(
            ANY_WORKSPACE,
            kind,
            unit,
            subject,
            app=app,
            app_id=app,
            segment=segment,
            segment_id=segment,
            refresh_seconds=max(settings.refresh_interval.for_unit(unit), kind.min_refresh_seconds),
            settle_seconds=max(settings.settle.for_unit(unit), kind.min_settle_seconds),
            max_age_seconds=settings.max_age,
            baseline_weeks=1,
        )
