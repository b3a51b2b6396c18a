"""The commands that serve until a signal comes."""

import argparse
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping

from braze_exporter import __version__, demo, logs, server
from braze_exporter.cli.outcome import GOOD, fail
from braze_exporter.cli.surroundings import proxies, refuse_shared_state_file, session
from braze_exporter.config import Config, load, read
from braze_exporter.config.values import is_loopback
from braze_exporter.exporter import Exporter
from braze_exporter.ledger import Store, StoreError, open_store
from braze_exporter.plan import build
from braze_exporter.reloading import Reloader
from braze_exporter.status import StatusPage
from braze_exporter.web import Web

_log = logging.getLogger(__name__)


def serve(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve the metrics of a config until a signal comes."""
    if hasattr(signal, "SIGHUP"):  # one that comes before there is something to reload waits for that
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    logs.configure(options.log_level, options.log_format)
    config = read(options.config_file, environ)
    build(config)  # what is wrong with it is said before the state file is waited for
    web = Web(options.web_config_file, time.monotonic) if options.web_config_file else None
    refuse_shared_state_file(config, options.web_config_file, environ)
    path = config.settings.state_file
    try:
        store = open_store(path) if path is not None else None
    except StoreError as error:
        raise config.error([(("state_file",), str(error))]) from None
    with contextlib.closing(store) if store is not None else contextlib.nullcontext():
        try:
            listener = server.listen(options.web_address)
        except OSError as error:
            return fail(_cannot_listen("--web.listen-address", options.web_address, error))
        return _run(
            config,
            listener,
            store,
            environ,
            read_again=lambda: read(options.config_file, environ),
            by_request=options.enable_lifecycle,
            web=web,
        )


def show(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve a simulated Braze and its metrics until a signal comes."""
    logs.configure(options.log_level, options.log_format)
    host, port = server.split_address(options.braze_address)
    if not is_loopback(host):
        return fail(f"--braze.listen-address {options.braze_address}: only loopback, such as 127.0.0.1:0")
    try:
        listener = server.listen(options.web_address)
    except OSError as error:
        return fail(_cannot_listen("--web.listen-address", options.web_address, error))
    try:
        running = demo.serve(demo.shop(time.time), host, port)
    except OSError as error:
        listener.close()
        return fail(_cannot_listen("--braze.listen-address", options.braze_address, error))
    with running:
        config = load(demo.config(running.url), "demo", {demo.KEY_VARIABLE: demo.KEY})
        print(_welcome(running.url, options.web_address), flush=True)
        return _run(config, listener, None, environ)


def _cannot_listen(flag: str, address: str, error: OSError) -> str:
    # asyncio and the resolver put more into `strerror`, and the resolver has numbers of its own.
    reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
    return f"cannot listen on {address} ({reason}): choose another address by {flag}"


def _run(
    config: Config,
    listener: socket.socket,
    store: Store | None,
    environ: Mapping[str, str],
    *,
    read_again: Callable[[], Config] | None = None,
    by_request: bool = False,
    web: Web | None = None,
) -> int:
    """Serve the metrics of `config` on `listener`, to whom `web` lets in, until a signal comes.

    SIGHUP has the config read by `read_again`, and so does a request if that may be.
    """
    exporter = Exporter(store, wall=time.time, monotonic=time.monotonic, proxies=proxies)
    reloader = Reloader(exporter, config, read_again or (lambda: config), lambda found: session(found, environ))
    host, port = listener.getsockname()[:2]
    fields = {"version": __version__, "address": f"{host}:{port}", "queries": len(exporter.plan.queries)}
    _log.info("serving", extra={"fields": fields})
    if read_again is not None and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: reloader.reload())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    application = server.Application(
        exporter, front=StatusPage(exporter.status), reload=reloader.reload if by_request else None, web=web
    )
    with contextlib.closing(web) if web is not None else contextlib.nullcontext():
        server.serve(application, listener, on_stop=exporter.close)
    _log.info("stopped")
    return GOOD


def _welcome(braze_url: str, address: str) -> str:
    host, port = server.split_address(address)
    target = f"{host or 'localhost'}:{port}"
    return f"""\
A simulated Braze, and the exporter that watches it. Ctrl-C ends both.

Simulated Braze:  {braze_url}
Its REST API key: {demo.KEY}

Open              http://{target}
Its metrics       http://{target}/metrics

To see it in Prometheus, put this into prometheus.yml:

scrape_configs:
  - job_name: braze
    scrape_interval: 15s
    static_configs:
      - targets: ["{target}"]

and query, for instance:

braze_custom_events_hourly_settled                the newest settled hour of every event
increase(braze_custom_events_total[10m])          what Braze has reported in ten minutes
"""
