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
    UNEXPECTED_STATUS = "unexpected_status"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    DNS = "dns"
    TLS = "tls"
    PROXY = "proxy"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    INVALID_RESPONSE = "invalid_response"


# The failures of Braze or of the network, which pass with time.
TRANSIENT_REASONS = {
    Reason.SERVER_ERROR,
    Reason.TIMEOUT,
    Reason.CONNECTION,
    Reason.DNS,
    Reason.TLS,
    Reason.PROXY,
    Reason.TRUNCATED,
}


class BrazeError(Exception):
    """Raised if a request to Braze fails.

    `detail` is a short description for people, without the API key. `is_transient` is true for failures of Braze or the
    network that pass with time. Retrying them immediately would add load.
    """

    def __init__(self, reason: Reason, detail: str, *, is_transient: bool = False) -> None:
        """Create an error with a `reason` for the metrics and a `detail` for the log.

        Some reasons are always transient. `is_transient` makes an error with another reason transient.
        """
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.is_transient = is_transient or reason in TRANSIENT_REASONS

    def without_traceback(self) -> "BrazeError":
        """Return a copy without traceback.

        The frames of a traceback reference the response, so a stored error would keep it in memory.
        """
        return BrazeError(self.reason, self.detail, is_transient=self.is_transient)


def invalid_response(detail: str) -> BrazeError:
    """Return the error for an invalid response. `detail` must contain no value of the body."""
    return BrazeError(Reason.INVALID_RESPONSE, f"malformed response: {detail}")
