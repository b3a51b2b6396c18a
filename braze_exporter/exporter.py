"""Wires one running exporter, and reloads its configuration."""

import contextlib
import logging
import math
import queue
import random
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from zoneinfo import ZoneInfo

import requests

from braze_exporter import __version__
from braze_exporter.braze.calls import Call, Fetched, Permit
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.kinds import UTC
from braze_exporter.braze.lists import Listing
from braze_exporter.braze.pools import LISTS_POOL, Endpoint
from braze_exporter.braze.query import Query
from braze_exporter.braze.transport import USUAL_TIMEOUTS, Timeouts
from braze_exporter.config.document import ConfigError
from braze_exporter.config.loading import Config
from braze_exporter.config.schema import Workspace
from braze_exporter.config.secrets import ApiKey
from braze_exporter.metrics.collector import Collector
from braze_exporter.metrics.counters import Ledger
from braze_exporter.metrics.rows import View
from braze_exporter.metrics.self_metrics import Instruments
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.clients import open_client
from braze_exporter.scheduler.errors import Withheld
from braze_exporter.scheduler.fetch_log import Journal
from braze_exporter.scheduler.list_refresh import Discovery, ListState, Place, Wanted
from braze_exporter.scheduler.plan import Load, Plan, build, history, length
from braze_exporter.scheduler.polling import Cache
from braze_exporter.scheduler.query_state import Entry
from braze_exporter.scheduler.selectors import filled, needed
from braze_exporter.state import Store


@dataclass(frozen=True, slots=True)
class InUse:
    """A workspace of the config in use: what its calls may cost, who admits them, and the plan that it is part of."""

    url: str
    zone: ZoneInfo
    share: float
    reserve: float
    loads: tuple[Load, ...]
    admission: Admission
    plan: Plan


# So many pages of a list may be read at once, beside a refresh of the plan.
_PAGES = 100


def _usual_jitter() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - a moment, not a secret


@dataclass(frozen=True, slots=True)
class _Workspace:
    """A workspace, who asks for it, and who says when."""

    spec: Workspace
    client: Client
    admission: Admission

    def admit(self, at: Endpoint) -> Permit | Withheld | None:
        """Return leave to ask for a page of a list. Queries go first, but in the pool that is the lists' own."""
        return self.admission.admit(at, spare=at.pool is not LISTS_POOL)

    def is_sought(self, at: Endpoint) -> bool:
        """Return whether a call is wanted for what it will show of the key, though nothing is due."""
        return self.admission.is_sought(at)

    @property
    def is_key_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key."""
        return self.admission.is_key_accepted


class _Braze:
    """Asks Braze for the cache, as one config has it: each query for its workspace."""

    def __init__(self, workspaces: Mapping[str, _Workspace], ledger: Ledger, wall: Callable[[], float]) -> None:
        self._workspaces = workspaces
        self._ledger = ledger
        self._wall = wall

    def admit(self, query: Query) -> Permit | Withheld | None:
        """Return leave to ask, or why not now, or None while another query is asked alone."""
        workspace = self._workspaces.get(query.workspace)  # it may just have gone out of the config
        return workspace.admission.admit(query.kind) if workspace is not None else Withheld(query.workspace)

    def fetch(self, entry: Entry, permit: Permit) -> Fetched:
        """Ask for the buckets that are new or may have changed since the last answer that told of any."""
        self._ledger.save_many()  # of the answers before, where nobody waits for a lock
        query = entry.query
        client = self._workspaces[query.workspace].client
        if query.ending_at is not None:
            return client.fetch(query, query.length, permit)
        done_at, now = entry.repair.done_at, self._wall()
        since = done_at if done_at is not None else self._ledger.last_asked(query.counted)
        if since is None and query.weeks:
            since = entry.planned_at  # up to which the history of the baseline is read
        request = entry.repair.next_request(query, length(query, since, now), now)
        return client.fetch(replace(query, ending_at=request.ending_at), request.length, permit)

    def objection(self, query: Query) -> Withheld | None:
        """Return why the query would not be asked now, or None if it would."""
        return self._workspaces[query.workspace].admission.objection(query.kind)

    def refusal(self, query: Query) -> BrazeError | None:
        """Return the error that holds all queries of that sort, if one does."""
        return self._workspaces[query.workspace].admission.refusal(query.kind)

    def is_sought(self, query: Query) -> bool:
        """Return whether one query of that sort is to be asked to see how the key stands, though none is due."""
        return self._workspaces[query.workspace].admission.is_sought(query.kind)

    def history(self, query: Query, now: float) -> Iterable[Query]:
        """Return what the baseline of the query needs."""
        return history(query, now)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an exporter at one moment.

    `now` and `scraped_at` are in seconds since the epoch, `monotonic` is on the clock that never jumps. `in_use`,
    `lists` and `history_left` are by the name of the workspace.
    """

    now: float
    monotonic: float
    version: str
    scraped_at: float | None
    in_use: Mapping[str, InUse]
    views: Sequence[View]
    instruments: Instruments
    lists: Mapping[str, Sequence[ListState]]
    history_left: Mapping[str, int]
    counters_stand_still: bool


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
        reads_lists: bool = True,
    ) -> None:
        """Begin without a plan; the counters live in `store`.

        `wall` tells seconds since the epoch, `monotonic` seconds that never jump. `proxies` tells which proxies lead to
        a URL, by scheme; `jitter` tells a factor for the waiting after failures. `plan` is the one in use, with what
        wildcards take of Braze's lists, if it `reads_lists`.
        """
        self._wall = wall
        self._monotonic = monotonic
        self._proxies = proxies
        self._timeouts = timeouts
        self._journal = Journal()
        self._instruments = Instruments(__version__)
        self._ledger = Ledger(store, self._instruments.count_state_write_failure)
        # Those of workspaces that went are kept: what was spent is spent, should they come back.
        self._admissions: dict[Place, Admission] = {}
        self._keys: dict[Place, ApiKey] = {}
        self._cache = Cache(wall=wall, monotonic=monotonic, jitter=jitter, on_deferred=self._instruments.count_deferred)
        self._collector = Collector(self._cache, self._ledger, self._instruments, monotonic)
        self._cache.watch(self._journal)
        self._reads_lists = reads_lists
        self._discovery = Discovery(
            wall=wall,
            monotonic=monotonic,
            jitter=jitter,
            on_end=self._take_lists,
            on_deferred=self._instruments.count_deferred,
        )
        self._changing = threading.Lock()
        self._lists: Mapping[str, Sequence[Listing]] = {}
        self.plan = Plan((), ())
        self._in_use: Mapping[str, InUse] = {}
        self._scraped_at: float | None = None

    def use(self, config: Config, plan: Plan, session: requests.Session) -> None:
        """Ask Braze for the queries of `plan` from now on, over `session`, with the keys of `config`.

        What is held of queries that stay, what is known of the budgets, and all counters go on. Fetches that are under
        way end as they began. What wildcards take is added once Braze's lists are known.
        """
        with self._changing:
            workspaces: dict[str, _Workspace] = {}
            same_keys: set[str] = set()
            for spec in (workspace.spec for workspace in config.workspaces):
                place, secret = Place(spec.name, spec.rest_endpoint), config.keys[spec.name]
                key = self._keys.setdefault(place, ApiKey(spec.name, secret, spec.api_key_file))
                if not key.replace(secret, spec.api_key_file):
                    same_keys.add(spec.name)
                client = open_client(
                    spec,
                    key,
                    session,
                    proxies=self._proxies,
                    wall=self._wall,
                    monotonic=self._monotonic,
                    on_call=self._note_call,
                    timeouts=self._timeouts,
                )
                read_key = partial(self._read_key, place)
                admission = self._admissions.setdefault(place, Admission(self._monotonic, read_key))
                workspaces[spec.name] = _Workspace(spec, client, admission)
            self._config, self._written, self._workspaces = config, plan, workspaces
            self._lists = needed(plan) if self._reads_lists else {}
            self._discovery.use(
                {
                    Place(name, asked.spec.rest_endpoint): Wanted(
                        self._lists[name], asked.client, asked, is_same_key=name in same_keys
                    )
                    for name, asked in workspaces.items()
                    if name in self._lists
                }
            )
            self._instruments.forget_timezones()
            self._fill(self._filled(), same_keys)
            self._instruments.note_reload(at=self._wall())

    def _read_key(self, place: Place) -> bool:
        """Read the key of a place again; return whether it is another one now, of which nothing is known."""
        if not self._keys[place].read_again():
            return False
        self._discovery.try_again(place)
        return True

    def _take_lists(self) -> None:
        """Ask for what wildcards take of the lists as they are now, and hold what Braze has refused a list."""
        with self._changing:
            plan = self._filled()
            self._note_lists(plan)
            if plan != self.plan:
                self._fill(plan, self._workspaces)
            self._cache.note_refusals()

    def _filled(self) -> Plan:
        """Return the plan as it is written, with what its wildcards take."""
        served = {query.identity for query in self.plan.queries}
        known, awaited = self._discovery.known(), self._discovery.awaited()
        return filled(self._written, self._config.settings, known, served, awaited)

    def _fill(self, plan: Plan, same_keys: Container[str]) -> None:
        """Ask for the queries of `plan` from now on; `same_keys` names the workspaces whose key is the one before."""
        workspaces, budget = self._workspaces, self._config.settings.budget
        endpoints: dict[str, dict[str, Endpoint]] = {name: {} for name in workspaces}
        for query in plan.queries:
            endpoints[query.workspace][query.kind.endpoint] = query.kind
        for name, asked in workspaces.items():
            bursts = {load.pool: load.burst for load in plan.loads if load.workspace == name}
            for listing in self._lists.get(name, ()):
                burst, most = bursts.get(listing.pool, 0), max(1, math.floor(listing.pool.per_hour * budget.share))
                bursts[listing.pool] = max(burst, min(burst + _PAGES, most))
            asked.admission.allow(bursts, share=budget.share, reserve=budget.reserve)
            in_use = (*endpoints[name].values(), *self._lists.get(name, ()))
            asked.admission.use(in_use, is_same_key=name in same_keys)
        self._instruments.expect(plan, self._lists)
        self._note_lists(plan)
        self._journal.note_lists(plan)
        self._cache.plan(plan.queries, _Braze(workspaces, self._ledger, self._wall), budget.concurrency)
        self._in_use = {
            name: InUse(
                url=asked.spec.rest_endpoint,
                zone=asked.spec.timezone or UTC,
                share=budget.share,
                reserve=budget.reserve,
                loads=tuple(load for load in plan.loads if load.workspace == name),
                admission=asked.admission,
                plan=plan,
            )
            for name, asked in workspaces.items()
        }
        self.plan = plan

    def _note_lists(self, plan: Plan) -> None:
        states = self._discovery.states()
        read = {(name, one.listing): one.read_at for name, found in states.items() for one in found}
        self._instruments.note_lists(plan, read)

    def note_failed_reload(self) -> None:
        """Take note that a config was to be used and could not be."""
        self._instruments.note_reload(at=None)

    def refresh(self) -> Future[None]:
        """Have every due query fetched; the future is done when nothing is left to wait for.

        After that the lists are read that are due: queries go first, and a key that is refused is not tried twice.
        """
        self._scraped_at = self._wall()
        asked = self._cache.refresh()
        asked.add_done_callback(lambda _asked: self._discovery.refresh())
        return asked

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the page of metrics, in the text format 0.0.4 or in OpenMetrics 1.0.0."""
        return self._collector.render(openmetrics=openmetrics)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The queries of the plan, with what is held of them."""
        return self._cache.entries

    def snapshot(self) -> Snapshot:
        """Return the state of the exporter, as the metrics show it, without a request to Braze."""
        in_use = self._in_use
        return Snapshot(
            now=self._wall(),
            monotonic=self._monotonic(),
            version=__version__,
            scraped_at=self._scraped_at,
            in_use=in_use,
            views=self._collector.views(),
            instruments=self._instruments,
            lists=self._discovery.states(),
            history_left=self._cache.history_left(),
            counters_stand_still=self._ledger.is_standing_still,
        )

    def count_incomplete_scrape(self) -> None:
        """Count a scrape whose deadline came before the answer to every due query."""
        self._instruments.count_incomplete_scrape()

    def close(self) -> None:
        """Fetch no more, and let those who wait go."""
        self._cache.close()
        self._ledger.close()
        self._discovery.close()

    def _note_call(self, call: Call) -> None:
        self._instruments.count_call(call)
        self._journal.note_call(call)


# So many problems are logged, a line each. The rest is shown by `check`.
_MOST_LOGGED = 10

_log = logging.getLogger(__name__)


class Reloader:
    """Has an exporter use what is read, now and whenever that is asked for. Thread-safe, and safe in signal handlers.

    A thread of its own reads, so that a disk that stands still holds up neither scrapes nor the end.
    """

    def __init__(
        self,
        exporter: Exporter,
        config: Config,
        read: Callable[[], Config],
        open_session: Callable[[Config], requests.Session],
    ) -> None:
        """Use `config`, and what `read` returns whenever it is to be read again, over what `open_session` opens.

        Raises `ConfigError` if `config` cannot be used, as the two may.
        """
        self._exporter = exporter
        self._read = read
        self._open_session = open_session
        self._asked: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self.config, plan = config, build(config)
        self._session = open_session(config)
        exporter.use(config, plan, self._session)
        threading.Thread(target=self._work, name="reload", daemon=True).start()

    def reload(self) -> Future[None]:
        """Have the config read again and used; return what is done then, or has the `ConfigError` if it cannot be."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # so that one who stops waiting cannot cancel it
        self._asked.put(future)
        return future

    def _work(self) -> None:
        while True:
            asked = [self._asked.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    asked.append(self._asked.get_nowait())
            try:
                self._reload()
            except Exception as error:  # noqa: BLE001 - told to who asked
                for future in asked:
                    future.set_exception(error)
            else:
                for future in asked:
                    future.set_result(None)

    def _reload(self) -> None:
        try:
            config = self._read()
            plan = build(config)
            self._refuse_another_state_file(config)
            session = self._open_session(config)
        except ConfigError as error:
            self._exporter.note_failed_reload()
            fields = {"file": error.source, "problems": len(error.problems)}
            _log.error("the config cannot be used: the one before goes on", extra={"fields": fields})
            for problem in error.problems[:_MOST_LOGGED]:
                _log.error("problem of the config", extra={"fields": {"problem": problem.render(error.source)}})
            raise
        except Exception:
            self._exporter.note_failed_reload()
            _log.exception("the config cannot be used by a fault of the exporter: the one before goes on")
            raise
        replaced = self._exporter.plan
        self._exporter.use(config, plan, session)
        before, now = ({query.identity for query in found.queries} for found in (replaced, self._exporter.plan))
        self._session.close()
        self.config, self._session = config, session
        fields = {"queries": len(now), "added": len(now - before), "removed": len(before - now)}
        _log.info("config reloaded", extra={"fields": fields})

    def _refuse_another_state_file(self, config: Config) -> None:
        if config.settings.state_file != self.config.settings.state_file:
            text = "cannot change while the exporter runs: restart it, or put the old value back"
            raise config.error([(("state_file",), text)])
