"""The parts of one running exporter, put together, and changed under way when a config is reloaded."""

import random
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

import requests

from braze_exporter import __version__
from braze_exporter.admission import Admission
from braze_exporter.cache import Cache
from braze_exporter.catalog import BrazeError, Call, Fetched, Query, Withheld
from braze_exporter.client import Client
from braze_exporter.collector import Collector, Instruments
from braze_exporter.config import Config
from braze_exporter.journal import Journal
from braze_exporter.ledger import Ledger, Store
from braze_exporter.plan import Plan, history, length
from braze_exporter.reading import Entry
from braze_exporter.transport import USUAL_TIMEOUTS, Timeouts, Transport


def _usual_jitter() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - a moment, not a secret


class _Braze:
    """Asks Braze for the cache: each query by the client of its workspace."""

    def __init__(self, ledger: Ledger, wall: Callable[[], float]) -> None:
        self.clients: Mapping[str, Client] = {}
        self._ledger = ledger
        self._wall = wall

    def fetch(self, entry: Entry) -> Fetched:
        """Ask for the buckets that are new or may have changed since the last answer that told of any."""
        query = entry.query
        client = self.clients.get(query.workspace)
        if client is None:  # it has just gone out of the config
            raise Withheld(query.workspace)
        if query.ending_at is not None:
            return client.fetch(query, query.length)
        last = entry.answer
        told = last is not None and any(series.points for series in last.series)  # an empty answer repairs nothing
        since = last.sent_at if last is not None and told else self._ledger.last_asked(query.counted)
        if since is None and query.weeks:
            since = entry.planned_at  # up to which the history of the baseline is read
        return client.fetch(query, length(query, since, self._wall()))

    def objection(self, query: Query) -> Withheld | None:
        """Return why the query would not be asked now, or None if it would."""
        return self.clients[query.workspace].admission.objection(query.kind)

    def refusal(self, query: Query) -> BrazeError | None:
        """Return the error that holds all queries of that sort, if one does."""
        return self.clients[query.workspace].admission.refusal(query.kind)

    def history(self, query: Query, now: float) -> Iterable[Query]:
        """Return what the baseline of the query needs."""
        return history(query, now)


class Exporter:
    """What the server serves: the metrics of a plan, fetched when they are asked for."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        proxies: Callable[[str], Mapping[str, str]] = lambda _url: {},
        jitter: Callable[[], float] = _usual_jitter,
        timeouts: Timeouts = USUAL_TIMEOUTS,
    ) -> None:
        """Begin without a plan; the counters live in `store`.

        `wall` tells seconds since the epoch, `monotonic` seconds that never jump. `proxies` tells which proxies lead to
        a URL, by scheme; `jitter` tells a factor for the waiting after failures.
        """
        self._wall = wall
        self._monotonic = monotonic
        self._proxies = proxies
        self._timeouts = timeouts
        self._journal = Journal()
        self._instruments = Instruments(__version__)
        self._ledger = Ledger(store, self._instruments.count_state_write_failure)
        self._braze = _Braze(self._ledger, wall)
        self._admissions: Mapping[tuple[str, str], Admission] = {}
        self._cache = Cache(
            self._braze, wall=wall, monotonic=monotonic, jitter=jitter, on_deferred=self._instruments.count_deferred
        )
        self._collector = Collector(self._cache, self._ledger, self._instruments, monotonic)
        self._cache.watch(self._journal)

    def use(self, config: Config, plan: Plan, session: requests.Session) -> None:
        """Ask Braze for the queries of `plan` from now on, over `session`, with the keys of `config`.

        What is held of queries that stay, what is known of the budgets, and all counters go on. Fetches that are under
        way end as they began.
        """
        budget = config.settings.budget
        admissions: dict[tuple[str, str], Admission] = {}
        clients: dict[str, Client] = {}
        for spec in (workspace.spec for workspace in config.workspaces):
            place = (spec.name, spec.rest_endpoint)
            admissions[place] = self._admissions.get(place) or Admission(self._monotonic)
            bursts = {load.pool: load.burst for load in plan.loads if load.workspace == spec.name}
            admissions[place].allow(bursts, share=budget.share, reserve=budget.reserve)
            transport = Transport(
                session,
                spec.rest_endpoint,
                config.keys[spec.name].reveal,
                proxies=self._proxies(spec.rest_endpoint),
                monotonic=self._monotonic,
                timeouts=self._timeouts,
            )
            clients[spec.name] = Client(
                transport,
                admissions[place],
                wall=self._wall,
                monotonic=self._monotonic,
                on_call=self._note_call,
            )
        self._instruments.expect(plan.queries)
        self._admissions = admissions
        self._braze.clients = {**self._braze.clients, **clients}
        self._cache.plan(plan.queries, budget.concurrency)
        self._braze.clients = clients
        self._instruments.note_reload(at=self._wall())

    def note_failed_reload(self) -> None:
        """Take note that a config was to be used and could not be."""
        self._instruments.note_reload(at=None)

    def refresh(self) -> Future[None]:
        """Have every due query fetched; the future is done when nothing is left to wait for."""
        return self._cache.refresh()

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the page of metrics, in the text format 0.0.4 or in OpenMetrics 1.0.0."""
        return self._collector.render(openmetrics=openmetrics)

    def count_incomplete_scrape(self) -> None:
        """Count a scrape whose deadline came before the answer to every due query."""
        self._instruments.count_incomplete_scrape()

    def close(self) -> None:
        """Fetch no more, and let those who wait go."""
        self._cache.close()

    def _note_call(self, call: Call) -> None:
        self._instruments.count_call(call)
        self._journal.note_call(call)
