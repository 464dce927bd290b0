"""Exact numbers: from the feed's decimals to fractions, and from fractions to cents and hundredths.

Everything between is done in ``Fraction``: no float, and no precision of a decimal context, ever touches money.
Halves round away from zero, as PostgreSQL's ``numeric`` does. What comes in was bounded by the fetch.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction


def round_half_up(value: Fraction) -> int:
    """The nearest integer, halves away from zero."""
    magnitude = (2 * abs(value.numerator) + value.denominator) // (2 * value.denominator)
    return magnitude if value >= 0 else -magnitude


def to_cents(dollars: Decimal) -> int:
    """Dollars as integer cents."""
    return round_half_up(Fraction(dollars) * 100)


def to_hundredths(value: Fraction) -> Decimal:
    """The value with two decimals."""
    return Decimal(round_half_up(value * 100)).scaleb(-2)
