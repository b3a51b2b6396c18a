"""The exceptions for calls that were not made."""


class Deferred(Exception):  # noqa: N818 - not an error: the call is only delayed
    """A call was not made, because the rate limiter of its pool does not allow one now. Its query stays due."""


class CircuitOpen(Deferred):
    """A call was not made, because Braze rejected the key at its endpoint or never responded. Its query stays due."""
