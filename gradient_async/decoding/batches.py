"""Runs of text: events that are all alike but for their text, as most of a stream is.

Once an event has been decoded, the bytes around its text are known. While events come that have the same bytes
around other text, only the text is taken out of them: JSON that differs within one string decodes to the same
chunk but for that string. Chunks are made of the texts when somebody asks for chunks. The index of the choice may
differ as well, where several answers come at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter

import msgspec

from ..types import (
    ChatCompletionChunk,
    ChoiceDelta,
    ChunkChoice,
    FunctionDelta,
    MakeChunks,
    TextBatch,
    TextField,
    ToolCallDelta,
)
from .normalize import REFUSED, settle

_decode = msgspec.json.Decoder(ChatCompletionChunk).decode
_decode_strings = msgspec.json.Decoder(str).decode_lines

_LF = 0x0A
_HEAD = b"data: "
_END = b"\n\n"
_JOINT = _END + _HEAD
# Before a text it makes another, as good as any. Where no text is due, no JSON goes on with it.
_PROBE = "\ufdd0"
_INDEX = b'"index":'
_INDICES = {b"%d" % index: index for index in range(10)}
_DIGITS = {digit[0]: index for digit, index in _INDICES.items()}
_last = itemgetter(-1)


class Pattern:
    """What the events of a run have in common: all bytes but those of a text, or of an index and a text behind it.

    Args:
        before: The payload's bytes up to the first of what differs.
        after: Those behind the text.
        gap: Those between an index of one digit and the text; none if only the text differs.
        field: What the text is: a field of the delta, or the arguments of its only tool call.
        choice: Which choice it is of, by its index, unless that differs.
        make: Makes the chunks that such events decode to, of their texts and indices.
    """

    __slots__ = ("_after", "_before", "_choice", "_cut", "_field", "_gap", "_joint", "_make", "_rest")

    def __init__(
        self,
        before: bytes,
        after: bytes,
        *,
        gap: bytes = b"",
        field: TextField,
        choice: int,
        make: MakeChunks,
    ) -> None:
        self._before = _HEAD + before
        self._after = after + _END
        self._joint = self._after + self._before
        self._gap = gap
        # A payload's text; or the text, and the rest, of what is between two gaps.
        end = -len(self._joint) - 1
        self._cut = itemgetter(slice(0, end) if gap else slice(len(before), -len(after)))
        self._rest = itemgetter(slice(end, -1))
        self._field: TextField = field
        self._choice = choice
        self._make = make

    def run(self, block: bytes) -> TextBatch | None:
        """Take the texts out of a block of events; None if there is anything in it but such events.

        Args:
            block: Bytes that begin and end at an event's boundary.
        """
        start, stop = len(self._before), len(block) - len(self._after)
        if not (block.startswith(self._before) and block.endswith(self._after)) or stop < start:
            return None  # also if the bytes on both sides overlap
        middle = block[start:stop]
        try:
            if self._gap:
                return self._of_several(middle)
            pieces = [middle]
            if _LF in middle:
                pieces = list(map(self._cut, block[len(_HEAD) : -len(_END)].split(_JOINT)))
                # If each has these bytes on both sides, the block can be put together from the pieces.
                if self._joint.join(pieces) != middle:
                    return None
            texts = _strings(pieces)
        except REFUSED:
            return None
        return (
            None
            if texts is None
            else TextBatch(texts, field=self._field, choice=self._choice, make=self._make)
        )

    def _of_several(self, middle: bytes) -> TextBatch | None:
        """Take texts and indices out of events."""
        first, *between = middle.split(self._gap)
        if not between:
            return None
        last = between.pop()
        # Between two gaps are a text, what is between two events, and the index of the next one.
        if list(map(self._rest, between)).count(self._joint) != len(between):
            return None
        try:
            choices = [_INDICES[first], *map(_DIGITS.__getitem__, map(_last, between))]
        except KeyError:
            return None
        texts = _strings([*map(self._cut, between), last])
        if texts is None:
            return None
        return TextBatch(texts, field=self._field, choice=choices, make=self._make)


def _strings(pieces: list[bytes]) -> list[str] | None:
    """Decode what stands between the quotation marks of strings; None if that is not one string each.

    Each piece begins on a line of its own, with a quotation mark, and no JSON string has a LF in it: with each piece
    a string begins. So there are as many strings as pieces only if each piece is one.
    """
    strings = _decode_strings(b'"' + b'"\n"'.join(pieces) + b'"')
    return strings if len(strings) == len(pieces) else None


def learn(payload: bytes, chunks: Sequence[ChatCompletionChunk]) -> Pattern | None:
    """Find out what an event has around its text.

    Args:
        payload: The event's data, on one line.
        chunks: What it was decoded to, last, behind those of events before it.

    Returns:
        The pattern of events that may follow, or None: if there is more to the chunk than a piece of text, or if its
        text does not stand in the payload once, and as it is.
    """
    chunk = chunks[-1]
    found = _text_of(chunk)
    if found is None:
        return None
    field, text = found
    literal = msgspec.json.encode(text)
    if payload.count(literal) != 1:
        return None
    make = _maker(chunk, field)
    index = chunk.choices[0].index
    before, _, after = payload.partition(literal)
    # Whether it is this string that is the text, and this number that is the index, others in their places show.
    other = _PROBE + text

    def holds(start: bytes, at: int) -> bool:
        try:
            probed = _decode(start + msgspec.json.encode(other) + after)
        except REFUSED:
            return False
        for choice in probed.choices:
            settle(choice.delta)
        return make([other], [at]) == [probed]

    after_text = b'"' + after
    if field != "arguments" and any(choice.index != index for each in chunks for choice in each.choices):
        head, name, rest = before.rpartition(_INDEX)
        if holds(head + name + b"7" + rest[1:], 7):
            gap = rest[1:] + b'"'
            return Pattern(head + name, after_text, gap=gap, field=field, choice=index, make=make)
    if holds(before, index):
        return Pattern(before + b'"', after_text, field=field, choice=index, make=make)
    return None


def _text_of(chunk: ChatCompletionChunk) -> tuple[TextField, str] | None:
    """Return the text of a chunk, and which field it is; None if it has none, or several."""
    if len(chunk.choices) != 1:
        return None
    delta = chunk.choices[0].delta
    fields: list[tuple[TextField, str | None]] = [
        ("content", delta.content),
        ("reasoning_content", delta.reasoning_content),
        *(("arguments", call.function.arguments) for call in delta.tool_calls or ()),
    ]
    texts: list[tuple[TextField, str]] = [(field, text) for field, text in fields if text]
    return texts[0] if len(texts) == 1 else None


def _maker(chunk: ChatCompletionChunk, field: TextField) -> MakeChunks:
    """Return what makes chunks like this one, one of each text and the index beside it.

    They hold what a stream of text repeats in every chunk, and nothing else: to add one to a completion, after
    another of them of the same choice, adds its text alone.
    """
    id_, created, model, object_ = chunk.id, chunk.created, chunk.model, chunk.object
    fingerprint, tier = chunk.system_fingerprint, chunk.service_tier
    delta = chunk.choices[0].delta
    role, content, reasoning = delta.role, delta.content, delta.reasoning_content
    call = delta.tool_calls[0].index if delta.tool_calls else None

    def deltas(texts: Iterable[str]) -> Iterable[ChoiceDelta]:
        if field == "content":
            return [ChoiceDelta(content=text, role=role, reasoning_content=reasoning) for text in texts]
        if field == "reasoning_content":
            return [ChoiceDelta(content=content, role=role, reasoning_content=text) for text in texts]
        calls = [ToolCallDelta(index=call, function=FunctionDelta(arguments=text)) for text in texts]
        return [
            ChoiceDelta(content=content, role=role, reasoning_content=reasoning, tool_calls=[each])
            for each in calls
        ]

    def make(texts: Iterable[str], indices: Iterable[int]) -> list[ChatCompletionChunk]:
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
            for index, delta in zip(indices, deltas(texts), strict=False)  # one index may be for all
        ]

    return make
