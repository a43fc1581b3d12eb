"""Tokens of the simulated model, and how likely it pretends to hold them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Piece", "count", "digest", "text_pieces", "tokenize"]

_TOKEN = re.compile(r"\s?[A-Za-z']+|\s?\d{1,3}|\s?[^\w\s]|\s|\w")
_LONGEST = 10
"""Characters of the longest token made of letters."""

_FOREIGN = 3
"""Bytes of the longest token outside ASCII: an emoji is cut, as byte-pair encodings do."""

_OTHERS: tuple[bytes, ...] = tuple(
    re.findall(
        rb" [a-z]+", b" the a of and to in is it that for on with as at by we not this one or so be but"
    )
)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk of a stream adds to a choice.

    Attributes:
        delta: The delta as it is sent.
        tokens: How many tokens it holds.
        logprobs: Entries for these tokens; None where none are told.
    """

    delta: dict[str, Any]
    tokens: int = 1
    logprobs: list[dict[str, Any]] | None = None


def digest(*parts: object) -> int:
    """Turn anything with a repr into a number that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode("utf-8", "replace")).digest()[:6])


def tokenize(text: str) -> list[bytes]:
    """Cut text into tokens; joined, they are its UTF-8 bytes again."""
    tokens: list[bytes] = []
    for match in _TOKEN.findall(text):
        data = match.encode("utf-8", "replace")
        size = _LONGEST if data.isascii() else _FOREIGN
        tokens += [data[i : i + size] for i in range(0, len(data), size)]
    return tokens


def count(text: str) -> int:
    """How many tokens a text has."""
    return len(tokenize(text))


def text_pieces(text: str, field: str, *, top: int | None = None, flavour: object = None) -> list[Piece]:
    """Cut text into pieces of one token, or of several where only together they make whole characters.

    Args:
        text: The text.
        field: Field of the delta, ``content`` or another.
        top: How many candidates to tell for each token; None tells no logprobs at all.
        flavour: What else, besides the place and the token, decides on the probabilities.
    """
    pieces: list[Piece] = []
    held: list[bytes] = []
    entries: list[dict[str, Any]] = []
    for place, token in enumerate(tokenize(text)):
        held.append(token)
        if top is not None:
            entries.append(_entry(token, top, digest(flavour, place, token)))
        try:
            whole = b"".join(held).decode()
        except UnicodeDecodeError:
            continue
        pieces.append(Piece({field: whole}, len(held), None if top is None else entries))
        held, entries = [], []
    return pieces


def _entry(token: bytes, top: int, number: int) -> dict[str, Any]:
    """Tell how likely a token was, and which others were.

    The most likely candidate has 35 to 99 %, each further one half of what is left. Now and then the sampled
    token is not the most likely one, as with a real model.
    """
    likely = 0.35 + (number % 1000) / 1000 * 0.64
    chances = [likely]
    left = 1.0 - likely
    for _ in range(20):
        left /= 2
        chances.append(left)
    rank = 1 if top > 1 and number // 1000 % 8 == 0 else 0
    others = _rotate((other for other in _OTHERS if other != token), number)
    ranked = [*others[:rank], token, *others[rank:]]
    candidates = [_told(candidate, chance) for candidate, chance in zip(ranked, chances, strict=False)]
    return {**candidates[rank], "top_logprobs": candidates[:top]}


def _rotate(tokens: Iterable[bytes], number: int) -> list[bytes]:
    listed = list(tokens)
    start = number % len(listed)
    return listed[start:] + listed[:start]


def _told(token: bytes, chance: float) -> dict[str, Any]:
    try:
        text = token.decode()
    except UnicodeDecodeError:
        # Part of a character has no text; its bytes are spelt instead.
        text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
    return {"token": text, "logprob": round(math.log(chance), 6), "bytes": list(token)}
