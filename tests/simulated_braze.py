"""A simulated Braze with fault injection and a request log."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from braze_variants import UnknownEvent, VariableBraze
from fault_injection import Fault, FaultInjector, FaultTarget
from request_log import LoggedBody, RequestLog
from wsgi_server import status_phrase

from braze_exporter.simulator.demo_config import KEY, ZONE
from braze_exporter.simulator.inventory import SHOP_INVENTORY
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.traffic import SHOP_APPS, SHOP_EVENTS, SHOP_SEGMENTS, SHOP_SERIES, Traffic


class FaultInjectingBraze(VariableBraze):
    """A simulated Braze with fault injection and a log of its requests."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - the arguments of `VariableBraze`
        """Simulate a workspace as `VariableBraze` does, without faults and with an empty log."""
        super().__init__(**settings)
        self._request_log = RequestLog()
        self._faults = FaultInjector()

    def inject(
        self, fault: Fault, *, event: str | None = None, path: str | None = None, times: int | None = None
    ) -> None:
        """Inject a fault into requests for `event` or at `path` (default: all).

        The fault applies to `times` requests, or permanently if `times` is None.

        The faults of an event have precedence over those of a path, and these over those of all requests. Within one
        of these groups, faults with `times` apply first, in the order of their injection, then the permanent fault. A
        newer permanent fault replaces it.
        """
        self._faults.inject(fault, FaultTarget(event, path), times)

    def clear_faults(self, event: str | None = None, path: str | None = None) -> None:
        """Remove the faults of an event, of a path, or all. Responses that `hold()` delays are then sent."""
        self._faults.clear(FaultTarget(event, path))

    def close(self) -> None:
        """Abort the responses that are waiting; later requests get normal responses."""
        self._faults.close()

    @property
    def requests(self) -> list[Request]:
        """The requests so far, with any response status, oldest first (the last 50,000)."""
        return self._request_log.requests

    @property
    def concurrency_peak(self) -> int:
        """The highest number of requests in progress at once."""
        return self._request_log.peak

    def reset(self) -> None:
        """Clear the request log and its concurrency peak. Faults and the rate limit stay as they are."""
        self._request_log.reset()

    def wait_for(self, count: int, timeout: float = 30.0) -> None:
        """Wait until there are `count` requests since the last reset. Raises `TimeoutError` after `timeout` seconds."""
        self._request_log.wait_for(count, timeout)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to one request (PEP 3333). Raises `Disconnect` if the connection must be broken."""
        headers = ((name[5:].replace("_", "-"), value) for name, value in environ.items() if name[:5] == "HTTP_")
        path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
        request = Request.parse(environ["REQUEST_METHOD"], path, query, headers, self.clock())
        self._request_log.start(request)
        try:
            reply = self._faults.apply(request, lambda: self.respond(request))
            reply_headers = dict(reply.headers)
            if isinstance(reply.body, bytes) and reply.status != HTTPStatus.NO_CONTENT:
                reply_headers.setdefault("Content-Length", str(len(reply.body)))
            start_response(f"{reply.status} {status_phrase(reply.status)}", list(reply_headers.items()))
        except BaseException:
            self._request_log.finish()
            raise
        if isinstance(reply.body, bytes):
            # Finish before sending: a client that has read this response and sends another request must not be counted
            # twice.
            self._request_log.finish()
            return [reply.body]
        return LoggedBody(reply.body, self._request_log)


def build_demo_braze_with_faults(
    clock: Callable[[], float], unknown_event: UnknownEvent = UnknownEvent.ZEROS
) -> FaultInjectingBraze:
    """Return the simulated Braze of the demo: a shop with all kinds of data."""
    return FaultInjectingBraze(
        key=KEY,
        traffic=Traffic(1, ZONE, SHOP_EVENTS),
        series_counts=Traffic(1, ZONE, SHOP_SERIES),
        inventory=SHOP_INVENTORY,
        apps=SHOP_APPS.values(),
        segments=SHOP_SEGMENTS.values(),
        clock=clock,
        zone=ZONE,
        unknown_event=unknown_event,
    )
