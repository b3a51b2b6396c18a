"""The error for a failed request to Braze, and the reasons for failures."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a request to Braze failed. The values are those of the label `reason`."""

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


# Failures of Braze or the network. Retrying them immediately would add load.
TRANSIENT_REASONS = {
    Reason.SERVER_ERROR,
    Reason.TIMEOUT,
    Reason.CONNECTION,
    Reason.DNS,
    Reason.TLS,
    Reason.TRUNCATED,
    Reason.QUEUED,
}


class BrazeError(Exception):
    """Raised if a request to Braze fails. `detail` is a short description for people, without the API key."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Create an error with a `reason` for the metrics and a `detail` for the log."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def without_traceback(self) -> "BrazeError":
        """Return a copy without traceback.

        The frames of a traceback reference the response, so a stored error would keep it in memory.
        """
        return BrazeError(self.reason, self.detail)
