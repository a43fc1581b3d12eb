"""Nothing outlives a stream that was closed while somebody waited for it, or that was dropped."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, cast

import aiohttp
import pytest

from gradient_async import AsyncGradient, ChatCompletionStream, StreamError, StreamInterruptedError
from gradient_async.session.deadlines import DeadlineTimer
from gradient_async.testing import HOLD, Server, chunk, reply_sse, reply_writes, serve

CALL: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
UNENDING = reply_writes([*reply_sse(chunk("Hel"), done=False).steps[:-1], HOLD])


async def read_until_closed(server: Server, *, by_client: bool) -> weakref.ref[ChatCompletionStream]:
    """Close a stream, or its client, while a task waits for its next chunk; read on all the same."""
    client = AsyncGradient(inference_endpoint=server.url, model_access_key="any")
    stream = cast("ChatCompletionStream", await client.chat.completions.create(**CALL))
    assert "Hel" == (await anext(stream)).choices[0].delta.content

    async def read() -> None:
        with pytest.raises(StreamInterruptedError):
            await anext(stream)

    waiting = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    await (client if by_client else stream).close()
    await waiting
    with pytest.raises(StreamError):
        await anext(stream)
    await client.close()
    return weakref.ref(stream)


@pytest.mark.parametrize("by_client", [False, True], ids=["stream", "client"])
async def test_a_stream_closed_while_waited_for_is_forgotten(by_client: bool) -> None:
    """Aiohttp raises one and the same object for all that is closed: it must not gather our frames."""
    async with serve(UNENDING, repeat=True) as server:
        streams = [await read_until_closed(server, by_client=by_client) for _ in range(3)]
    gc.collect()
    assert [None] * 3 == [stream() for stream in streams]


async def read_while_handling(server: Server) -> weakref.ref[ChatCompletionStream]:
    """Read on after the client was closed, while another exception is being handled."""
    client = AsyncGradient(inference_endpoint=server.url, model_access_key="any")
    stream = cast("ChatCompletionStream", await client.chat.completions.create(**CALL))
    await anext(stream)
    await client.close()
    try:
        raise LookupError
    except LookupError:
        with pytest.raises(StreamInterruptedError):
            await anext(stream)
    return weakref.ref(stream)


async def test_a_stream_read_while_an_exception_is_handled_is_forgotten() -> None:
    """Nor does it keep that exception, which holds frames as well."""
    async with serve(UNENDING, repeat=True) as server:
        stream = await read_while_handling(server)
    gc.collect()
    assert stream() is None


async def test_a_stream_goes_on_though_its_client_was_dropped() -> None:
    """As in ``await AsyncGradient().chat.completions.create(stream=True)``; afterwards nothing is left open."""
    reply = reply_sse(chunk("Hel"), chunk("lo"), chunk(finish_reason="stop"), gap=0.02)
    async with serve(reply) as server:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="any")
        stream = cast("ChatCompletionStream", await client.chat.completions.create(**CALL))
        pool = weakref.ref(client._core.connections.manager.pool)
        del client
        assert "Hello" == (await stream.completion()).choices[0].message.content
        assert pool() is None
        await server.wait_closed_connections()


async def test_a_stream_whose_session_the_caller_closed_was_interrupted() -> None:
    """And nobody is blamed for reading it twice."""
    async with serve(UNENDING) as server:
        session = aiohttp.ClientSession()
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="any", session=session)
        stream = cast("ChatCompletionStream", await client.chat.completions.create(**CALL))
        assert "Hel" == (await anext(stream)).choices[0].delta.content
        await session.close()
        with pytest.raises(StreamInterruptedError) as caught:
            await anext(stream)
    assert caught.value.partial is not None
    assert "Hel" == caught.value.partial.choices[0].message.content


async def test_a_dropped_stream_leaves_no_timer() -> None:
    """Whether its connection is still open, or went back to the pool since it was last read.

    The one timer of the loop, by which it is not looked at any more, rings once more.
    """
    timer = DeadlineTimer.of(asyncio.get_running_loop())
    reply = reply_sse(chunk("Hel"), chunk("lo"), chunk(finish_reason="stop"), gap=0.03)
    async with (
        serve(reply, repeat=True) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="any") as client,
    ):
        for wait in (0.0, 0.15):
            stream = cast("ChatCompletionStream | None", await client.chat.completions.create(**CALL))
            assert stream is not None
            assert "Hel" == (await anext(stream)).choices[0].delta.content
            assert "lo" == (await anext(stream)).choices[0].delta.content  # waited for, with a limit
            assert 1 == len(timer._timed)
            await asyncio.sleep(wait)
            with pytest.warns(ResourceWarning):
                stream = None  # its last reference
            assert {} == timer._timed


async def test_a_stream_dropped_in_another_thread_leaves_a_pooled_connection_alone() -> None:
    """Its connection went back to the pool meanwhile: the next call may have it, and nothing is closed."""
    reply = reply_sse(chunk("Hel"), chunk(finish_reason="stop"))
    async with (
        serve(reply, repeat=True) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="any") as client,
    ):
        streams = [cast("ChatCompletionStream", await client.chat.completions.create(**CALL))]
        assert "Hel" == (await anext(streams[0])).choices[0].delta.content
        await asyncio.sleep(0.05)
        with pytest.warns(ResourceWarning, match="dropped"):
            await asyncio.to_thread(streams.clear)
        async with cast("ChatCompletionStream", await client.chat.completions.create(**CALL)) as stream:
            assert "Hel" == (await stream.completion()).choices[0].message.content
        assert 1 == server.connections
