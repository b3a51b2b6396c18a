"""Test how much memory a config takes while it is loaded, and afterwards."""

import gc
import tracemalloc

from support import KEY, workspace_yaml

from braze_exporter.config.loading import load_config


def test_config_takes_little_memory_per_entry() -> None:
    """An entry takes at most 6 kB while the config is loaded, and at most 3 kB afterwards."""
    count = 100
    entries = (f"{{event: event {number}, baseline: {{weeks: 4}}, alerts: {{silent: 2h}}}}" for number in range(count))
    text = workspace_yaml("https://rest.iad-01.braze.com", "\n".join(entries))
    load_config(text, "x.yaml", {"BRAZE_API_KEY": KEY})  # fills caches
    gc.collect()
    tracemalloc.start()
    try:
        config = load_config(text, "x.yaml", {"BRAZE_API_KEY": KEY})
        _, peak = tracemalloc.get_traced_memory()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(config.workspaces[0].entries) == count
    assert peak / count < 6_000
    assert kept / count < 3_000
