"""Why a call was not made."""


class Deferred(Exception):  # noqa: N818 - nothing went wrong: no call was made
    """A call was not made, because its pool has no budget for it now. The query stays due."""


class CircuitOpen(Deferred):
    """A call was not made, because Braze has refused the key for all of its sort. The query stays due."""
