"""Decodes a block of events that differ only in their text to one batch of texts.

Theory of operation
===================

Most events of a stream have the same bytes except for one JSON string, the text. `learn_template` takes an event and the
chunk that msgspec decoded from it, and finds the bytes before and after the text: the template. `Template.match` takes a
block, checks that it consists of events with these bytes and nothing else, and decodes all texts with one call. Events
that differ in one string decode to chunks that differ in that string only, so the texts are all there is to decode.
`TextBatch` makes the chunks when a caller reads them.

If several choices take turns, the index of the choice differs as well. Such a template has two gaps: an index of one
digit, and the text.

A batch holds exactly the chunks of its events for three reasons, each argued beside its code: the gap of a template is
the text (`learn_template`); the block contains only events with the bytes of the template (`Template.match`); the bytes
in each gap are one JSON string (`_decode_strings`). If one of the checks fails, `ChunkDecoder` decodes the block without
a template.
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
from ..types.messages import normalize_message
from .normalize import DECODE_ERRORS

_decode = msgspec.json.Decoder(ChatCompletionChunk).decode
_decode_lines = msgspec.json.Decoder(str).decode_lines

_LF = 0x0A
_HEAD = b"data: "
_END = b"\n\n"
_JOINT = _END + _HEAD
_INDEX = b'"index":'
_DIGITS = {b"%d" % index: index for index in range(10)}
# A noncharacter, which is valid in a JSON string and which no server sends.
_PROBE = "\ufdd0"

# The longest event, in bytes, for which a template is used. A read holds few long events, so a template saves little.
_MAX_EVENT = 2 * 1024
# A template is learned only if the last two events of a block end with this many equal bytes. In a stream whose events arrive
# one by one, a template would be of no use, and to learn it would take a third of the time of the first event.
_SAMPLE = 8
# The largest number of blocks that are skipped before the decoder learns another template.
_MAX_BACKOFF = 63
_last = itemgetter(slice(-1, None))


class BatchDecoder:
    """Decodes blocks by a template, and learns the template from blocks that were decoded without one.

    Learning a template takes as long as decoding several events. If no event is like the event before it, every template
    is useless. The decoder therefore skips blocks before it learns again: twice as many after each useless template.

    Attributes:
        template: The template that was learned last; None if there is none.
    """

    def __init__(self) -> None:
        self.template: Template | None = None
        self._backoff = 0
        self._to_pass = 0  # blocks to skip before the next template is learned

    def decode(self, block: bytes, template: Template) -> TextBatch | None:
        """Decode a block of whole events; return None unless all of them fit the template."""
        if block.find(b"\n") > _MAX_EVENT:
            return None
        batch = template.match(block)
        if batch is not None:
            self._to_pass = self._backoff = 0
        return batch

    def learn(self, block: bytes, chunks: Sequence[ChatCompletionChunk]) -> None:
        """Learn the template of the last event in a block of one-line events.

        Args:
            block: The events.
            chunks: The chunks that the events were decoded to.
        """
        if self._to_pass:
            self._to_pass -= 1
            return
        start = block.rfind(b"\n", 0, -len(_END)) + 1 + len(_HEAD)  # start of the last payload
        end = start - len(_JOINT)  # end of the payload before it
        if end < _SAMPLE or block[end - _SAMPLE : end] != block[-len(_END) - _SAMPLE : -len(_END)]:
            return  # there is no event before, or a template of the last event would not even match it
        self._to_pass = self._backoff = min(2 * self._backoff + 1, _MAX_BACKOFF)
        short = len(block) - start <= _MAX_EVENT
        self.template = learn_template(block[start : -len(_END)], chunks) if short else None


class Template:
    """The bytes that events have in common, with gaps for the text and, if choices take turns, for the choice's index.

    Args:
        before: Bytes of a payload before the first gap.
        after: Bytes after the text.
        between: Bytes between an index of one digit and the text; empty if the text is the only gap.
        field: The place of the text: a field of the delta, or the arguments of its only tool call.
        choice: Index of the choice, unless the index is a gap.
        make: Makes the chunks of such events from their texts and indices.
    """

    def __init__(
        self,
        before: bytes,
        after: bytes,
        *,
        between: bytes = b"",
        field: TextField,
        choice: int,
        make: MakeChunks,
    ) -> None:
        self._before = _HEAD + before
        self._after = after + _END
        # Bytes from the text of one event to the first gap of the next.
        self._joint = self._after + self._before
        self._between = between
        self._field: TextField = field
        self._choice = choice
        self._make = make
        # With one gap, cut the text out of a payload; for two gaps see `_match_choices`. An itemgetter lets one `map` cut
        # all pieces without a call of Python for each.
        tail = -len(self._joint) - 1
        self._cut_text = itemgetter(slice(0, tail) if between else slice(len(before), -len(after)))
        self._cut_joint = itemgetter(slice(tail, -1))

    def match(self, block: bytes) -> TextBatch | None:
        """Decode the texts of a block; return None if the block holds anything except events of this template.

        Args:
            block: Bytes that begin and end at an event's boundary.
        """
        start, stop = len(self._before), len(block) - len(self._after)
        if not (block.startswith(self._before) and block.endswith(self._after)) or stop < start:
            return None  # `stop < start`: the bytes before and after overlap
        middle = block[start:stop]
        try:
            if self._between:
                return self._match_choices(middle)
            pieces = [middle]
            if _LF in middle:
                pieces = list(map(self._cut_text, block[len(_HEAD) : -len(_END)].split(_JOINT)))
                # The cut removes bytes from both ends of each payload unseen. If joining the pieces with the bytes of the
                # template gives the same block again, the removed bytes were those of the template.
                if self._joint.join(pieces) != middle:
                    return None
            texts = _decode_strings(pieces)
        except DECODE_ERRORS:
            return None
        return (
            None
            if texts is None
            else TextBatch(texts, field=self._field, choice=self._choice, make=self._make)
        )

    def _match_choices(self, middle: bytes) -> TextBatch | None:
        """Decode texts and indices of a block from which the bytes before the first index and after the last text are cut."""
        first, *pieces = middle.split(self._between)
        if not pieces:
            return None
        last = pieces.pop()
        # Each piece has a text, then the bytes up to the index of the next event (`_joint`), then that index.
        if list(map(self._cut_joint, pieces)).count(self._joint) != len(pieces):
            return None
        try:
            choices = [_DIGITS[first], *map(_DIGITS.__getitem__, map(_last, pieces))]
        except KeyError:
            return None
        texts = _decode_strings([*map(self._cut_text, pieces), last])
        return None if texts is None else TextBatch(texts, field=self._field, choice=choices, make=self._make)


def _decode_strings(pieces: list[bytes]) -> list[str] | None:
    """Decode the contents of JSON strings, given without quotation marks; None if a piece is not exactly one string.

    Each piece is put on a line of its own, between quotation marks. A JSON string cannot contain a LF, so at least one
    string begins on each line. If the number of strings equals the number of pieces, each piece is exactly one string.
    """
    strings = _decode_lines(b'"' + b'"\n"'.join(pieces) + b'"')
    return strings if len(strings) == len(pieces) else None


def learn_template(payload: bytes, chunks: Sequence[ChatCompletionChunk]) -> Template | None:
    """Find the text of an event in its bytes.

    Args:
        payload: The event's data, on one line.
        chunks: The chunks of the events before it, and its own chunk as the last.

    Returns:
        The template of the event; None if the chunk does not hold exactly one text, or if the payload does not contain
        the text exactly once.
    """
    chunk = chunks[-1]
    found = _find_text(chunk)
    if found is None:
        return None
    field, text = found
    literal = msgspec.json.encode(text)
    if payload.count(literal) != 1:
        return None
    before, _, after = payload.partition(literal)
    make = _make_chunks_like(chunk, field)
    index = chunk.choices[0].index
    probe = _PROBE + text

    def is_template(start: bytes, index: int) -> bool:
        # `literal` may occur in the payload without being the text. The server may have written the text with escapes,
        # and the same characters elsewhere: as a key, in another field, or across the quotation marks of two strings.
        # Therefore the payload is decoded once more with a noncharacter in front of the characters of `literal`. In the
        # text, the noncharacter changes the chunk as expected. In any other string, it changes another part of the
        # chunk. Outside of strings, it makes the payload invalid JSON.
        try:
            probed = _decode(start + msgspec.json.encode(probe) + after)
        except DECODE_ERRORS:
            return False
        for choice in probed.choices:
            normalize_message(choice.delta)
        # Equality also proves that the payload holds no field that `make` leaves out.
        return make([probe], [index]) == [probed]

    if field != "arguments" and any(choice.index != index for each in chunks for choice in each.choices):
        # Several choices take turns. If another digit in this place gives a chunk with that index, the place is the index.
        head, name, rest = before.rpartition(_INDEX)
        if is_template(head + name + b"7" + rest[1:], 7):
            return Template(
                head + name, b'"' + after, between=rest[1:] + b'"', field=field, choice=index, make=make
            )
    if is_template(before, index):
        return Template(before + b'"', b'"' + after, field=field, choice=index, make=make)
    return None


def _find_text(chunk: ChatCompletionChunk) -> tuple[TextField, str] | None:
    """Return the field and the text of a chunk; None if the chunk has no text, or several."""
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


def _make_chunks_like(chunk: ChatCompletionChunk, field: TextField) -> MakeChunks:
    """Return a function that makes chunks like this one, each with another text and index.

    The chunks hold only fields that a stream repeats in every chunk. If a completion already contains a chunk of the same
    choice, such a chunk adds only its text; `CompletionAssembler.extend` relies on that.
    """
    # The fields are copied now: the chunk belongs to the caller, who may change it later.
    id_, created, model, object_ = chunk.id, chunk.created, chunk.model, chunk.object
    fingerprint, tier = chunk.system_fingerprint, chunk.service_tier
    delta = chunk.choices[0].delta
    role, content, reasoning = delta.role, delta.content, delta.reasoning_content
    call = delta.tool_calls[0].index if delta.tool_calls else None

    def make_deltas(texts: Iterable[str]) -> list[ChoiceDelta]:
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
            for index, delta in zip(indices, make_deltas(texts), strict=False)  # `indices` may be endless
        ]

    return make
