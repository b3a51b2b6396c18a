"""Turn the names that users give to items in Braze into valid and unique label values."""

from collections import Counter
from collections.abc import Mapping


def disambiguate(names: Mapping[str, str]) -> dict[str, str]:
    """Return a unique label for each id in `names`, which maps ids to names.

    The label is the name. If several ids have the same name, it is `NAME (ID)`. Labels are unique even if a name
    already has that form.
    """
    labels = dict(names)
    while duplicates := {label for label, count in Counter(labels.values()).items() if count > 1}:
        labels = {key: f"{label} ({key})" if label in duplicates else label for key, label in labels.items()}
    return labels


def clean_text(value: object) -> str:
    """Return `value` as a valid label value, or an empty string if it is not a string.

    Replaces lone surrogates, which a truncated name may end with.
    """
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else ""
