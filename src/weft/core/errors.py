"""The tree of errors that Weft raises on purpose.

Every message is one sentence that says what was wrong, where, and what to do. The command line
prints it without a traceback and exits with the code of the class::

    WeftError                 1  a command could not do its work
    ├── UsageError            2  a wrong option, name or value
    │   └── ConfigError       2  a run file or an override that does not fit the schema
    ├── DataError             1  text, documents or shards that cannot be used
    ├── CheckpointError       1  a checkpoint that is missing, foreign, unsafe or damaged
    ├── TrainingError         1  a run that cannot go on (NaN, a budget too short, ...)
    ├── ResourceError         1  the machine lacks something: disk space, memory, a port, a package
    ├── InternalError         1  Weft broke a promise of its own: please report it
    └── Interrupted         130  stopped by the user or a signal; the state is saved
"""

from __future__ import annotations


class WeftError(Exception):
    """Root of the tree; ``exit_code`` is what the command line exits with.

    ``ranks``: the processes of a run over several in which it arose, where that is known.
    """

    exit_code = 1

    def __init__(self, message: str, ranks: tuple[int, ...] = ()):
        super().__init__(message)
        self.ranks = ranks


class UsageError(WeftError):
    """A wrong option, name or value."""

    exit_code = 2


class ConfigError(UsageError):
    """A run file or an override that does not fit the schema."""


class DataError(WeftError):
    """Text, documents or shards that cannot be used."""


class CheckpointError(WeftError):
    """A checkpoint that is missing, foreign, unsafe or damaged."""


class TrainingError(WeftError):
    """A training run that cannot go on."""


class ResourceError(WeftError):
    """The machine lacks something: disk space, memory, a port, a package."""


class InternalError(WeftError):
    """Weft broke a promise of its own; never the user's fault."""


class Interrupted(WeftError):
    """Stopped by the user or a signal; what was done is saved and a second start continues."""

    exit_code = 130
