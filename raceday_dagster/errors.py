"""Every error this package raises on purpose, and nothing else.

A ``StageError`` is expected: the stages turn it into a value (``outcomes.ItemResult``) so that one bad race or image
never costs the others. Anything that is not a ``RacedayError`` is a bug and is allowed to fail the run.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

Stage = Literal["fetch", "transform", "write"]
ImageStage = Literal["read", "compress", "describe", "validate", "keep"]


class RacedayError(Exception):
    """Base of the tree; ``str(error)`` is one line without secrets, fit to show to a user."""


class SettingsError(RacedayError):
    """An environment variable is missing or wrong."""


class SandboxError(RacedayError):
    """The embedded PostgreSQL server or the simulator cannot do what was asked."""


class ServiceError(RacedayError):
    """``raceday up`` cannot start or cannot go on; one line that says what to do."""


class ArchiveError(RacedayError):
    """Old history could not be put away; it is where it was."""


class DatabaseError(RacedayError):
    """The database cannot be used at all: unreachable, refused, or with a missing, older or newer schema."""


class ImagesError(RacedayError):
    """A batch of images cannot begin: nothing to describe, a setting or the extra is missing."""


class BenchError(RacedayError):
    """A benchmark cannot begin: no race, no folder for its files; or it cannot go on."""


class ReportError(RacedayError):
    """``raceday report`` finds no such race or day, or cannot write its file."""


class StageError(RacedayError):
    """One item of a batch failed in one stage; ``retryable`` if the same request may succeed later without anybody
    changing anything. The message is without payload excerpts above 200 characters."""

    stage: str

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


class ImageError(StageError):
    """One image failed in one stage; ``retry_after_s``: what a server asked to wait before another try."""

    def __init__(
        self, message: str, *, stage: ImageStage, retryable: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.stage = stage
        self.retry_after_s = retry_after_s


class PipelineError(StageError):
    """One race failed in one stage; ``race_id`` is empty when the call was not about one race."""

    stage: Stage

    def __init__(self, message: str, *, race_id: str, retryable: bool) -> None:
        super().__init__(message, retryable=retryable)
        self.race_id = race_id

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by their positional arguments; these two are keywords, and must cross process borders.
        return partial(type(self), race_id=self.race_id, retryable=self.retryable), (self.message,)


class FetchError(PipelineError):
    """The API did not give a usable answer."""

    stage = "fetch"


class TransformError(PipelineError):
    """The answer could not be turned into a snapshot, or its worker died too often or ran out of time.

    ``worker_id`` names the worker that said so or ran out of time, if one did.
    """

    stage = "transform"
    worker_id: int | None = None


class WriteError(PipelineError):
    """The snapshot could not be committed; nothing of it is in the database."""

    stage = "write"
