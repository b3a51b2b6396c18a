"""A simulated Braze whose replies tests can break, and whose requests they can look at."""

from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIEnvironment
from zoneinfo import ZoneInfo

from fault_injection import Aim, Fault, Troubles
from request_log import Body, Logbook

from braze_exporter.braze.pools import DEFAULT_POOL
from braze_exporter.simulator.application import SimulatedBraze, UnknownEvent
from braze_exporter.simulator.demo_config import KEY, ZONE
from braze_exporter.simulator.inventory import NOTHING, World
from braze_exporter.simulator.reply import phrase
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.times import DayFormat, HourFormat
from braze_exporter.simulator.traffic import DEMO, Counts


class FaultInjectingBraze(SimulatedBraze):
    """A simulated Braze with fault injection and a log of its requests."""

    def __init__(
        self,
        *,
        key: str,
        traffic: Counts,
        clock: Callable[[], float],
        zone: ZoneInfo,
        apps: Collection[str] = (),
        segments: Collection[str] = (),
        world: World = NOTHING,
        figures: Counts | None = None,
        permissions: Collection[str] | None = None,
        limit: int = DEFAULT_POOL.limit,
        hour_format: HourFormat = HourFormat.OFFSET,
        day_format: DayFormat = DayFormat.DATE,
        unknown_event: UnknownEvent = UnknownEvent.ZEROS,
        newest_first: bool = False,
    ) -> None:
        """Simulate a workspace as `SimulatedBraze` does, without faults and with an empty log."""
        super().__init__(
            key=key,
            traffic=traffic,
            clock=clock,
            zone=zone,
            apps=apps,
            segments=segments,
            world=world,
            figures=figures,
            permissions=permissions,
            limit=limit,
            hour_format=hour_format,
            day_format=day_format,
            unknown_event=unknown_event,
            newest_first=newest_first,
        )
        self._logbook = Logbook()
        self._troubles = Troubles()

    def fail(
        self, fault: Fault, *, event: str | None = None, path: str | None = None, times: int | None = None
    ) -> None:
        """Let a fault strike the requests for `event` or at `path` (default: all), so many `times` (until `heal`).

        An event's own faults come before those of its path, and these before those of all requests. Of each, those for
        a number of times come first, in the order given; then the lasting one, which a newer lasting one replaces.
        """
        self._troubles.fail(fault, Aim(event, path), times)

    def heal(self, event: str | None = None, path: str | None = None) -> None:
        """Take back the faults of an event or a path, or all; what `faults.hold` holds for them is answered now."""
        self._troubles.heal(Aim(event, path))

    def close(self) -> None:
        """Break off the answers that are waiting; later requests are answered as ever."""
        self._troubles.close()

    @property
    def requests(self) -> list[Request]:
        """The requests so far, of all statuses, oldest first (the last 50,000)."""
        return self._logbook.requests

    @property
    def concurrency_peak(self) -> int:
        """The most requests that were being answered at once."""
        return self._logbook.peak

    def reset(self) -> None:
        """Forget the requests so far and their concurrency. Faults and the rate limit stay as they are."""
        self._logbook.reset()

    def wait_for(self, count: int, timeout: float = 5.0) -> None:
        """Return as soon as there are `count` requests since the last reset; TimeoutError after `timeout` seconds."""
        self._logbook.wait_for(count, timeout)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333); `Disconnect` where the connection is to be broken."""
        request = Request.read(environ, self.clock())
        self._logbook.enter(request)
        try:
            reply = self._troubles.strike(request, lambda: self._answer(request))
            headers = dict(reply.headers)
            if isinstance(reply.body, bytes) and reply.status != HTTPStatus.NO_CONTENT:
                headers.setdefault("Content-Length", str(len(reply.body)))
            start_response(f"{reply.status} {phrase(reply.status)}", list(headers.items()))
        except BaseException:
            self._logbook.leave()
            raise
        if isinstance(reply.body, bytes):
            # Left before it is sent: who has read this answer and asks anew must not be counted twice.
            self._logbook.leave()
            return [reply.body]
        return Body(reply.body, self._logbook)


def shop(clock: Callable[[], float], unknown_event: UnknownEvent = UnknownEvent.ZEROS) -> FaultInjectingBraze:
    """Return the simulated Braze of the demo: a shop, with all that Braze tells of it."""
    return FaultInjectingBraze(
        key=KEY,
        traffic=DEMO.traffic(seed=1, zone=ZONE),
        figures=DEMO.told(seed=1, zone=ZONE),
        world=DEMO.world,
        apps=DEMO.apps.values(),
        segments=DEMO.segments.values(),
        clock=clock,
        zone=ZONE,
        unknown_event=unknown_event,
    )
