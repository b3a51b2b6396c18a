"""The command `schema`: prints the JSON Schema of the config."""

import argparse
import json
from collections.abc import Mapping

from braze_exporter.commands.exit_codes import SUCCESS
from braze_exporter.config import json_schema


def run(_options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Print the JSON Schema of the config."""
    print(json.dumps(json_schema.build_schema(), indent=2))
    return SUCCESS
