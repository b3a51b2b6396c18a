"""Names that people give, as labels: what Braze knows by an identifier is told apart whatever it is called."""

from collections import Counter
from collections.abc import Mapping


def disambiguate(names: Mapping[str, str]) -> dict[str, str]:
    """Return a label for each name, by the same ids: the name, where several have it with the id behind it.

    No two are the same, though somebody may have given a name of that form.
    """
    labels = dict(names)
    while duplicates := {label for label, count in Counter(labels.values()).items() if count > 1}:
        labels = {key: f"{label} ({key})" if label in duplicates else label for key, label in labels.items()}
    return labels


def clean_text(value: object) -> str:
    """Return a text as a label may be: without halves of characters, which a name that was cut may end with.

    What is no text is empty.
    """
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else ""
