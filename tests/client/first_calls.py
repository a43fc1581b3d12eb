"""A program that makes the first calls of its process, for `test_threads.py`."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from gradient_async import APIError, AsyncGradient
from gradient_async.session import aiohttp_internals
from gradient_async.testing import Handler, chunk, completion, reply_json, reply_sse, serve

THREADS = 8
CALL: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0.5,
    "stop": ["a"],
    "metadata": {"a": "b"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
}


def make_client(url: str) -> AsyncGradient:
    """Make a client of a server."""
    return AsyncGradient(
        model_access_key="k", agent_access_key="a", inference_endpoint=url, agent_endpoint=url, max_retries=0
    )


async def make_calls(client: AsyncGradient) -> None:
    """Make calls of each kind."""
    chat: Any = client.chat.completions
    agents = client.agents.chat.completions
    assert (await chat.create(**CALL)).choices
    assert (await (await chat.create(**CALL, stream=True, stream_options={})).completion()).choices
    assert (await agents.create(messages=CALL["messages"])).choices
    assert (await client.models.list()).data
    async with chat.fan_out(n=2, **CALL) as fan:
        assert len((await fan.completion()).choices) == 2
    assert [True] == [result.completion is not None async for result in chat.map([CALL])]


def together(url: str, clients: str, loop: str, way: str) -> None:
    """Let threads, each with a loop, make their first calls at the same moment."""
    sys.setswitchinterval(1e-5)
    aiohttp_internals.enabled = way == "internals"
    shared = make_client(url) if clients == "one client" else None
    start = threading.Barrier(THREADS)

    async def call() -> None:
        client = shared or make_client(url)
        start.wait()
        await make_calls(client)
        if shared is None:
            await client.close()

    def work() -> None:
        if loop == "uvloop":
            import uvloop  # noqa: PLC0415  # loaded only where it is asked for

            uvloop.run(call())
        else:
            asyncio.run(call())

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def tables() -> None:
    """Print the functions with which msgspec builds a table, if any is called, by the client or the test server."""

    def profile(frame: Any, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_globals.get("__name__") == "msgspec._utils":
            print(frame.f_code.co_name)  # noqa: T201  # what the test expects not to be there

    sys.setprofile(profile)
    async with serve() as server, make_client(server.url) as client:
        await make_calls(client)
    logprobs = {"content": [{"token": "a", "logprob": "0"}]}
    choice = {"index": "0", "delta": {"content": "a"}, "finish_reason": "stop", "logprobs": logprobs}
    odd = chunk("a") | {"choices": [choice], "usage": {"prompt_tokens": "1"}}
    whole = completion("a") | {"usage": {"prompt_tokens": "1"}, "created": "x"}
    replies: list[Handler] = [
        reply_sse(odd),
        reply_json(whole),
        reply_json({"error": {"message": "no"}}, status=400),
        reply_json({"data": [{"id": 1}]}),
    ]
    async with serve(*replies) as server, make_client(server.url) as client:
        await (await client.chat.completions.create(**CALL, stream=True)).completion()
        await client.chat.completions.create(**CALL)
        try:
            await client.chat.completions.create(**CALL)
        except APIError:
            assert (await client.models.list()).to_json()


if __name__ == "__main__":
    if sys.argv[1] == "tables":
        asyncio.run(tables())
    else:
        together(*sys.argv[2:])
