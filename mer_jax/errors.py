"""The ways a run ends early, each with its documented exit code.

`main` (and every other command line of the house) turns these into one message on the terminal and the exit code,
without a traceback. Any other exception is a bug and shows its traceback.
"""

from collections.abc import Iterator


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, then what it was raised from or while handling: libraries wrap what went wrong in their own errors."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


class MerError(Exception):
    """Base of the errors that a command line reports in one message."""

    exit_code = 1


class UserError(MerError):
    """A user's mistake. The message names file, row, field or flag; found; expected; what to do."""

    exit_code = 2


class NonFiniteError(MerError):
    """A loss term or gradient became infinite or NaN; the last good checkpoint is kept."""

    exit_code = 3


class Preempted(MerError):
    """The run was asked to stop (SIGTERM), has saved its state and can be run again."""

    exit_code = 75


class HiccupError(MerError):
    """A file system failed this process, which may pass; what was saved is whole and the run can be run again."""

    exit_code = 75
