"""Admits long lists of log probabilities, which have more values than any other part of an honest reply.

A reply of 4,000 tokens, each with its 20 likeliest alternatives, has two million values as `types.nesting` counts them,
twenty times `Limits.values`. The typed decoder still decodes them in a short time, because all entries have one shape. So
the limit applies to everything else, and the lists have a limit of their own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

from ..types.nesting import TooManyValuesError, check_json, count_values
from .normalize import DECODE_ERRORS, VERY_UNLIKELY

# How many times `Limits.values` all lists of a reply may have.
_TIMES = 25
# Values for each byte of a list: an honest entry has about 0.45, and the shortest possible 0.56. Empty entries have 3.7.
_MAX_DENSITY = 0.6
_MAX_CHOICES = 128  # choices of a reply with long lists
_BEGINNING = 64  # bytes by which a list is found in the JSON
_NO_NUMBER = re.compile(rb'("logprob"\s*:\s*)(?:NaN|-?Infinity)')
_MAX_REPLACED = 20_000  # numbers that are none; each takes half a microsecond


class _Choice(msgspec.Struct):
    logprobs: msgspec.Raw = msgspec.Raw(b"null")


def admit(data: bytes, max_values: int) -> bytes:
    """Refuse JSON with too many values, unless these are the log probabilities of choices.

    Args:
        data: An event or a reply.
        max_values: How many values it may have beside its log probabilities.

    Returns:
        The JSON to decode with the typed decoder. Log probabilities that are NaN or infinite are replaced, because the
        tolerant decoder takes too long for so many values.

    Raises:
        TooManyValuesError: If there are too many values.
        ValueError: If the JSON is nested too deep.
    """
    try:
        check_json(data, max_values)
    except TooManyValuesError:
        if b"NaN" in data or b"Infinity" in data:
            replacement = rb"\g<1>%d" % VERY_UNLIKELY
            data = _NO_NUMBER.sub(replacement, data, _MAX_REPLACED)
        lists = _lists(data)
        values = sum(map(count_values, lists))
        if not 0 < values <= min(_MAX_DENSITY * sum(map(len, lists)), _TIMES * max_values):
            raise
        rest = data
        for each in lists:
            rest = _without(each, rest)
    else:
        return data
    check_json(rest, max_values)
    return data


def _lists(data: bytes) -> list[bytes]:
    """Return the JSON of the log probabilities of each choice."""
    count = data.count(b'"logprobs"')
    if not 0 < count <= _MAX_CHOICES:
        return []
    try:
        choices: list[_Choice] = _outline_decoder(count).decode(data).choices
    except DECODE_ERRORS:
        return []
    return [bytes(choice.logprobs) for choice in choices]


@lru_cache(maxsize=8)
def _outline_decoder(count: int) -> msgspec.json.Decoder[Any]:
    # A tuple of fixed length is refused at the first item that is too many. A list of limited length would be refused
    # behind its last item, when all items have been made.
    choices = tuple.__class_getitem__((_Choice,) * count)
    return msgspec.json.Decoder(msgspec.defstruct("_Outline", [("choices", choices)]))


def _without(part: bytes, data: bytes) -> bytes:
    """Return JSON without a part of it. msgspec does not tell where the part is; any equal part counts the same."""
    start = data.find(part[:_BEGINNING])
    return data[:start] + data[start + len(part) :] if data.startswith(part, start) else data
