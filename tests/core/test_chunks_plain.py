"""Blocks of one-line events, decoded in one go: to what each event decodes to by itself, whatever JSON is in them."""

from __future__ import annotations

from itertools import product

import pytest
from alike import by_itself, outcome
from wire import DONE, delta, event, raw, text

from gradient_async.decoding import ChunkDecoder, chunks
from gradient_async.types import ChatCompletionChunk

ONE = '{"choices":[{}]}'
# Payloads that begin and end as objects do; some only with the next event would be one, and some are several.
PAYLOADS = [
    ONE,
    ONE + ONE,
    f"{ONE} {ONE}",
    f"{ONE}null",
    "{}",
    '{"choices":[{}],"x":"}',
    '{"}',
    '{"choices":[{}],"x":[{}',
    "{}]}",
    '{"choices":[{"delta":{}',
    '{"choices":[{}],"x":"}       {"}',
    '{"choices":[{}],"x":"}\\n\\ndata: {"}',
]


@pytest.mark.parametrize("first", PAYLOADS)
@pytest.mark.parametrize("mode", ["raise", "skip"])
def test_no_value_goes_on_from_one_event_into_the_next(first: str, mode: str) -> None:
    """Where one event has two values, and two events share one, there are as many values as events."""
    for others in product(PAYLOADS, repeat=2):
        wire = b"".join(map(raw, (first, *others)))
        assert outcome(by_itself(wire), on_bad_event=mode) == outcome([wire], on_bad_event=mode)


@pytest.mark.parametrize(
    "odd",
    [
        event(delta(content="b", tool_calls=[])),
        event(delta(content="b", tool_calls=[{"index": 1}, {"index": 999}])),
        event(delta(content="b", tool_calls=[{"index": 999}])),
        event(delta(content="b", tool_calls=[{}])),
        event(delta(content="b", tool_calls=[{"index": 127}])),
        event(delta(reasoning="b")),
        event(delta(content="b") | {"finish_reason": ""}),
        event(delta(content="b") | {"finish_reason": "stop"}),
        event(delta(3, content="b")),
        event(delta(999, content="b")),
        event(delta(-1, content="b")),
        event(delta(content="b"), delta(1, content="c", tool_calls=[], reasoning="d")),
        event(delta(content="b"), delta(999, content="c")),
        event(delta(content="b"), error={"message": "e"}),
        event(delta(content="b"), delta(1, content="b"), error={"message": "e"}),
        event(),
    ],
)
@pytest.mark.parametrize("n", [None, 1])
def test_an_event_that_needs_a_closer_look_gets_it(odd: bytes, n: int | None) -> None:
    for wire in (odd + text("a"), text("a") + odd + text("c"), text("a") * 2 + odd + DONE):
        assert outcome(by_itself(wire), n=n) == outcome([wire], n=n)
    assert outcome(by_itself(text("a") + odd), n=n) == outcome([text("a"), odd], n=n)


def test_the_last_event_of_a_block_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its field's name and its end, and unless it is long."""
    learned: list[bytes] = []

    def learn(payload: bytes, _decoded: list[ChatCompletionChunk]) -> None:
        learned.append(payload)

    monkeypatch.setattr(chunks, "learn", learn)
    for block in (
        text("a"),
        text("a") + text("bc"),
        text("a") + text("x" * 3000),
        text("x" * 3000) + text("d"),
    ):
        ChunkDecoder().feed(block)
    assert [text("a")[6:-2], text("bc")[6:-2], text("d")[6:-2]] == learned
