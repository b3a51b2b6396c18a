"""The families of the exporter's own metrics.

The collector computes `UP` and `QUERIES` from the queries. `SelfMetrics` updates the others when events occur.
"""

from enum import StrEnum

from braze_exporter.metrics.families import Family

UP = Family("braze_up", "gauge", "Whether the last fetch of at least one query succeeded.", ("workspace",))
QUERIES = Family("braze_queries", "gauge", "Number of queries by state.", ("workspace", "kind", "state"))


class QueryStatus(StrEnum):
    """The status of a query, exported as the label `state`. If several apply, it is the first."""

    PENDING = "pending"
    STALE = "stale"
    DEFERRED = "deferred"
    FAILED = "failed"
    UP = "up"


_PATH_LABELS = ("workspace", "path")
_POOL_LABELS = ("workspace", "pool")

REQUESTS = Family(
    "braze_api_requests_total",
    "counter",
    "Total number of requests to Braze by HTTP status code, none if there was no response.",
    (*_PATH_LABELS, "code"),
)
REQUESTS_FAILED = Family(
    "braze_api_requests_failed_total",
    "counter",
    "Total number of failed requests to Braze by reason.",
    (*_PATH_LABELS, "reason"),
)
DURATION = Family(
    "braze_api_request_duration_seconds",
    "histogram",
    "Duration of requests to Braze, until the whole response was received.",
    _PATH_LABELS,
)
DEFERRED = Family(
    "braze_api_requests_deferred_total",
    "counter",
    "Requests deferred because of rate limiting.",
    _POOL_LABELS,
)
RATE_LIMIT = Family(
    "braze_api_rate_limit",
    "gauge",
    "Rate limit of the pool in requests per window, as last reported by Braze.",
    _POOL_LABELS,
)
RATE_LIMIT_REMAINING = Family(
    "braze_api_rate_limit_remaining",
    "gauge",
    "Requests left for all clients in the pool's current window, as last reported by Braze.",
    _POOL_LABELS,
)
RATE_LIMIT_RESET = Family(
    "braze_api_rate_limit_reset_timestamp_seconds",
    "gauge",
    "Timestamp of the end of the pool's current window, as last reported by Braze.",
    _POOL_LABELS,
)
REVISION_DELAY = Family(
    "braze_bucket_revision_delay_seconds",
    "histogram",
    "Time from the end of a bucket to a later change of its value.",
    ("workspace", "kind"),
)
TIMEZONE_MISMATCH = Family(
    "braze_workspace_timezone_mismatch",
    "gauge",
    "Whether the newest day of all recent responses is yesterday or tomorrow in the workspace's timezone.",
    ("workspace",),
)
_KIND_LABELS = ("workspace", "kind")
DISCOVERY_ITEMS = Family(
    "braze_discovery_items", "gauge", "Number of items in Braze's list, for kinds with selectors.", _KIND_LABELS
)
DISCOVERY_MATCHED = Family(
    "braze_discovery_items_matched", "gauge", "Number of listed items that match a selector.", _KIND_LABELS
)
DISCOVERY_SKIPPED = Family(
    "braze_discovery_items_skipped",
    "gauge",
    "Number of matching items without queries, because of max_queries or the budget.",
    _KIND_LABELS,
)
LIST_LAST_SUCCESS = Family(
    "braze_discovery_list_last_success_timestamp_seconds",
    "gauge",
    "Timestamp of the last complete read of the list. It is 0 until the first if a selector needs the list.",
    ("workspace", "list"),
)
LIST_SUSPECT = Family(
    "braze_discovery_list_suspect",
    "gauge",
    "Whether the last complete read of the list was not used, since it lacked more than half of the items.",
    ("workspace", "list"),
)
QUERY_UNLISTED = Family(
    "braze_query_unlisted",
    "gauge",
    "Whether the name or id in the config is missing from Braze's list.",
    (*_KIND_LABELS, "subject"),
)
SCRAPES_INCOMPLETE = Family(
    "braze_exporter_scrapes_incomplete_total",
    "counter",
    "Total number of scrapes that reached their deadline before all due queries were fetched.",
    (),
)
STATE_WRITE_FAILURES = Family(
    "braze_exporter_state_write_failures_total",
    "counter",
    "Total number of failed writes of the state file. Counters are not updated until a write succeeds.",
    (),
)
RELOAD_SUCCESSFUL = Family(
    "braze_exporter_config_last_reload_successful",
    "gauge",
    "Whether the last configuration reload attempt was successful.",
    (),
)
RELOAD_SUCCESS_TIME = Family(
    "braze_exporter_config_last_reload_success_timestamp_seconds",
    "gauge",
    "Timestamp of the last successful configuration reload.",
    (),
)
BUDGET_RESERVE = Family(
    "braze_exporter_budget_reserve_ratio",
    "gauge",
    "Fraction of a rate limit that the exporter leaves to other clients, from budget.reserve.",
    (),
)
BUILD_INFO = Family(
    "braze_exporter_build_info",
    "gauge",
    "A metric with a constant '1' value labeled by version, revision and python_version.",
    ("version", "revision", "python_version"),
)
