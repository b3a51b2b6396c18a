"""The parts of one running exporter, put together."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future

import requests

from braze_exporter import __version__
from braze_exporter.cache import Cache, Reading
from braze_exporter.catalog import Call, Fetched, Query
from braze_exporter.client import Client
from braze_exporter.collector import Collector, Instruments
from braze_exporter.config import Config
from braze_exporter.journal import Journal
from braze_exporter.ledger import Ledger, Store
from braze_exporter.limiter import Limiter
from braze_exporter.plan import Plan, history, length
from braze_exporter.transport import USUAL_TIMEOUTS, Timeouts, Transport


class Exporter:
    """What the server serves: the metrics of a plan, fetched when they are asked for."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        session: requests.Session,
        store: Store | None = None,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        proxies: Callable[[str], Mapping[str, str]] = lambda _url: {},
        timeouts: Timeouts = USUAL_TIMEOUTS,
    ) -> None:
        """Ask Braze for the queries of `plan` over `session`, with the keys of `config`; the counters live in `store`.

        `wall` tells seconds since the epoch, `monotonic` seconds that never jump. `proxies` tells which proxies lead to
        a URL, by scheme.
        """
        self._wall = wall
        self._started_at = wall()
        self._journal = Journal()
        self._instruments = Instruments(plan.queries, __version__)
        self._ledger = Ledger(store, self._instruments.count_state_write_failure)
        pools = {query.kind.pool for query in plan.queries}
        self._clients = {
            workspace.spec.name: Client(
                Transport(
                    session,
                    workspace.spec.rest_endpoint,
                    config.keys[workspace.spec.name].reveal,
                    proxies=proxies(workspace.spec.rest_endpoint),
                    monotonic=monotonic,
                    timeouts=timeouts,
                ),
                {pool.name: Limiter(pool, monotonic) for pool in pools},
                wall=wall,
                monotonic=monotonic,
                on_call=self._note_call,
            )
            for workspace in config.workspaces
        }
        self._cache = Cache(
            plan.queries,
            self._fetch,
            self._grants,
            config.settings.budget.concurrency,
            wall=wall,
            monotonic=monotonic,
            background=[piece for query in plan.queries for piece in history(query, self._started_at)],
        )
        self._collector = Collector(self._cache, self._ledger, self._instruments, monotonic)
        self._cache.subscribe(self._journal.note)

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

    def _fetch(self, query: Query, before: Reading | None) -> Fetched:
        if query.ending_at is not None:
            return self._clients[query.workspace].fetch(query, query.length)
        last = before.answer if before is not None else None
        told = last is not None and any(series.points for series in last.series)  # an empty answer repairs nothing
        since = last.sent_at if last is not None and told else self._ledger.last_asked(query.counted)
        if since is None and query.weeks:
            since = self._started_at  # up to which the history of the baseline is read
        return self._clients[query.workspace].fetch(query, length(query, since, self._wall()))

    def _grants(self, query: Query) -> bool:
        return self._clients[query.workspace].grants(query)
