"""Replies that call tools, and functions to call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from client_calls import CALL, MESSAGES, Start
from msgspec import Struct

from gradient_async import AsyncGradient, ToolFinishedEvent, ToolRun, ToolRunEvent
from gradient_async.testing import Handler, chunk, completion, reply_json, reply_sse

__all__ = [
    "PARIS",
    "ROME",
    "USAGE",
    "Told",
    "add",
    "answers",
    "begin",
    "calls",
    "events_of",
    "get_weather",
    "leave",
    "sent",
    "shown",
    "tell",
]

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
PARIS = ("get_weather", '{"city":"Paris"}')
ROME = ("get_weather", '{"city":"Rome"}')
CallOf = tuple[str, str] | tuple[str, str, str]


async def get_weather(city: str, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather of a city."""
    await asyncio.sleep(0)
    return f"{city}: 20 {unit}"


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def calls(
    *calls: CallOf,
    content: str | None = None,
    finish_reason: str | None = "tool_calls",
    stream: bool = True,
    usage: dict[str, Any] | None = USAGE,
    gap: float = 0.0,
) -> Handler:
    """Reply with calls, each a name, arguments and an id, which is the letter of its position by default."""
    entries = [
        {
            "index": index,
            "id": call[2] if len(call) > 2 else "abcdefghij"[index],
            "type": "function",
            "function": {"name": call[0], "arguments": call[1]},
        }
        for index, call in enumerate(calls)
    ]
    if not stream:
        return reply_json(
            completion(content, tool_calls=entries or None, finish_reason=finish_reason, usage=usage)
        )
    pieces = [chunk(content)] if content is not None else []
    pieces += [chunk(tool_calls=[entry]) for entry in entries]
    pieces.append(chunk(finish_reason=finish_reason))
    return reply_sse(*pieces, *([chunk(choices=[], usage=usage)] if usage else []), gap=gap)


def answers(text: str | None = "Done.", **options: Any) -> Handler:
    """Reply with a text."""
    given: dict[str, Any] = {"finish_reason": "stop"} | options
    return calls(content=text, **given)


def begin(client: AsyncGradient, *tools: Any, **options: Any) -> ToolRun[Any]:
    """Begin a run."""
    run: Any = client.chat.completions.run
    made: ToolRun[Any] = run(**(CALL | {"tools": list(tools) or [get_weather, add]} | options))
    return made


async def events_of(run: ToolRun[Any]) -> list[ToolRunEvent]:
    """Read a run to its end."""
    async with run:
        return [event async for event in run]


def sent(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return messages as they are sent."""
    return [each if isinstance(each, dict) else each.to_dict() for each in messages]  # pyright: ignore[reportUnknownVariableType]


def shown(messages: Sequence[Any]) -> list[Any]:
    """Return the messages after the first, as they are sent: calls, results and texts."""
    shown: list[Any] = []
    for message in sent(messages[1:]):
        if message.get("tool_calls"):
            shown.append([call["id"] for call in message["tool_calls"]])
        elif message["role"] == "tool":
            shown.append((message["tool_call_id"], message["content"]))
        else:
            shown.append(message["content"])
    return shown


class Told(Struct):
    """What a run told the model of one call."""

    content: str
    event: ToolFinishedEvent


async def tell(start: Start, function: Any, arguments: str = "", **options: Any) -> Told:
    """Let the model call a function once."""
    name = function.name if hasattr(function, "name") else function.__name__
    server, client = await start(calls((name, arguments)), answers())
    events = await events_of(begin(client, function, **options))
    content = server.requests[1].json["messages"][2]["content"]
    [event] = [event for event in events if isinstance(event, ToolFinishedEvent)]
    assert content == event.content
    return Told(content, event)


async def leave(start: Start, function: Any, kind: type[BaseException], **options: Any) -> BaseException:
    """Let the model call a function that ends the run."""
    server, client = await start(calls((function.__name__, ""), ("hang", "")), answers())
    hanging: list[bool] = []

    async def hang() -> None:
        hanging.append(True)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            hanging.remove(True)

    run = begin(client, function, hang, **options)
    with pytest.raises(kind) as raised:
        await run.completion()
    assert ([], 1, MESSAGES, 1) == (hanging, len(server.requests), run.messages, len(run.turns))
    return raised.value
