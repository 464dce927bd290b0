"""What surrounds every answer: the header, and the places where the API says that something is wrong with it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from raceday_dagster.fetch.exchange import clean_excerpt
from raceday_dagster.fetch.wire_fields import Instant, Wire, WireError


class WireHeader(Wire):
    """``header``; ``generated_time`` is when the feed made the answer."""

    generated_time: Instant | None = None


class _Complaint(Wire):
    error: Any = None


class _Refusal(Wire):
    header: _Complaint | None = None
    data: _Complaint | None = None


def refuse_complaint(body: bytes) -> None:
    """Passes an answer whose ``data.error`` and ``header.error`` are empty or absent, and what is no answer at all.

    Raises:
        WireError: With what the API says.
    """
    try:
        refusal = _Refusal.model_validate_json(body)
    except ValidationError:
        # The full model says better what is wrong.
        return
    for part, complaint in (("data", refusal.data), ("header", refusal.header)):
        if complaint and complaint.error and (said := clean_excerpt(str(complaint.error))):
            raise WireError(f"{part}.error: the API says: {said}")
