"""How a page writes a number, an instant or a span of time. Pure: the filters of the templates.

Money is cents in and dollars out; aware instants are shown by New Zealand's wall clock; what is not known is a dash.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal

from raceday_dagster.racing.calendar import NEW_ZEALAND

UNKNOWN = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_HALF = {0: "", 5: "½"}


def format_dollars(cents: int | None) -> str:
    """Whole dollars: ``1,234``, without the sign of the currency, which the head of a column has."""
    if cents is None:
        return UNKNOWN
    return format_number(Decimal(cents) / 100, 0)


def format_number(value: Decimal | float | int | str | None, digits: int = 2) -> str:
    """A number with thousands apart, half up, and a true minus."""
    if value is None:
        return UNKNOWN
    rounded = Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{abs(rounded):,}" if rounded >= 0 else f"{MINUS}{abs(rounded):,}"


def format_change(value: Decimal | float | int) -> str:
    """A number that always has its sign."""
    return format_number(value, 2) if value < 0 else f"+{format_number(value, 2)}"


def format_clock(instant: datetime | None, style: str = "%H:%M") -> str:
    """New Zealand's wall clock."""
    return UNKNOWN if instant is None else instant.astimezone(NEW_ZEALAND).strftime(style)


def format_zone(instant: datetime) -> str:
    """``NZDT`` or ``NZST``."""
    return instant.astimezone(NEW_ZEALAND).strftime("%Z")


def format_day(day: date) -> str:
    """``Thursday 26 November 2026``."""
    return f"{day:%A} {day.day} {day:%B %Y}"


def format_span(seconds: float) -> str:
    """``45 s``, ``4 min 05 s``, ``25 min``, ``2 h 05 min``, ``3 days``: as exact as it matters."""
    left = abs(round(seconds))
    if left < 60:
        return f"{left} s"
    if left < 600:
        return f"{left // 60} min {left % 60:02} s"
    if left < 3_600:
        return f"{left // 60} min"
    if left < 86_400:
        return f"{left // 3_600} h {left % 3_600 // 60:02} min"
    return f"{left // 86_400} days"


def format_to_start(seconds: float) -> str:
    """``in 4 min 05 s``, or ``45 s past`` the advertised start."""
    return f"in {format_span(seconds)}" if seconds >= 0 else f"{format_span(seconds)} past"


def format_interval(interval: Decimal | int) -> str:
    """The name of a bucket: ``60+``, ``5``, ``0``, and with a minus ``½``, ``1½``."""
    if interval >= 60:
        return "60+"
    tenths = int(abs(Decimal(interval)) * 10)
    whole, half = tenths // 10, _HALF[tenths % 10]
    sign = MINUS if interval < 0 else ""
    return f"{sign}{'' if half and not whole else whole}{half}"
