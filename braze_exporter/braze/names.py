"""Turn the ids and names of items in Braze into valid label values."""

import re
from collections import Counter
from collections.abc import Mapping

# Not all ids in recorded responses are RFC 4122 UUIDs, so any id of that form is valid.
BRAZE_ID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", re.ASCII)
_HEX_ID = re.compile(r"[0-9A-Fa-f-]+")


def clean_text(value: object) -> str:
    """Return `value` as a valid label value, or an empty string if it is not a string.

    Replaces lone surrogates, which a truncated name may end with.
    """
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def disambiguate(names: Mapping[str, str]) -> dict[str, str]:
    """Return a unique label for each id in `names`, which maps ids to names.

    The label is the name. If several ids have the same name, it is `NAME (ID)`. Labels are unique even if a name
    already has that form.
    """
    labels = dict(names)
    while duplicates := {label for label, count in Counter(labels.values()).items() if count > 1}:
        labels = {key: f"{label} ({key})" if label in duplicates else label for key, label in labels.items()}
    return labels


def normalize_id(value: str) -> str:
    """Return an id in lower case if it has only hex digits and dashes. Other ids are returned as they are.

    Braze's ids are UUIDs, whose letter case has no meaning.
    """
    return value.lower() if _HEX_ID.fullmatch(value) else value
