"""The errors a user can meet. Each message is one line: what was expected, what came, where, and what to do.

The library raises, only the command line prints. A wrong argument of a function is a plain ValueError or TypeError.
"""


class SeqgenError(Exception):
    """Root of the package's own errors; `exit_code` is what the command line leaves with."""

    exit_code = 2


class ConfigError(SeqgenError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(SeqgenError, ValueError):
    """Text, ids or a corpus on disk cannot be used; the message names file and line."""


class RunError(SeqgenError):
    """A run folder is missing, altered, or does not fit what is asked of it."""


class NonFiniteError(SeqgenError):
    """A loss or gradient became infinite or NaN; the last good state is kept."""

    exit_code = 1


class PeerLostError(SeqgenError):
    """Another process of the same work has ended or cannot be reached; what was saved is kept."""

    exit_code = 4


class MissingExtraError(SeqgenError):
    """An optional dependency is not installed; the message holds the install line."""

    exit_code = 3
