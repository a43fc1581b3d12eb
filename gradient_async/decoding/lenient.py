"""JSON as servers write it, to plain data."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeGuard

__all__ = ["is_object", "loads", "well_formed"]

_SURROGATES = re.compile("[\ud800-\udfff]")
_LONGEST_INT = 18  # digits: what fits 64 bits; longer ones are nobody's index or count


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def well_formed(text: str) -> str:
    """Join surrogate pairs; replace lone surrogates by U+FFFD, so that the text encodes to UTF-8."""
    if _SURROGATES.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _int(digits: str) -> float:
    return int(digits) if len(digits) <= _LONGEST_INT else math.inf


def _constant(_name: str) -> float:
    return math.inf  # NaN and the infinities are not JSON


def loads(data: bytes) -> Any:
    """Decode JSON as servers write it: bad UTF-8 is replaced.

    What is no number for JSON, or none that anything counts with, becomes an infinity: NaN, Infinity,
    1e999, whole numbers of more than 18 digits.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deep.
    """
    return json.loads(data.decode("utf-8", "replace"), parse_int=_int, parse_constant=_constant)
