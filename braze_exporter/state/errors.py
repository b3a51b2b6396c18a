"""The errors of the state file."""


class ForeignFileError(Exception):
    """Raised if a file is not a database of the exporter. The message names the file and its type."""


class StateFileError(Exception):
    """Raised if the state file cannot be used or written. The message states the reason."""


class InaccessibleError(StateFileError):
    """Raised if the user of the process may not read or write the state file, or if its directory is missing."""


class DamagedError(StateFileError):
    """Raised if the content of the state file is damaged."""
