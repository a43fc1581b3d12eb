"""What the tests of the fault list share: the healthy stream, both ways of asking, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from leaked_key import expect_plain_cause

from gradient_async import (
    APIError,
    AsyncGradient,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionStream,
    GradientError,
    Timeout,
)
from gradient_async.testing import Handler, Server, chunk, reply_json, reply_sse
from gradient_async.testing import completion as whole

__all__ = [
    "CALL",
    "FINISH",
    "QUICK",
    "TEXT",
    "TOKENS",
    "Seen",
    "Start",
    "asked",
    "expect_connection",
    "failed",
    "healthy",
    "healthy_call",
    "streamed",
    "tokens",
]

CALL: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
TOKENS = [chunk(f"tok{number} ") for number in range(5)]
TEXT = "tok0 tok1 tok2 tok3 tok4 "
FINISH = chunk(finish_reason="stop", usage={"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8})
# Limits short enough to be waited for.
QUICK = Timeout(connect=0.5, first_token=0.4, idle=0.4, response=0.4)

Start = Callable[..., Awaitable[tuple[Server, AsyncGradient]]]
E = TypeVar("E", bound=GradientError)


def tokens(count: int = 5) -> str:
    """The text of the first so many tokens."""
    return TEXT[: 5 * count]


def healthy() -> Handler:
    """The stream that nothing is wrong with."""
    return reply_sse(*TOKENS, FINISH)


def healthy_call() -> Handler:
    """The same as a whole reply."""
    return reply_json(whole(TEXT))


@dataclass(slots=True)
class Seen:
    """What came of a request.

    Attributes:
        delivered: Text of choice 0 that the iterator handed out, or of the completion.
        error: What was raised, or None.
        stream: The stream, where there was one.
        completion: The whole completion, where there was one.
        seconds: How long it took.
    """

    delivered: str = ""
    error: BaseException | None = None
    stream: ChatCompletionStream | None = None
    completion: ChatCompletion | None = None
    seconds: float = 0.0
    chunks: list[ChatCompletionChunk] = field(default_factory=list[ChatCompletionChunk])


async def streamed(
    client: AsyncGradient, *, pace: float = 0.0, within: float = 20, into: Seen | None = None, **params: Any
) -> Seen:
    """Stream a completion to its end.

    Args:
        client: The client.
        pace: How many seconds the consumer takes for each chunk.
        within: How many seconds it may take in all.
        into: Where to note each chunk as it comes.
        params: Parameters of the call.
    """
    seen = into or Seen()
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(within):  # nothing hangs
            stream: ChatCompletionStream = await client.chat.completions.create(
                stream=True, **(CALL | params)
            )
            seen.stream = stream
            async for piece in stream:
                seen.chunks.append(piece)
                seen.delivered += "".join(c.delta.content or "" for c in piece.choices if c.index == 0)
                if pace:
                    await asyncio.sleep(pace)
            seen.completion = await stream.completion()
            assert stream.completed
    except GradientError as error:
        seen.error = error
    except TimeoutError:
        if seen.stream is not None:
            await seen.stream.aclose()  # one failure is enough
        raise
    seen.seconds = asyncio.get_running_loop().time() - began
    return seen


async def asked(client: AsyncGradient, **params: Any) -> Seen:
    """Await a completion."""
    seen = Seen()
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(20):
            completion = cast("ChatCompletion", await client.chat.completions.create(**(CALL | params)))
        seen.completion = completion
        seen.delivered = completion.choices[0].message.content or ""
    except GradientError as error:
        seen.error = error
    seen.seconds = asyncio.get_running_loop().time() - began
    return seen


def failed(seen: Seen, kind: type[E], *, text: str | None = None, says: str = "", **facts: Any) -> E:
    """Expect an error of just that class; return it.

    Args:
        seen: What came of the request.
        kind: The class.
        text: What has to be in ``.partial`` and to have been delivered; None for errors that have none.
        says: Words of the message.
        **facts: Attributes of the error.
    """
    error = seen.error
    assert kind is type(error), f"{kind.__name__} expected, not {error!r}"
    assert isinstance(error, kind)
    assert says in str(error)
    assert {name: getattr(error, name) for name in facts} == facts
    if error.__cause__ is not None:  # aiohttp's own errors hold the key
        expect_plain_cause(error)
    assert error.__context__ is None
    if isinstance(error, APIError):
        assert error.elapsed is not None
        assert 0 <= error.elapsed <= seen.seconds
        assert error.request is not None
    if text is not None:
        partial: Any = getattr(error, "partial", None)
        assert isinstance(partial, ChatCompletion)
        assert text == seen.delivered
        assert text == "".join(choice.message.content or "" for choice in partial.choices[:1])
    return error


async def expect_connection(
    server: Server, client: AsyncGradient, what: Literal["reused", "closed"], *, within: float = 0.5
) -> None:
    """Make one more call, and see whether it goes over the connection that there was."""
    if what == "closed":
        await server.wait_closed_connections(timeout=within)
    before = server.connections
    server.push(healthy_call())
    assert (await asked(client)).delivered == TEXT
    assert before + (what == "closed") == server.connections
