"""The metric families of the exporter itself: of its calls to Braze, and of how it is.

`QUERIES` and `UP` sum up the queries; `OWN` are counted as things happen. What fills them is the collector's business.
"""

from enum import StrEnum

from braze_exporter.catalog import Family

UP = Family(
    "braze_up", "gauge", "Whether any query's last fetch was answered (1), or none of those tried (0).", ("workspace",)
)
QUERIES = Family(
    "braze_exporter_queries", "gauge", "Queries of the plan by their state.", ("workspace", "kind", "state")
)


class State(StrEnum):
    """How a query stands, which is the label `state`; of several that apply, the first."""

    PENDING = "pending"
    STALE = "stale"
    DEFERRED = "deferred"
    FAILED = "failed"
    UP = "up"


_OF_ENDPOINT = ("workspace", "endpoint")
_OF_POOL = ("workspace", "pool")

REQUESTS = Family(
    "braze_api_requests_total",
    "counter",
    "HTTP requests made to Braze; code is the status, or none without an answer.",
    (*_OF_ENDPOINT, "code"),
)
ERRORS = Family(
    "braze_api_errors_total",
    "counter",
    "Requests to Braze that were not answered, by reason.",
    (*_OF_ENDPOINT, "reason"),
)
DURATION = Family(
    "braze_api_request_duration_seconds", "histogram", "Time from a request to the whole of its answer.", _OF_ENDPOINT
)
DEFERRED = Family(
    "braze_api_requests_deferred_total",
    "counter",
    "Requests that were due and put off, for the budget, the reserve or a 429.",
    _OF_POOL,
)
QUOTA_LIMIT = Family("braze_api_quota_limit", "gauge", "Calls in a window of the pool, as Braze last said.", _OF_POOL)
QUOTA_REMAINING = Family(
    "braze_api_quota_remaining",
    "gauge",
    "Calls left in the pool's window, whoever makes them, as Braze last said.",
    _OF_POOL,
)
QUOTA_RESET = Family(
    "braze_api_quota_reset_timestamp_seconds", "gauge", "When the pool's window ends, as Braze last said.", _OF_POOL
)
SCRAPES_INCOMPLETE = Family(
    "braze_exporter_scrapes_incomplete_total",
    "counter",
    "Scrapes whose deadline came before the answer to every due query.",
    (),
)
STATE_WRITE_FAILURES = Family(
    "braze_exporter_state_write_failures_total",
    "counter",
    "Writes of the state file that failed; the counters stand still until one succeeds.",
    (),
)
REVISION_AGE = Family(
    "braze_revision_age_seconds",
    "histogram",
    "How long after its end a bucket still changed.",
    ("workspace", "kind"),
)
TIMEZONE_MISMATCH = Family(
    "braze_workspace_timezone_mismatch",
    "gauge",
    "Whether the newest day of an answer is yesterday or tomorrow in the workspace's timezone (1) or not (0).",
    ("workspace",),
)
_OF_KIND = ("workspace", "kind")
DISCOVERY_FOUND = Family(
    "braze_discovery_found", "gauge", "What Braze lists of a kind that the config has wildcards for.", _OF_KIND
)
DISCOVERY_MATCHED = Family("braze_discovery_matched", "gauge", "What of it the wildcards take.", _OF_KIND)
DISCOVERY_LEFT_OUT = Family(
    "braze_discovery_left_out",
    "gauge",
    "What the wildcards take, and is not asked for: for max_queries or the budget.",
    _OF_KIND,
)
LIST_READ = Family(
    "braze_discovery_list_last_success_timestamp_seconds",
    "gauge",
    "When a list of Braze's was last read to its end; 0 until the first time.",
    ("workspace", "list"),
)
QUERY_UNLISTED = Family(
    "braze_query_unlisted",
    "gauge",
    "Whether Braze's list lacks a subject that the config names (1) or has it (0).",
    (*_OF_KIND, "subject"),
)
RELOAD_SUCCESSFUL = Family(
    "braze_exporter_config_last_reload_successful",
    "gauge",
    "Whether the config could be used when it was last read (1) or not (0); then the one before goes on.",
    (),
)
RELOAD_SUCCESS_TIME = Family(
    "braze_exporter_config_last_reload_success_timestamp_seconds",
    "gauge",
    "When the config in use was read.",
    (),
)
BUILD_INFO = Family(
    "braze_exporter_build_info", "gauge", "The version that runs, always 1.", ("version", "python_version")
)

OWN: tuple[Family, ...] = (
    REQUESTS,
    ERRORS,
    DURATION,
    DEFERRED,
    QUOTA_LIMIT,
    QUOTA_REMAINING,
    QUOTA_RESET,
    REVISION_AGE,
    TIMEZONE_MISMATCH,
    DISCOVERY_FOUND,
    DISCOVERY_MATCHED,
    DISCOVERY_LEFT_OUT,
    LIST_READ,
    QUERY_UNLISTED,
    SCRAPES_INCOMPLETE,
    STATE_WRITE_FAILURES,
    RELOAD_SUCCESSFUL,
    RELOAD_SUCCESS_TIME,
    BUILD_INFO,
)
