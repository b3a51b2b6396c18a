"""The Git commit from which the exporter was built."""

import contextlib
import importlib.metadata
import json
from collections.abc import Mapping


def find_revision(environ: Mapping[str, str]) -> str:
    """Return the Git commit from which the exporter was built, or `unknown`.

    The container image has it in the environment variable `BRAZE_EXPORTER_REVISION`. Without that it is the commit that
    pip recorded when it installed the package from a Git repository (PEP 610).
    """
    revision = environ.get("BRAZE_EXPORTER_REVISION", "")
    if not revision:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError, KeyError, ValueError):
            recorded = importlib.metadata.distribution("braze-exporter").read_text("direct_url.json")
            revision = str(json.loads(recorded or "{}")["vcs_info"]["commit_id"])
    return revision if revision and revision.isprintable() else "unknown"
