"""The command `demo`: serves a simulated Braze and its metrics until SIGTERM or SIGINT."""

import argparse
import time
from collections.abc import Mapping

from braze_exporter.commands import logs
from braze_exporter.commands.arguments import DEFAULT_TIMEOUT_OFFSET_SECONDS
from braze_exporter.commands.exit_codes import fail
from braze_exporter.commands.serve import run_exporter
from braze_exporter.config.loading import load_config
from braze_exporter.config.values import is_loopback
from braze_exporter.simulator import demo_config
from braze_exporter.simulator.demo_config import KEY, KEY_VARIABLE
from braze_exporter.simulator.server import start_server
from braze_exporter.web import listening


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve a simulated Braze and its metrics until SIGTERM or SIGINT, and return the exit code."""
    logs.configure_logging(options.log_level, options.log_format)
    host, port = listening.split_address(options.braze_address)
    if not is_loopback(host):
        text = f"--braze.listen-address={options.braze_address} is not a loopback address; set one, such as 127.0.0.1:0"
        return fail(text)
    try:
        listeners = listening.listen(options.web_addresses)
    except listening.ListenError as error:
        return fail(f"{error}; choose another address with --web.listen-address")
    try:
        url = start_server(demo_config.build_demo_braze(time.time), host, port)
    except OSError as error:
        for listener in listeners:
            listener.close()
        problem = listening.ListenError(options.braze_address, error)
        return fail(f"{problem}; choose another address with --braze.listen-address")
    config = load_config(demo_config.build_config(url), "demo", {KEY_VARIABLE: KEY})
    print(_welcome_text(url, options.web_addresses[0], listeners[0].getsockname()[1]), flush=True)
    return run_exporter(config, listeners, None, environ, timeout_offset_seconds=DEFAULT_TIMEOUT_OFFSET_SECONDS)


def _welcome_text(braze_url: str, address: str, port: int) -> str:
    """Return the text that tells the user how to reach the exporter, which listens on `port` of `address`."""
    host = address.rpartition(":")[0]
    target = f"{'localhost' if host in {'', '[::]'} else host}:{port}"
    return f"""\
Serving a simulated Braze and its metrics. Press Ctrl-C to stop.

Simulated Braze: {braze_url}
REST API key:    {KEY}

Status page:     http://{target}
Metrics:         http://{target}/metrics

To scrape the metrics with Prometheus, add this to prometheus.yml:

scrape_configs:
  - job_name: braze
    scrape_interval: 15s
    static_configs:
      - targets: ["{target}"]

Example queries:

braze_custom_events_hourly_settled                Newest settled hour of each event
increase(braze_custom_events_total[10m])          Occurrences that Braze reported in the last ten minutes
"""
