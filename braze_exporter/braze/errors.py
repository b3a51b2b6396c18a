"""Why Braze did not answer a query."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a query was not answered: the values of the label `reason`, with the help for them."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    UNEXPECTED_STATUS = "http"
    QUEUED = "queued"
    NO_CONTENT = "no_content"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    DNS = "dns"
    TLS = "tls"
    REDIRECT = "redirect"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    NOT_JSON = "not_json"
    INVALID_RESPONSE = "bad_answer"


class BrazeError(Exception):
    """A query was asked and not answered. `detail` is a short line for people, without the key."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Keep the `reason`, for the metrics, and the `detail`, for the log."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def without_traceback(self) -> "BrazeError":
        """Return the error to be kept: without the frames that it came through, which hold all that was read."""
        return BrazeError(self.reason, self.detail)
