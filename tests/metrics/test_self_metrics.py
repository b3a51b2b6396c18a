"""Test the exporter's own metrics on the page."""

import pytest
from recorded_counts import RecordedCounts
from support import SELF_FAMILIES, running_exporter


def headers_without_samples(page: str) -> set[str]:
    """Return the names in the headers of a page without a sample after them."""
    names = set()
    lines = page.splitlines()
    for line, following in zip(lines, [*lines[1:], "# EOF"], strict=True):
        if line.startswith("# TYPE ") and following.startswith("# "):
            names.add(line.split()[2])
    return names


REASONS = {
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "rate_limited",
    "server_error",
    "unexpected_status",
    "timeout",
    "connection",
    "dns",
    "tls",
    "proxy",
    "too_large",
    "truncated",
    "invalid_response",
}


def test_metrics_of_requests_are_0_from_the_start() -> None:
    """Counters and histograms are 0 before the first request of an endpoint, and failures for each reason."""
    with running_exporter("{event: purchase}", RecordedCounts(events=["purchase"])) as exporter:
        page = exporter.page()
    counts = {
        dict(labels)["reason"]: value
        for (name, labels), value in page.samples.items()
        if name == "braze_api_requests_failed_total" and dict(labels)["path"] == "/events/data_series"
    }
    assert counts == dict.fromkeys(REASONS, 0)
    for name in (
        "braze_api_request_duration_seconds_count",
        "braze_api_requests_deferred_total",
        "braze_bucket_revision_delay_seconds_count",
    ):
        assert page.values(name) == [0]


@pytest.mark.parametrize("openmetrics", [False, True])
def test_family_without_samples_has_no_header(openmetrics: bool) -> None:  # noqa: FBT001
    """The page of a fresh exporter has no header of an own metric without a sample."""
    with running_exporter("{event: purchase}", RecordedCounts(events=["purchase"])) as exporter:
        page = b"".join(exporter.exporter.render(openmetrics=openmetrics)).decode()
    names = {family.name.removesuffix("_total") if openmetrics else family.name for family in SELF_FAMILIES}
    assert headers_without_samples(page) & names == set()
    assert "# TYPE braze_exporter_build_info gauge" in page
    for name in ("braze_query_unlisted", "braze_api_rate_limit", "braze_workspace_timezone_mismatch"):
        assert f"{name} " not in page
