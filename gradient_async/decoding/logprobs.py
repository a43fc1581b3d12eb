"""Takes long lists of log probabilities out of JSON: they have more values than any other part of an honest reply.

A reply of 4,000 tokens, each with its 20 likeliest alternatives, has two million values as `types.nesting` counts them,
twenty times `Limits.values`. The typed decoder still decodes them in a short time, because all entries have one shape. So
`Limits.values` applies to everything else, the log probabilities have a limit of their own, and both are decoded separately.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

from ..types import Choice, ChoiceLogprobs, ChunkChoice
from ..types.nesting import TooManyValuesError, check_json, may_be_heavy
from .normalize import DECODE_ERRORS, VERY_UNLIKELY

# The log probabilities of a reply may have this many times `Limits.values`.
_TIMES = 25
# Maximum number of commas for each byte of log probabilities: honest entries have 0.1, and lists of numbers have 0.5.
_MAX_DENSITY = 0.25
_MIN_ENTRY = 16  # minimum bytes of an entry; the shortest honest entry has about 25
_MAX_ENTRY = 400  # maximum bytes of an entry on average; with indentation an honest entry has about 270
_OTHERS = 1000  # everything else in a reply may be as long as this many entries
# A reply with this name among its first _EARLY bytes almost certainly has long lists. Its lists are then searched at once:
# counting all values first would take a third of the time of decoding. Most servers write the text of the answer before the
# lists, so _EARLY has to be longer than the text of a long answer.
_ALTERNATIVES = b'"top_logprobs"'
_EARLY = 64 * 1024
_LARGE = 8 * 1024 * 1024  # if a reply has more bytes, its values are counted before its lists are searched
_MAX_CHOICES = 128  # maximum choices of a reply with long lists
_BEGINNING = 64  # bytes of a list by which `_without` finds the list in the JSON
_NULL = b"null"
_NAME = b'"logprobs"'
# Each choice has exactly one of these names, so the matches count the choices. A string cannot contain a match: in a string
# each quotation mark has a backslash before it. The same is true of the names in _REPAIRS.
_CHOICE = re.compile(rb'"(?:message|delta)"\s*:')
# Values that some servers write in place of a number or a list, and their replacements.
_REPAIRS = (
    (re.compile(rb'("logprob"\s?:\s?)(?:NaN|-?Infinity|null)'), rb"\g<1>%d" % VERY_UNLIKELY),
    (re.compile(rb'("top_logprobs"\s?:\s?)null'), rb"\g<1>[]"),
)
_MAX_REPAIRED = 20_000  # maximum number of repairs of each kind; each repair takes half a microsecond
_MAX_NAMES = 100_000  # maximum number of log probabilities in JSON that is repaired

_decode_logprobs = msgspec.json.Decoder(ChoiceLogprobs | None, strict=False).decode


class _Choice(msgspec.Struct):
    logprobs: msgspec.Raw = msgspec.Raw(_NULL)


def take_logprobs(data: bytes, max_values: int) -> tuple[bytes, Sequence[ChoiceLogprobs | None]]:
    """Check the number of values in JSON, and take out the log probabilities if they are too many together with the rest.

    Args:
        data: An event or a reply.
        max_values: Maximum number of values besides the log probabilities.

    Returns:
        The JSON, with null in place of the log probabilities that were taken out, and the decoded log probabilities of each
        choice; the latter are empty if nothing was taken out.

    Raises:
        TooManyValuesError: If there are too many values.
        ValueError: If the JSON is nested too deep.
    """
    heavy = False
    if data.find(_ALTERNATIVES, 0, _EARLY) < 0:
        try:
            check_json(data, max_values)
        except TooManyValuesError:
            heavy = True
            if (
                _NAME not in data
                or len(data) > _MAX_ENTRY * (data.count(b"{") + _OTHERS)
                or (len(data) > _LARGE and may_be_heavy(data, (_TIMES + 1) * max_values))
            ):
                raise  # raised at once, because the search for the lists would take longer
        else:
            return data, ()
    rest, lists = _find_lists(data)
    found = b"".join(lists)
    max_commas = min(int(_MAX_DENSITY * len(found)), _TIMES * max_values)
    # The number of entries is limited as well: decoding even the shortest entry takes half a microsecond.
    max_entries = min(len(found) // _MIN_ENTRY, max_values)
    min_entries = len(found) // _MAX_ENTRY
    if min_entries < found.count(b"{") <= max_entries and found.count(b",") <= max_commas:
        for each in lists:
            rest = _without(each, rest)
        check_json(rest, max_values)
        return rest, [_decode(each) for each in lists]
    if heavy:
        raise TooManyValuesError(max_values)
    check_json(data, max_values)
    return data, ()


def give_back(choices: Iterable[Choice | ChunkChoice], taken: Sequence[ChoiceLogprobs | None]) -> None:
    """Put the log probabilities that were taken out back into their choices, which are in the order of the JSON."""
    for choice, logprobs in zip(choices, taken, strict=False):
        choice.logprobs = choice.logprobs if logprobs is None else logprobs


def _find_lists(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the JSON, repaired if necessary, and for each choice the bytes of its log probabilities."""
    for outlined, count in _outlines(data):
        try:
            choices: list[_Choice] = _outline_decoder(count).decode(outlined).choices
        except DECODE_ERRORS:
            continue
        return outlined, [bytes(choice.logprobs) for choice in choices]
    return data, []


def _outlines(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the JSON unchanged and repaired, each with a possible number of choices; the most probable is first."""
    yield data, 1  # yielded first, because counting the choices takes time
    count = sum(1 for _ in islice(_CHOICE.finditer(data), _MAX_CHOICES + 1))
    if 0 < count <= _MAX_CHOICES:
        yield data, count
        yield _repaired(data), count


@lru_cache(maxsize=8)
def _outline_decoder(count: int) -> msgspec.json.Decoder[Any]:
    # The choices are a tuple of fixed length, because msgspec refuses a longer list at its first superfluous item. A list with
    # a maximum length would be refused only after all items have been decoded.
    choices = tuple.__class_getitem__((_Choice,) * count)
    return msgspec.json.Decoder(msgspec.defstruct("_Outline", [("choices", choices)]))


def _without(part: bytes, data: bytes) -> bytes:
    """Replace a part of JSON by null. msgspec does not report the position of the part, so its first bytes are searched."""
    start = data.find(part[:_BEGINNING])
    return data[:start] + _NULL + data[start + len(part) :] if data.startswith(part, start) else data


def _decode(part: bytes) -> ChoiceLogprobs | None:
    """Decode log probabilities; None if they have the shape of another API."""
    for repair in (bytes, _repaired):
        try:
            logprobs: ChoiceLogprobs | None = _decode_logprobs(repair(part))
        except DECODE_ERRORS:
            continue
        return logprobs
    return None


def _repaired(data: bytes) -> bytes:
    if data.count(b'"logprob"') <= _MAX_NAMES:
        for wrong, replacement in _REPAIRS:
            data = wrong.sub(replacement, data, _MAX_REPAIRED)
    return data
