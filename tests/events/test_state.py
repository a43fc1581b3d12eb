"""`ChatCompletionStreamState`: chunks in, events out, the completion at any moment."""

from __future__ import annotations

import gc

import pytest

import gradient_async
from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamLimitError, StreamTruncatedError
from gradient_async.events import ChatCompletionStreamState, EventBuilder
from gradient_async.testing import chunk, sse

WIRE = sse(chunk("Hel"), chunk("lo"), chunk(finish_reason="stop"))


def test_it_is_assembler_and_builder_at_once() -> None:
    """The same events and completions as from the two, chunk by chunk."""
    assert gradient_async.ChatCompletionStreamState is ChatCompletionStreamState
    state, assembler = ChatCompletionStreamState(), CompletionAssembler()
    builder = EventBuilder(assembler)
    for piece in ChunkDecoder().feed(WIRE):
        assembler.add(piece)
        expected = [(event.type, event.choice) for event in builder.add(piece)]
        assert expected == [(event.type, event.choice) for event in state.handle_chunk(piece)]
        assert assembler.completion == state.current_completion_snapshot
    final = state.get_final_completion()
    assert ("Hello", "stop") == (final.choices[0].message.content, final.choices[0].finish_reason)


def test_a_completion_that_is_not_whole() -> None:
    """Without a choice; with ``strict``, also without a finish_reason."""
    with pytest.raises(StreamTruncatedError) as caught:
        ChatCompletionStreamState().get_final_completion()
    assert caught.value.partial is not None
    assert [] == caught.value.partial.choices
    (piece,) = ChunkDecoder().feed(sse(chunk("a"), done=False))
    lenient, strict = ChatCompletionStreamState(), ChatCompletionStreamState(strict=True)
    for state in (lenient, strict):
        state.handle_chunk(piece)
    assert "a" == lenient.get_final_completion().choices[0].message.content
    with pytest.raises(StreamTruncatedError) as caught:
        strict.get_final_completion()
    assert caught.value.partial == lenient.current_completion_snapshot


def test_its_limits_hold() -> None:
    state = ChatCompletionStreamState(n=2, limits=Limits(choices=1))
    pieces = ChunkDecoder(n=3).feed(sse(chunk("a", index=1), chunk("b", index=2)))
    state.handle_chunk(pieces[0])
    with pytest.raises(StreamLimitError, match="choices=2"):
        state.handle_chunk(pieces[1])


def test_it_is_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        state = ChatCompletionStreamState()
        for piece in ChunkDecoder().feed(WIRE):
            state.handle_chunk(piece)
        del state
        assert not [found for found in gc.get_objects() if type(found) is ChatCompletionStreamState]
    finally:
        gc.enable()
