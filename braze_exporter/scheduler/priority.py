"""The order in which calls use connections and budget."""

from enum import IntEnum, auto


class Priority(IntEnum):
    """What a call is for, the most urgent first.

    Calls for lists leave half of the burst of a pool to queries. Calls for history have a budget of their own too.
    """

    QUERY = auto()
    LIST = auto()
    HISTORY = auto()
