"""The REST client: sends one authenticated GET and returns the parsed response, or raises `BrazeError`.

It caches nothing and never retries.
"""

import hashlib
import http.client
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from braze_exporter.braze import list_page, parsing
from braze_exporter.braze.body import QUEUED_DETAIL
from braze_exporter.braze.calls import CallEvent, EndOfCall, RateLimit, RateLimitInfo, Response
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.braze.pools import Endpoint
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series, bucket_starts, share_unchanged
from braze_exporter.braze.transport import RawResponse, Transport

# The maximum length of Braze's message in an error detail.
_MAX_EXCERPT_LENGTH = 200
# A parsed response takes many times the size of its body, so only one is parsed at a time in all workspaces.
_PARSING_LOCK = threading.Lock()
# A required `ending_at` is this many seconds in the past, since Braze rejects times in the future and clocks differ.
_CLOCK_TOLERANCE_SECONDS = 60.0
_QUEUED_STATUS = 202
# What unexpected statuses mean.
_STATUS_HINTS = {
    _QUEUED_STATUS: QUEUED_DETAIL,
    204: "empty response",
    **dict.fromkeys((301, 302, 303, 307, 308), "redirect not followed"),
}

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Client:
    """The API client of one workspace. Thread-safe."""

    def __init__(
        self,
        transport: Transport,
        *,
        workspace: str,
        redact: Callable[[str], str],
        clock: Clock,
        on_call: Callable[[CallEvent], None],
    ) -> None:
        """Create a client that sends requests over `transport`.

        `workspace` is the name of the workspace. `redact` removes the API key from a text. `on_call` is
        called after every call.
        """
        self._transport = transport
        self._workspace = workspace
        self._redact = redact
        self._clock = clock
        self._on_call = on_call
        # How many seconds the local clock was ahead of Braze's at the last response, at least.
        self._clock_ahead_seconds = 0.0

    def fetch(self, query: Query, length: int, on_end: EndOfCall, previous: Response | None = None) -> Response:
        """Fetch `length` buckets of `query`, up to its `ending_at` or the current time, with one request.

        `on_end` is called at its end. What has not changed since the response `previous` is the same object in the
        result, and an equal body is not parsed again. Raises `BrazeError` if the request fails.
        """
        digest, series = (previous.digest, previous.series) if previous is not None else (b"", ())

        def read(body: bytes, earliest: float, latest: float) -> tuple[tuple[Series, ...], bytes]:
            new_digest = hashlib.sha256(body).digest()
            if new_digest == digest:
                parsing.check_starts(query, bucket_starts(series), length, earliest, latest)
                return series, digest
            return share_unchanged(parsing.parse_series(query, body, length, earliest, latest), series), new_digest

        sent_at = self._clock.wall()
        parameters = _build_parameters(query, length, sent_at - self._clock_ahead_seconds)
        (fetched, fetched_digest), responded_at = self._request(
            query.kind, parameters, on_end, read, lambda content: {"buckets": len(bucket_starts(content[0]))}
        )
        return Response(
            fetched,
            sent_at if responded_at is None else min(sent_at, responded_at),
            self._clock.wall(),
            self._clock.monotonic(),
            is_short=length < query.length,
            digest=fetched_digest,
        )

    def fetch_page(self, list_endpoint: ListEndpoint, number: int, on_end: EndOfCall) -> tuple[ListItem | None, ...]:
        """Return the items of page `number` of a list, fetched with one request. `on_end` is called at its end.

        Pages are numbered from 0. An invalid item is None. A page past the end has no items. Raises `BrazeError` if the
        request fails.
        """

        def read(body: bytes, _earliest: float, _latest: float) -> tuple[ListItem | None, ...]:
            return list_page.parse_list_page(list_endpoint, body)

        parameters = {"page": str(number), **dict(list_endpoint.parameters)}
        rows, _ = self._request(list_endpoint, parameters, on_end, read, lambda rows: {"items": len(rows)})
        return rows

    def _request(
        self,
        endpoint: Endpoint,
        parameters: Mapping[str, str],
        on_end: EndOfCall,
        read: Callable[[bytes, float, float], T],
        describe: Callable[[T], dict[str, object]],
    ) -> tuple[T, float | None]:
        """Send a request to `endpoint`; return the result of `read` and the time of the response by Braze's clock.

        `read` is called with the body and two times of the response: by the local clock and by Braze's, the earlier one
        first. `describe` returns the fields of the result for the log. Raises `BrazeError` if the request fails.
        """
        started = self._clock.monotonic()
        seconds = 0.0
        received: RawResponse | None = None
        failure: BrazeError | None = BrazeError(Reason.INVALID_RESPONSE, "internal error")
        is_logged, result = _log.isEnabledFor(logging.DEBUG), {}
        try:
            received = self._transport.get(endpoint.path, parameters)
            seconds = self._clock.monotonic() - started
            responded_at = parsing.parse_date(received.headers)
            parsed = self._parse_response(endpoint, received, read, responded_at)
            failure = None
            result = describe(parsed) if is_logged else {}
        except BrazeError as error:
            # The error itself would refer to this frame, and the frame to it: a cycle that keeps the body in memory.
            failure, result = error.without_traceback(), {"error": error.detail}
            raise
        finally:
            seconds = self._clock.monotonic() - started if received is None else seconds
            self._record_call(endpoint, on_end, received, failure, seconds)
            if is_logged:
                status = received.status if received is not None else "none"
                fields = {"workspace": self._workspace, "path": endpoint.path, **parameters, "status": status}
                _log.debug("Request to Braze", extra={"fields": fields | {"duration": f"{seconds:.3f}s", **result}})
        return parsed, responded_at

    def _parse_response(
        self,
        endpoint: Endpoint,
        received: RawResponse,
        read: Callable[[bytes, float, float], T],
        responded_at: float | None,
    ) -> T:
        """Return the result of `read` for a success.

        Raises `BrazeError` for an error status or an unreadable body. The status takes precedence, since it is the more
        specific reason.
        """
        reason = parsing.reason_for_status(received.status)
        if reason is Reason.UNAUTHORIZED:  # the body contains the key, so the error does not quote it
            raise BrazeError(reason, describe_unauthorized(endpoint))
        if reason is not None:
            hint = f": the key lacks the permission {endpoint.permission}" if reason is Reason.FORBIDDEN else ""
            raise BrazeError(
                reason,
                f"{_describe_status(received.status, reason)}{hint}{self.error_excerpt(received)}",
                is_transient=received.status == _QUEUED_STATUS,
            )
        if received.body_error is not None:
            raise received.body_error.without_traceback()  # `received` is in the frames of the traceback
        local_time = self._clock.wall()
        braze_time = local_time if responded_at is None else responded_at
        try:
            with _PARSING_LOCK:
                return read(received.body, min(local_time, braze_time), max(local_time, braze_time))
        except BrazeError as error:
            detail = error.detail + self.error_excerpt(received)
            raise BrazeError(error.reason, detail, is_transient=error.is_transient) from None

    def error_excerpt(self, received: RawResponse) -> str:
        """Return Braze's message about a failure, or an empty string.

        It is shortened, contains only printable characters and does not contain the API key.
        """
        message = self._excerpt(parsing.read_message(received.body))
        return "" if message in ("", "success") else f": {message}"

    def _excerpt(self, text: str) -> str:
        """Return the start of a text of Braze, without unprintable characters and the API key."""
        excerpt = self._redact(text)[:_MAX_EXCERPT_LENGTH]
        return "".join(letter if letter.isprintable() else " " for letter in excerpt)

    def _record_call(
        self,
        endpoint: Endpoint,
        on_end: EndOfCall,
        received: RawResponse | None,
        failure: BrazeError | None,
        seconds: float,
    ) -> None:
        """Report the outcome of a call to `on_end` and `on_call`, and update the clock offset."""
        rate_limit, offset, info = RateLimit(), None, RateLimitInfo()
        reason = failure.reason if failure is not None else None
        try:
            if received is not None:
                local_time, braze_time = self._clock.wall(), parsing.parse_date(received.headers)
                now = local_time if braze_time is None else braze_time  # reset times are by Braze's clock
                offset = None if braze_time is None else braze_time - local_time
                self._clock_ahead_seconds = 0.0 if offset is None else max(0.0, -offset - seconds)
                rate_limit = parsing.parse_rate_limit(received.headers, now)
                rate_limit = replace(rate_limit, invalid_remaining=self._excerpt(rate_limit.invalid_remaining))
                info = RateLimitInfo(
                    rate_limit.limit,
                    rate_limit.remaining,
                    resets_in=None if rate_limit.reset is None else rate_limit.reset - now,
                    retry_after=parsing.parse_retry_after(received.headers, now),
                    is_rate_limited=reason is Reason.RATE_LIMITED,
                    is_accepted=reason not in {Reason.RATE_LIMITED, Reason.SERVER_ERROR},
                )
        finally:  # other calls may wait for the end of this one
            pause_seconds = on_end(failure, info)
        status = received.status if received is not None else None
        self._on_call(
            CallEvent(
                self._workspace,
                endpoint.path,
                endpoint.pool.name,
                status,
                reason,
                seconds,
                rate_limit,
                clock_offset=offset,
                pause_seconds=pause_seconds,
            )
        )


def describe_unauthorized(endpoint: Endpoint) -> str:
    """Return the error detail for a 401 from `endpoint`.

    Braze sends 401 for a rejected key and for a missing permission. Only the responses of other endpoints show which
    of the two applies.
    """
    return f"401 Unauthorized: the key lacks the permission {endpoint.permission} (or the key is rejected)"


def _describe_status(status: int, reason: Reason) -> str:
    """Return a status code with its reason phrase, for example `503 Service Unavailable`.

    For an unexpected status the result also says so, or what the status means.
    """
    text = f"{status} {http.client.responses.get(status, '')}".rstrip()
    if status in _STATUS_HINTS:
        return f"{text}, {_STATUS_HINTS[status]}"
    return f"unexpected status {text}" if reason is Reason.UNEXPECTED_STATUS else text


def _build_parameters(query: Query, length: int, now: float) -> Mapping[str, str]:
    """Return the request parameters of a query that is sent at `now`."""
    parameters = {"length": str(length), **dict(query.kind.parameters)}
    if query.request_value:
        parameters[query.kind.subject_parameter] = query.request_value
    if len(query.kind.units) > 1:
        parameters["unit"] = query.unit.value
    if query.app_id:
        parameters["app_id"] = query.app_id
    if query.segment_id:
        parameters["segment_id"] = query.segment_id
    # Without `ending_at` a response ends at the time of the request. Braze rejects an `ending_at` in the future.
    end = (
        now - _CLOCK_TOLERANCE_SECONDS if query.ending_at is None and query.kind.requires_ending_at else query.ending_at
    )
    if end is not None:
        parameters["ending_at"] = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return parameters
