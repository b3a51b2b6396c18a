"""Parse columns: the numbers of one series in the rows of a response. No I/O.

A null is a hole: a bucket without a number. A value that is neither a number nor null makes the whole response an
error. It is never counted as zero.
"""

import math
from array import array
from collections.abc import Sequence
from typing import Any

from braze_exporter.braze.errors import invalid_response
from braze_exporter.braze.series import ABSENT, HOLE

# Mark a row that does not have a series, and the value of unique users that several entries of a row have.
MISSING, OMITTED = object(), object()
# Larger numbers are not exact in floating point, and their sums could exceed its range.
_MAX_NUMBER = 2.0**53


def parse_column(values: Sequence[Any], field: str, *, can_be_negative: bool) -> "array[float]":
    """Return the values of a series. Raises `BrazeError` if one is neither a valid number nor null."""
    if are_amounts(values):  # as almost always
        return array("d", values)
    return array("d", [parse_number(value, field, can_be_negative=can_be_negative) for value in values])


def are_amounts(values: Sequence[Any]) -> bool:
    """Return whether all values are valid numbers, and none is negative. If not, they may still be valid."""
    is_numeric = bool(values) and {*map(type, values)} <= {int, float}
    return is_numeric and min(values) >= 0 and sum(values) <= _MAX_NUMBER


def parse_number(value: object, field: str, *, can_be_negative: bool) -> float:
    """Return `value` as a number, `HOLE` or `ABSENT`. Raises `BrazeError` if it is neither a valid number nor null."""
    if value is None:
        return HOLE
    if value is MISSING or value is OMITTED:
        return ABSENT
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number) or (number < 0 and not can_be_negative):
        raise invalid_response(f"{field} is not a {'' if can_be_negative else 'non-negative '}number")
    if abs(number) > _MAX_NUMBER:
        raise invalid_response(f"{field} is too large")
    return number
