"""The command `discover`: prints all that Braze lists as configuration to paste."""

import argparse
from collections.abc import Mapping

from braze_exporter.backfill.context import Surroundings
from braze_exporter.braze.lists import LISTINGS, Listing
from braze_exporter.commands import config_rendering
from braze_exporter.commands.context import open_lister, surroundings
from braze_exporter.commands.exit_codes import FAILED, GOOD
from braze_exporter.config.document import shown
from braze_exporter.config.loading import Config, read
from braze_exporter.scheduler.list_reader import Found


def discover(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print what Braze has; the config may have nothing to ask for yet."""
    config = read(options.config_file, environ, may_ask_nothing=True)
    with surroundings(config, environ, options.on_stop) as around:
        has_found = print_lists(config, around, archived=options.archived)
    return GOOD if has_found else FAILED


_HEAD = """\
# What Braze has, as config to paste: take what you want to watch. What is in the config already, and what cannot be
# asked for, is commented out. By `braze-exporter discover`.
workspaces:"""


def print_lists(config: Config, around: Surroundings, *, archived: bool) -> bool:
    """Print what Braze lists, and of what is `archived` too if that is wanted; return whether anything was listed."""
    found: list[dict[Listing, Found]] = []
    for spec in (workspace.spec for workspace in config.workspaces):
        lister = open_lister(config, spec, around)
        lister.admission.use(LISTINGS)
        read: dict[Listing, Found] = {}
        for listing in LISTINGS:
            read[listing] = lister.read(listing, archived=archived)
            print(f"{shown(spec.name)}: {_outcome(listing, read[listing])}", file=around.err, flush=True)
        refusal = lister.admission.standing().refusal
        if refusal is not None:  # each list alone could not tell a permission from the key
            print(f"{shown(spec.name)}: {refusal.error.detail}", file=around.err, flush=True)
            read = {listing: Found((), failure=refusal.error.detail) for listing in read}
        found.append(read)
    for workspace, read in zip(config.workspaces, found, strict=True):
        count, most = config_rendering.count(workspace, read), config.settings.max_queries
        if count > most:
            text = f"{count:,} entries, more than max_queries, which is {most:,}: take what you watch of them"
            print(f"warning: {shown(workspace.spec.name)}: {text}", file=around.err, flush=True)
    lines = [_HEAD]
    for workspace, read in zip(config.workspaces, found, strict=True):
        lines += config_rendering.fragment(workspace, config.settings, read)
    around.out.write("".join(f"{line}\n" for line in lines))  # at once, so that a signal leaves no part of it
    return any(read.rows or not read.failure for lists in found for read in lists.values())


def _outcome(listing: Listing, read: Found) -> str:
    count = f"{len(read.rows):,} {listing.what[len(read.rows) != 1]}"
    count += f" and {len(read.archived):,} archived" if read.archived else ""
    return f"{count}, and then: {read.failure}" if read.failure else count
