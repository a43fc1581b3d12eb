"""Runs of text: events that are all alike but for their text, as most of a stream is.

Once an event has been decoded, the bytes around its text are known. While events come that have the same bytes
around other text, only the text is taken out of them: JSON that differs within one string decodes to the same
chunk but for that string. Chunks are made of the texts when somebody asks for chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Literal

import msgspec

from ..types import ChatCompletionChunk, ChoiceDelta, ChunkChoice, Run
from .repairs import REFUSED, settle

__all__ = ["Pattern", "learn"]

_decode = msgspec.json.Decoder(ChatCompletionChunk).decode

_LF = 0x0A
_HEAD = b"data: "
_END = b"\n\n"
_JOINT = _END + _HEAD
# Before a text it makes another, as good as any. Where no text is due, no JSON goes on with it.
_PROBE = "\ufdd0"
# What does not mean itself in JSON text. LF parts the texts of several events here: no event has one in it.
_not_literal = re.compile(r'[\x00-\x09\x0b-\x1f"\\]').search


class Pattern:
    """What the events of a run have in common.

    Args:
        before: The payload's bytes up to the text.
        after: Those behind it.
        field: Which field of the delta the text is, ``content`` or ``reasoning_content``.
        choice: Which choice it is of, by its index.
        make: Makes the chunks that such events decode to, of their texts.
    """

    __slots__ = ("_after", "_before", "_choice", "_cut", "_field", "_joint", "_make")

    def __init__(
        self,
        before: bytes,
        after: bytes,
        *,
        field: Literal["content", "reasoning_content"],
        choice: int,
        make: Callable[[Iterable[str]], list[ChatCompletionChunk]],
    ) -> None:
        self._before = _HEAD + before
        self._after = after + _END
        self._joint = self._after + self._before
        self._cut = itemgetter(slice(len(before), -len(after)))
        self._field: Literal["content", "reasoning_content"] = field
        self._choice = choice
        self._make = make

    def run(self, block: bytes) -> Run | None:
        """Take the texts out of a block of events; None if there is anything in it but such events.

        Args:
            block: Bytes that begin and end at an event's boundary.
        """
        before, after = self._before, self._after
        if not (block.startswith(before) and block.endswith(after)):
            return None
        start, stop = len(before), -len(after)
        middle = block[start:stop]
        pieces = [middle]
        if _LF in middle:
            pieces = list(map(self._cut, block[len(_HEAD) : -len(_END)].split(_JOINT)))
            # If each has these bytes on both sides, the block can be put together from the pieces.
            if self._joint.join(pieces) != middle:
                return None
            middle = b"\n".join(pieces)
        elif len(block) < start - stop:
            return None  # the bytes on both sides overlap
        try:
            text = middle.decode()
        except UnicodeDecodeError:
            return None
        if _not_literal(text):
            return None
        texts = text.split("\n")
        if len(texts) != len(pieces):
            return None  # a line ends within an event
        return Run(texts, field=self._field, choice=self._choice, make=self._make)


def learn(payload: bytes, chunk: ChatCompletionChunk) -> Pattern | None:
    """Find out what an event has around its text.

    Args:
        payload: The event's data, on one line.
        chunk: What it was decoded to.

    Returns:
        The pattern of events that may follow, or None: if there is more to the chunk than a piece of text, or if its
        text does not stand in the payload once, and as it is.
    """
    if len(chunk.choices) != 1:
        return None
    delta = chunk.choices[0].delta
    if bool(delta.content) == bool(delta.reasoning_content):
        return None
    field: Literal["content", "reasoning_content"] = "content" if delta.content else "reasoning_content"
    text = getattr(delta, field)
    literal = msgspec.json.encode(text)
    if payload.count(literal) != 1:
        return None
    make = _maker(chunk, field)
    if make([text]) != [chunk]:
        return None
    before, _, after = payload.partition(literal)
    # Whether it is this string that is the text, another one in its place shows.
    other = _PROBE + text
    try:
        probed = _decode(before + msgspec.json.encode(other) + after)
    except REFUSED:
        return None
    for choice in probed.choices:
        settle(choice.delta)
    if make([other]) != [probed]:
        return None
    return Pattern(before + b'"', b'"' + after, field=field, choice=chunk.choices[0].index, make=make)


def _maker(chunk: ChatCompletionChunk, field: str) -> Callable[[Iterable[str]], list[ChatCompletionChunk]]:
    """Return what makes chunks like this one, one of each text.

    They hold what a stream of text repeats in every chunk, and nothing else: to add one to a completion, after
    another of them, adds its text alone.
    """
    id_, created, model, object_ = chunk.id, chunk.created, chunk.model, chunk.object
    fingerprint, tier = chunk.system_fingerprint, chunk.service_tier
    index, delta = chunk.choices[0].index, chunk.choices[0].delta
    role, content, reasoning = delta.role, delta.content, delta.reasoning_content

    def deltas(texts: Iterable[str]) -> Iterable[ChoiceDelta]:
        if field == "content":
            return [ChoiceDelta(content=text, role=role, reasoning_content=reasoning) for text in texts]
        return [ChoiceDelta(content=content, role=role, reasoning_content=text) for text in texts]

    def make(texts: Iterable[str]) -> list[ChatCompletionChunk]:
        return [
            ChatCompletionChunk(
                id=id_,
                created=created,
                model=model,
                object=object_,
                system_fingerprint=fingerprint,
                service_tier=tier,
                choices=[ChunkChoice(index=index, delta=delta)],
            )
            for delta in deltas(texts)
        ]

    return make
