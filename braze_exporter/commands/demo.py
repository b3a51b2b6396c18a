"""The command `demo`: serves a simulated Braze and its metrics until SIGTERM or SIGINT."""

import argparse
import time
from collections.abc import Mapping

from braze_exporter.commands import logs
from braze_exporter.commands.exit_codes import fail
from braze_exporter.commands.serve import listen_error, run_exporter
from braze_exporter.config.loading import load_config
from braze_exporter.config.values import is_loopback
from braze_exporter.simulator import demo_config
from braze_exporter.simulator import server as simulator_server
from braze_exporter.simulator.demo_config import KEY, KEY_VARIABLE
from braze_exporter.web import server


def serve_demo(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve a simulated Braze and its metrics until SIGTERM or SIGINT, and return the exit code."""
    logs.configure_logging(options.log_level, options.log_format)
    host, port = server.split_address(options.braze_address)
    if not is_loopback(host):
        return fail(f"--braze.listen-address {options.braze_address}: only loopback, such as 127.0.0.1:0")
    try:
        listener = server.listen(options.web_address)
    except OSError as error:
        return fail(listen_error("--web.listen-address", options.web_address, error))
    try:
        running = simulator_server.serve(demo_config.build_shop(time.time), host, port)
    except OSError as error:
        listener.close()
        return fail(listen_error("--braze.listen-address", options.braze_address, error))
    with running:
        config = load_config(demo_config.build_config(running.url), "demo", {KEY_VARIABLE: KEY})
        print(_welcome(running.url, options.web_address), flush=True)
        return run_exporter(config, listener, None, environ)


def _welcome(braze_url: str, address: str) -> str:
    host, port = server.split_address(address)
    target = f"{host or 'localhost'}:{port}"
    return f"""\
A simulated Braze, and the exporter that watches it. Ctrl-C ends both.

Simulated Braze:  {braze_url}
Its REST API key: {KEY}

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
