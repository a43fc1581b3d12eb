"""`fanout.branch`: what a request does with its chunks before they are merged with those of others."""

from __future__ import annotations

from typing import Any

import pytest
from client_calls import CALL, Start

from gradient_async import FanOutError, StreamLimitError
from gradient_async.config import Limits
from gradient_async.testing import Handler, chunk, reply_sse, reply_writes

FINISH = chunk(finish_reason="stop")


def texts(found: Any) -> dict[int, str | None]:
    return {choice.index: choice.message.content for choice in found.choices}


def in_one_read(*events: Any) -> Handler:
    """Send events in one write: those that differ in their text alone are then decoded as one batch."""
    return reply_writes([reply_sse(*events).data])


@pytest.mark.parametrize("whole", [True, False], ids=["awaited", "read"])
async def test_batches_of_text_get_the_index_of_their_choice(start: Start, whole: bool) -> None:
    """Also where chunks are made of a batch after it was renumbered."""
    replies = [in_one_read(*[chunk(text) for text in "abc" * 200], FINISH) for _ in range(3)]
    _, client = await start(*replies)
    seen: dict[int, str] = dict.fromkeys(range(3), "")
    async with client.chat.completions.fan_out(n=3, **CALL) as fan:
        if not whole:
            async for piece in fan:
                for choice in piece.choices:
                    seen[choice.index] += choice.delta.content or ""
            assert dict.fromkeys(range(3), "abc" * 200) == seen
        found = await fan.completion()
    assert dict.fromkeys(range(3), "abc" * 200) == texts(found)


async def test_batches_with_surplus_choices(start: Start) -> None:
    """The text of surplus choices gets into no choice of the fan-out."""
    both = [chunk(text, index=index) for text in "abc" * 100 for index in (0, 1)]
    ends = [FINISH, chunk(finish_reason="stop", index=1)]
    _, client = await start(*[in_one_read(chunk("-"), chunk("-", index=1), *both, *ends)] * 2)
    found = await client.chat.completions.fan_out(n=2, **CALL).completion()
    assert dict.fromkeys(range(2), "-" + "abc" * 100) == texts(found)


@pytest.mark.parametrize("together", [1, 500], ids=["one event a read", "all in one read"])
@pytest.mark.parametrize("alike", [True, False], ids=["batches", "chunks"])
@pytest.mark.parametrize("whole", [True, False], ids=["awaited", "read"])
async def test_a_reply_over_a_limit_is_an_error_of_its_choice(
    start: Start, together: int, alike: bool, whole: bool
) -> None:
    """The other choice goes on. The error's partial completion has everything received."""
    long = [chunk("x", created=1 if alike else number) for number in range(1, 401)]
    _, client = await start(
        reply_sse(*long, FINISH, per_write=together),
        reply_sse(chunk("short"), FINISH),
        limits=Limits(completion_bytes=300),
    )
    call: dict[str, Any] = {"n": 2, "max_concurrency": 1, "on_error": "collect", **CALL}
    async with client.chat.completions.fan_out(**call) as fan:
        if not whole:
            async for _ in fan:
                pass
        found = await fan.completion()
    assert {1: "short"} == texts(found)
    error = fan.errors[0]
    assert isinstance(error, StreamLimitError)
    assert error.partial is not None
    (partial,) = error.partial.choices
    assert partial.message.content is not None
    assert set(partial.message.content) == {"x"}
    # Chunks behind the one that exceeds the limit, decoded together with it, count as received.
    assert (301 == len(partial.message.content)) is (together == 1)
    assert 301 <= len(partial.message.content) <= 400
    assert {0: partial.message.content, 1: "short"} == texts(fan.snapshot)


async def test_a_reply_over_a_limit_ends_a_fan_out_that_raises(start: Start) -> None:
    _, client = await start(
        *[reply_sse(*[chunk("x" * 50) for _ in range(10)], FINISH)] * 2, limits=Limits(completion_bytes=300)
    )
    with pytest.raises(FanOutError, match="completion_bytes=300") as caught:
        await client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL).completion()
    assert [0] == list(caught.value.errors)


@pytest.mark.parametrize("text", ["x", None])
async def test_chunks_without_content_do_not_add_up(start: Start, text: str | None) -> None:
    """A server may send them for ever: what they brought is kept once, assembled."""

    def annotated(number: int) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"annotations": [number]}}]}

    last = [chunk(text), annotated(100), chunk(finish_reason="stop")] if text else [annotated(100)]
    reply = reply_sse(*map(annotated, range(100)), *last, per_write=3)
    _, client = await start(reply, reply)
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        seen = [piece async for piece in fan]
        completion = await fan.completion()
    assert [0, 1] == [choice.index for choice in completion.choices]
    for choice in completion.choices:
        assert list(range(101)) == choice.message.annotations
        assert text == choice.message.content
    assert len(seen) <= 8
