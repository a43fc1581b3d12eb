"""``gradient-async demo``: show what the library does, live, with a simulated model on this machine."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any, Literal

import msgspec

from ..client import AsyncGradient
from ..stream import ChatCompletionStream
from ..testing import serve
from .chat import show
from .command import DEFAULT_MODEL, LOG_VARIABLES, SCREEN_VARIABLES, Command
from .display import on_terminal, one_line, say, say_bold, write

# Seconds between tokens: slow enough to watch on a terminal, and fast if the output goes elsewhere.
_TERMINAL_DELAY = 0.02
_DELAY = 0.002


async def run_demo(_arguments: argparse.Namespace) -> int:
    """Run the command; return 0."""
    delay = _TERMINAL_DELAY if on_terminal(sys.stdout) else _DELAY
    async with (
        serve(delay=delay) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="demo") as client,
    ):
        say(f"A simulated model answers at {server.url}: real HTTP, no key, no network.")
        await _await_one(client)
        await _run(client)
        await _parse(client)
        await _stream_logprobs(client)
        await _stream_choices(client)
        await _fan_out(client)
        await _map(client)
        say(f"\n{len(server.requests)} requests over {server.connections} connection(s).")
    say("Next: gradient-async chat --local 'Tell me a story'")
    return 0


def _title(text: str) -> None:
    say()
    if on_terminal(sys.stdout):
        say_bold(text)
    else:
        say(text)


def _prompt(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def _say_timing(stream: ChatCompletionStream) -> None:
    timing = stream.timing
    first = 0.0 if timing.first_token is None else timing.first_token
    gap = statistics.median(timing.gaps) if timing.gaps else 0.0
    say(
        f"  [first token after {1000 * first:.1f} ms, then one read every {1000 * gap:.1f} ms, "
        f"{1000 * timing.total:.0f} ms in all; complete: {'yes' if stream.completed else 'no'}]"
    )


async def _await_one(client: AsyncGradient) -> None:
    _title("1. await client.chat.completions.create(...)")
    messages = _prompt("What does a streaming client do?")
    completion = await client.chat.completions.create(model=DEFAULT_MODEL, messages=messages)
    choice, usage = completion.choices[0], completion.usage
    say(f"  {choice.message.content or ''}")
    say(
        f"  [{one_line(choice.finish_reason or '')}, {0 if usage is None else usage.total_tokens} tokens, "
        f"{completion.attempts} request, id {completion.request_id}]"
    )


async def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"18 degrees in {city}"


async def _run(client: AsyncGradient) -> None:
    _title("2. run(tools=[get_weather]): the model calls a function, twice, and answers")
    messages = _prompt("What is the weather in Paris and Tokyo?")
    async with client.chat.completions.run(
        model=DEFAULT_MODEL, messages=messages, tools=[get_weather]
    ) as run:
        async for event in run:
            if event.type == "tool_calls.start":
                write(f"\n  {event.name} ")
            elif event.type == "tool_calls.function.arguments.delta":
                write(f"·{event.arguments_delta}")
            elif event.type == "tool.started" and event.index == 0:
                say()
            elif event.type == "tool.finished":
                say(f"  -> {one_line(event.content)}")
            elif event.type == "content.delta":
                write(event.delta if len(event.delta) < len(event.snapshot) else f"  {event.delta}")
    say(f"\n  [{len(run.turns)} requests, {0 if run.usage is None else run.usage.total_tokens} tokens]")


class Forecast(msgspec.Struct):
    """The type of an answer."""

    city: str
    degrees: int
    sky: Literal["clear", "cloudy"]


async def _parse(client: AsyncGradient) -> None:
    _title("3. await parse(response_format=Forecast): the answer is an object")
    messages = _prompt("Forecast the weather in Paris.")
    completion = await client.chat.completions.parse(
        model=DEFAULT_MODEL, messages=messages, response_format=Forecast
    )
    say(f"  {one_line(repr(completion.parsed))}")


async def _stream_logprobs(client: AsyncGradient) -> None:
    _title("4. logprobs=True: the probability of each token")
    async with client.chat.completions.stream(
        model=DEFAULT_MODEL, messages=_prompt("Count to five."), logprobs=True, top_logprobs=3
    ) as stream:
        await show(stream, logprobs=True)
    _say_timing(stream)


async def _stream_choices(client: AsyncGradient) -> None:
    _title("5. n=3: three answers in one stream, side by side")
    messages = _prompt("Name a good habit.")
    async with client.chat.completions.stream(model=DEFAULT_MODEL, messages=messages, n=3) as stream:
        await show(stream, 3)
    _say_timing(stream)


async def _fan_out(client: AsyncGradient) -> None:
    _title("6. fan_out(n=6, max_concurrency=3, first=2): the first two answers win, the rest are cancelled")
    messages = _prompt("Name another good habit.")
    async with client.chat.completions.fan_out(
        n=6, max_concurrency=3, first=2, model=DEFAULT_MODEL, messages=messages
    ) as fan:
        completion = await fan.completion()
    for choice in completion.choices:
        say(f"  {choice.index}: {choice.message.content or ''}")
    say("  (The simulated model answers equal requests alike; a model that samples does not.)")
    states = ", ".join(f"{result.index} {result.state}" for result in fan.results)
    say(f"  [{states}; {fan.attempts} requests, {1000 * fan.timing.total:.0f} ms]")


async def _map(client: AsyncGradient) -> None:
    _title("7. async for result in map(requests, max_concurrency=16): forty prompts")
    start = time.monotonic()
    tokens = 0
    requests = ({"messages": _prompt(f"Count to {number}.")} for number in range(1, 41))
    async for result in client.chat.completions.map(requests, max_concurrency=16, model=DEFAULT_MODEL):
        usage = result.unwrap().usage
        tokens += 0 if usage is None else usage.total_tokens
    seconds = time.monotonic() - start
    say(f"  [40 completions, {tokens} tokens, {1000 * seconds:.0f} ms: {40 / seconds:.0f} a second]")


def _add_no_arguments(_parser: argparse.ArgumentParser) -> None:
    """Do nothing: this command has no arguments."""


COMMAND = Command(
    "demo",
    help="show what the library does; needs no key",
    description="Show what the library does, with a simulated model on this machine. Needs no key.",
    add_arguments=_add_no_arguments,
    run=run_demo,
    variables=LOG_VARIABLES | SCREEN_VARIABLES,
)
