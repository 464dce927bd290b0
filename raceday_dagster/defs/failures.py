"""How an expected error leaves Dagster: as its own line, not as the cause of an "Error executing resource_fn"."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
import dagster as dg

from raceday_dagster.errors import RacedayError


class Refused(click.ClickException, dg.DagsterError):
    """A run cannot begin. Dagster lets its own errors pass unwrapped; its command line prints this one as a line."""


@contextmanager
def refusing_plainly() -> Iterator[None]:
    """For what is needed before a step runs: settings, resources, the executor."""
    try:
        yield
    except RacedayError as error:
        raise Refused(str(error)) from None


@contextmanager
def failing_plainly() -> Iterator[None]:
    """For a step that cannot go on, or must not end as if nothing had been."""
    try:
        yield
    except RacedayError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
