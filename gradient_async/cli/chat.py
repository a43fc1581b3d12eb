"""``gradient-async chat``: send a prompt to a model and show the answer as it arrives."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from ..client import AsyncGradient
from ..errors import GradientError, StreamError
from ..stream import ChatCompletionStream
from ..testing import serve
from .display import complain, json_line, note, open_display, say_json

DEFAULT_MODEL = "llama3.3-70b-instruct"

_LOCAL_DELAY = 0.02  # seconds between the simulated model's tokens: slow enough to watch


async def run_chat(arguments: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if the answer is not complete."""
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    try:
        async with (
            open_client(arguments, delay=0.0 if arguments.json else _LOCAL_DELAY) as client,
            client.chat.completions.stream(**_params(arguments, prompt)) as stream,
        ):
            if arguments.json:
                say_json((await stream.completion()).to_dict())
            else:
                await show(stream, arguments.n or 1, logprobs=arguments.logprobs)
    except GradientError as error:
        complain(f"{type(error).__name__}: {error}")
        if isinstance(error, StreamError) and arguments.json and error.partial is not None:
            note(json_line(error.partial.to_dict()))
        return 1
    return 0


@asynccontextmanager
async def open_client(
    arguments: argparse.Namespace, *, delay: float = 0.0
) -> AsyncGenerator[AsyncGradient, None]:
    """Open a client for Gradient, for ``--base-url``, or, with ``--local``, for a simulated model.

    The simulated model waits ``delay`` seconds before each token.
    """
    if arguments.local:
        async with (
            serve(delay=delay) as server,
            AsyncGradient(inference_endpoint=server.url, model_access_key="local") as client,
        ):
            yield client
    else:
        async with AsyncGradient(base_url=arguments.base_url) as client:
            yield client


def _params(arguments: argparse.Namespace, prompt: str) -> Any:
    messages = [{"role": "user", "content": prompt}]
    if arguments.system is not None:
        messages.insert(0, {"role": "system", "content": arguments.system})
    params: dict[str, Any] = {"model": arguments.model, "messages": messages}
    for name in ("n", "max_tokens", "temperature"):
        if getattr(arguments, name) is not None:
            params[name] = getattr(arguments, name)
    if arguments.logprobs:
        params |= {"logprobs": True, "top_logprobs": 3}
    return params


async def show(stream: ChatCompletionStream, n: int = 1, *, logprobs: bool = False) -> None:
    """Show the ``n`` choices of a stream as they arrive; with ``logprobs`` the probability of each token."""
    with open_display(sys.stdout, panes=n) as display:

        async def follow(index: int) -> None:
            async for chunk in stream.choice(index):
                display.add(chunk.choices[0], logprobs=logprobs)

        if n == 1:
            async for chunk in stream:
                for choice in chunk.choices:
                    display.add(choice, logprobs=logprobs)
        else:
            # One task reads each choice, as users' code may. An error of the stream reaches every reader. All readers
            # end before the first error is raised, and the other errors, which are the same, are dropped.
            results = await asyncio.gather(*map(follow, range(n)), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        display.add_calls(await stream.completion())
