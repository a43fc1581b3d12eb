"""A workload of tools: a run beside the same by hand."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable
from typing import Any

from gradient_async import AsyncGradient, tool

from .clients import CALL
from .harness import Figures, case, quickest, workload


@tool
async def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


async def _run(client: Any) -> Any:
    return await client.chat.completions.run(**CALL, tools=[add]).completion()


async def _events(client: Any) -> Any:
    async with client.chat.completions.run(**CALL, tools=[add]) as run:
        async for _ in run:
            pass
        return await run.completion()


async def _by_hand(client: Any) -> Any:
    """Do what a run does, without its checks: with this library, and with openai, which has the same methods."""
    messages = [*CALL["messages"]]
    call = CALL | {"messages": messages, "tools": [add.to_dict()]}
    while True:
        async with client.chat.completions.stream(**call) as stream:
            completion = await stream.get_final_completion()
        message = completion.choices[0].message
        messages.append(message)
        calls: list[Any] = message.tool_calls or []
        if not calls:
            return completion
        results = await asyncio.gather(
            *(add.function(**json.loads(each.function.arguments)) for each in calls)
        )
        for each, result in zip(calls, results, strict=True):
            messages.append({"role": "tool", "tool_call_id": each.id, "content": json.dumps(result)})


def _ours(url: str) -> Any:
    return AsyncGradient(base_url=url, model_access_key="any")


def _openai(url: str) -> Any:
    return importlib.import_module("openai").AsyncOpenAI(base_url=url, api_key="any")


_RUNS: dict[str, tuple[Callable[[str], Any], Callable[[Any], Any]]] = {
    "run": (_ours, _run),
    "run, events": (_ours, _events),
    "by hand": (_ours, _by_hand),
    "openai, by hand": (_openai, _by_hand),
}


@workload(
    *_RUNS,
    cases=[case(f"{calls} tools", f"tools-{calls}") for calls in (10, 100)],
    to=("by hand",),
)
async def run(contender: str, *, url: str) -> Figures:
    """A run of several tools beside the same by hand: CPU for each run, which is two streams and the calls between them.

    The functions are async and add two numbers. "by hand" is a loop of 15 lines that checks nothing.
    """
    make, work = _RUNS[contender]
    async with make(url) as client:

        async def turn() -> None:
            assert (await work(client)).choices[0].message.content

        return {"cpu_us": await quickest(turn) * 1e6}


WORKLOADS = {"run": run}
