"""Exact numbers: from the feed's decimals to fractions, and from fractions to cents and hundredths.

Everything between is done in ``Fraction``: no float, and no precision of a decimal context, ever touches money.
Halves round away from zero, as PostgreSQL's ``numeric`` does.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

LIMIT = Decimal(10) ** 15
"""No amount, share or price of a race comes near it; beyond, a number is hostile or garbage."""
FINEST_EXPONENT = -30


def exact(value: Decimal) -> Fraction:
    """The value itself.

    Raises:
        ValueError: It is too large or has too many decimals to be one of ours; ``1e-999999`` is a valid decimal
            whose fraction would not fit in memory.
    """
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < FINEST_EXPONENT or value.copy_abs() >= LIMIT:
        raise ValueError(f"{str(value)[:40]} is not a number this data can hold")
    return Fraction(value)


def round_half_up(value: Fraction) -> int:
    """The nearest integer, halves away from zero."""
    magnitude = (2 * abs(value.numerator) + value.denominator) // (2 * value.denominator)
    return magnitude if value >= 0 else -magnitude


def to_cents(dollars: Decimal) -> int:
    """Dollars as integer cents.

    Raises:
        ValueError: See ``exact``.
    """
    return round_half_up(exact(dollars) * 100)


def to_hundredths(value: Fraction) -> Decimal:
    """The value with two decimals."""
    return Decimal(round_half_up(value * 100)).scaleb(-2)
