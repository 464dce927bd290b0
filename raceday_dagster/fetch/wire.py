"""What the API's JSON is made of, for both endpoints: parsing, the envelope, the field types, and what is refused how.

The rules: no NaN, no NUL, no key twice, nothing that the columns it ends in cannot hold; a number written as text is
that number. A field that breaks a rule is dropped, as if it were absent, and named; only what an answer cannot be
without costs the answer. An absent key stays apart from ``null``; a blank text means "not known" and is treated as
absent. Keys we do not read are ignored.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

from raceday_dagster.fetch.exchange import clean_excerpt

Location = tuple[str | int, ...]
T = TypeVar("T")

COMPLAINTS_MAX = 2000
"""An answer with more unreadable fields than this is not the API's."""

SMALLEST = 1e-12
"""What is nearer to 0 than this, and not 0, is garbage: its exact fraction would not fit in memory."""

_FIRST_S = 946_684_800
_LAST_S = 4_102_444_800
"""2000-01-01 and 2100-01-01: an instant or a date outside is a broken feed."""

_PLAINER: Mapping[str, str] = {
    "typed_dict_type": "input should be an object",
    "dict_type": "input should be an object",
    "list_type": "input should be a list",
}
"""Words for pydantic's error types that speak of Python."""


class WireError(ValueError):
    """The answer is not what the API promises; ``str(error)`` is one line that names the field path.

    ``retryable``: the API says itself that it failed, so that the next answer may be a good one.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


REPEATED = object()
"""The value of a key that is there twice: of no type, so that reading it fails. JSON parsers take the last one in
silence."""


def parse_document(body: bytes) -> Any:
    """What a body holds.

    Raises:
        WireError: It is no JSON in UTF-8.
    """
    try:
        return json.loads(body.decode(), object_pairs_hook=_build_object)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the answer is not JSON: {clean_excerpt(str(error))}") from error


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        found |= {name: REPEATED for name in found if times[name] > 1}
    return found


def read_leniently(
    adapter: TypeAdapter[T], content: Any, *, required: Collection[Location]
) -> tuple[T, list[Location]]:
    """``content`` as ``adapter`` reads it, and the places of what was dropped because it cannot be read.

    What lacks a field it cannot be without is dropped itself: a row of a list, a part of an object. ``content`` is
    changed. A sound answer is validated once.

    Raises:
        WireError: Something in ``required`` cannot be read, or nearly nothing can.
    """
    dropped: dict[Location, None] = {}
    while True:
        try:
            return adapter.validate_python(content), list(dropped)
        except ValidationError as error:
            if error.error_count() > COMPLAINTS_MAX:
                raise WireError(describe_invalid(error)) from error
            complaints = error.errors(include_url=False, include_context=False)
        unread = {
            place: complaint
            for complaint in complaints
            if not _read_number(content, place := _find_deepest(content, complaint["loc"]), complaint)
        }
        if fatal := [complaint for place, complaint in unread.items() if place in required]:
            raise WireError(_describe(fatal))
        # A row that is removed moves those behind it, so rows go once nothing else is left to be named.
        rows_only = all(isinstance(place[-1], int) for place in unread)
        for place in sorted(unread, key=_sort_key, reverse=True):
            if rows_only or isinstance(place[-1], str):
                _drop(content, place, dropped)


def _sort_key(location: Location) -> list[tuple[int, str]]:
    return [(part, "") if isinstance(part, int) else (-1, part) for part in location]


def _read_number(content: Any, place: Location, complaint: ErrorDetails) -> bool:
    """Whether a number was wanted and is there as text; then it takes the text's place."""
    text = complaint["input"]
    if complaint["type"] not in ("int_type", "float_type") or not isinstance(text, str):
        return False
    if re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", text.strip(), re.ASCII) is None:
        return False
    number = float(text)
    _find_owner(content, place)[place[-1]] = int(number) if number.is_integer() else number
    return True


def _find_owner(content: Any, place: Location) -> Any:
    for part in place[:-1]:
        content = content[part]
    return content


def _find_deepest(content: Any, location: Location) -> Location:
    """The part of ``location`` that exists: of a missing field, the object that lacks it."""
    for depth, part in enumerate(location):
        match content, part:
            case (dict(), str()) if part in content:
                content = content[part]
            case (list(), int()) if part < len(content):
                content = content[part]
            case _:
                return location[:depth]
    return location


def _drop(content: Any, place: Location, dropped: dict[Location, None]) -> None:
    del _find_owner(content, place)[place[-1]]
    dropped[place] = None


def find_complaint(content: object) -> str:
    """What ``data.error`` or ``header.error`` of an answer says, on one line; empty without one."""
    for name in ("data", "header"):
        part = content.get(name) if isinstance(content, dict) else None
        complaint = part.get("error") if isinstance(part, dict) else None
        # What is nested may be nested deeper than it can be shown.
        said = clean_excerpt(str(complaint)) if isinstance(complaint, str | int | float) else "more than a text"
        if complaint and said and complaint is not REPEATED:
            return said
    return ""


def refuse_complaint(complaint: str) -> None:
    """Raises what the API complains of as a ``WireError``, if it does."""
    if complaint:
        raise WireError(f"the API says: {complaint}", retryable=True)


def read_complaint(body: bytes) -> str:
    """The complaint in the body of an error, empty if it is not the API's JSON."""
    try:
        return find_complaint(json.loads(body))
    except (ValueError, RecursionError):
        return ""


WIRE_CONFIG = ConfigDict(allow_inf_nan=False, hide_input_in_errors=True)


def known(piece: Mapping[str, object], *, but: Container[str] = ()) -> dict[str, Any]:
    """The fields the answer carried, by name, except blank texts, empty maps and those named in ``but``."""
    return {name: value for name, value in piece.items() if name not in but and value not in ("", {})}


def _clean_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain half of a surrogate pair") from None
    return text if text.strip() else ""


def _refuse_unprintable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    return text


def _zero_to_none(number: float) -> float | None:
    return number or None


def _empty_list_to_map(value: object) -> object:
    return {} if value == [] else value


def _require_text(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    return value.strip()


def _parse_instant(value: object) -> datetime | Literal[""]:
    text = _require_text(value)
    if not text:
        return ""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be an ISO date and time") from None
    if instant.tzinfo is None:
        raise ValueError("must carry a time zone")
    if not _FIRST_S <= instant.timestamp() < _LAST_S:
        raise ValueError("must be between the years 2000 and 2100")
    return instant.astimezone(UTC)


def _parse_label(value: object) -> date | Literal[""]:
    """A date label, ``2025-07-17`` or ``2025-07-17T00:00:00Z``: its zone means nothing and is cut off."""
    text = _require_text(value)
    if not text:
        return ""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text[:10], re.ASCII) is None:
        raise ValueError("must begin with a date like 2025-07-17")
    try:
        label = date.fromisoformat(text[:10])
    except ValueError:
        raise ValueError("must begin with a date of the calendar") from None
    if not 2000 <= label.year < 2100:
        raise ValueError("must be between the years 2000 and 2100")
    return label


def _parse_clock(value: object) -> time | Literal[""]:
    """The clock of ``12:50:00 NZST``; the zone's name is a label."""
    text = _require_text(value)
    if not text:
        return ""
    if re.match(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\s|$)", text, re.ASCII) is None:
        raise ValueError("must begin with a clock like 12:50:00")
    return time.fromisoformat(text[:8])


def _check_epoch(seconds: int) -> int:
    if seconds and not _FIRST_S <= seconds < _LAST_S:
        raise ValueError("must be epoch seconds between the years 2000 and 2100")
    return seconds


def _refuse_dust(value: float) -> float:
    if 0 < abs(value) < SMALLEST:
        raise ValueError("must be 0 or a number that a price, a share or an amount can be")
    return value


Text = Annotated[str, AfterValidator(_clean_text)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_refuse_unprintable)]
OptionalId = Annotated[str, StringConstraints(max_length=100), AfterValidator(_refuse_unprintable)]
"""May be empty: nobody's."""

Code = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2,3}$")]
Notes = Annotated[dict[Text, Text], BeforeValidator(_empty_list_to_map)]
"""Texts by key; some encoders write an empty map as a list."""

Flag = StrictBool
Whole = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Epoch = Annotated[int, Field(strict=True, ge=0), AfterValidator(_check_epoch)]
"""0: not known."""

RequiredEpoch = Annotated[int, Field(strict=True, ge=_FIRST_S, lt=_LAST_S)]

Number = Annotated[float, Field(strict=True), AfterValidator(_refuse_dust)]
Dollars = Annotated[Number, Field(ge=0, le=1e12)]
Prize = Annotated[Number, Field(ge=0, le=9_999_999_999.99)]
Measure = Annotated[Number, Field(ge=0, le=1e6)]
Margin = Annotated[Number, Field(ge=-1e6, le=1e6)]
Fraction = Annotated[Number, Field(ge=0, le=9.9999)]
Share = Annotated[Number, Field(ge=0, le=1000)]
Price = Annotated[Number, Field(ge=0, le=99_999_999.99), AfterValidator(_zero_to_none)]
"""Decimal odds; the feed's 0 for "no price" becomes ``None``. What is below 1 passes: the transform leaves it out."""

Instant = Annotated[datetime | Literal[""], BeforeValidator(_parse_instant)]
Label = Annotated[date | Literal[""], BeforeValidator(_parse_label)]
Clock = Annotated[time | Literal[""], BeforeValidator(_parse_clock)]
"""Of these three, the empty text means "not known"."""

RequiredInstant = Annotated[datetime, Field(strict=True), BeforeValidator(_parse_instant)]
RequiredLabel = Annotated[date, Field(strict=True), BeforeValidator(_parse_label)]


class WireHeader(TypedDict):
    """``header``; ``generated_time`` is when the feed made the answer."""

    generated_time: NotRequired[Instant | None]


def describe_invalid(error: ValidationError) -> str:
    """The first complaint as ``data.runners.3.odds.fixed_win: input should be a valid number``, without any value."""
    return _describe(error.errors(include_url=False, include_context=False))


def _describe(complaints: Sequence[ErrorDetails]) -> str:
    first = complaints[0]
    message = _PLAINER.get(first["type"], first["msg"].removeprefix("Value error, "))
    message = message[:1].lower() + message[1:] if message[1:2].islower() else message
    if first["input"] is REPEATED:
        message = "the key is there twice"
    path = name_path(first["loc"])
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    return f"{path}: {message}{more}" if path else f"{message}{more}"


def name_path(location: Location) -> str:
    """``data.runners.3`` for its parts; a part can be a key the API chose, so it is cleaned."""
    return clean_excerpt(".".join(map(str, location)))
