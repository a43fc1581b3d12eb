"""``gradient-async chat``: ask a model and watch it answer."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

from ..client import AsyncGradient
from ..errors import GradientError, StreamError
from ..stream import ChatCompletionStream
from .render import View, make_view
from .text import say

__all__ = ["chat", "show"]

_LOCAL_DELAY = 0.02  # seconds between the simulated model's tokens, so that there is something to watch


async def chat(arguments: argparse.Namespace) -> int:
    """Stream one answer, or several side by side.

    Args:
        arguments: Those of the command line.

    Returns:
        0, or 1 if no whole answer came.
    """
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    try:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(await _client(arguments, stack))
            async with client.chat.completions.stream(**_params(arguments, prompt)) as stream:
                if arguments.json:
                    say((await stream.completion()).to_json(indent=None))
                else:
                    with make_view(arguments.n or 1, logprobs=arguments.logprobs) as view:
                        await show(stream, view, arguments.n or 1)
    except GradientError as error:
        print(f"gradient-async: {type(error).__name__}: {error}", file=sys.stderr)
        if isinstance(error, StreamError) and arguments.json and error.partial is not None:
            print(error.partial.to_json(indent=None), file=sys.stderr)
        return 1
    return 0


async def _client(arguments: argparse.Namespace, stack: AsyncExitStack) -> AsyncGradient:
    if not arguments.local:
        return AsyncGradient(base_url=arguments.base_url)
    from ..testing import serve  # noqa: PLC0415  # only --local needs it

    delay = 0.0 if arguments.json else _LOCAL_DELAY
    server = await stack.enter_async_context(serve(delay=delay))
    return AsyncGradient(inference_endpoint=server.url, model_access_key="local")


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


async def show(stream: ChatCompletionStream, view: View, n: int) -> None:
    """Show a stream's choices as they come.

    Args:
        stream: The stream.
        view: Where to show them.
        n: How many choices were asked for; each is read by a task of its own.
    """

    async def follow(index: int) -> None:
        async for chunk in stream.choice(index):
            view.add(chunk.choices[0])

    if n == 1:
        async for chunk in stream:
            for choice in chunk.choices:
                view.add(choice)
    else:
        # Every reader is told how a stream ended badly: one word of it is enough.
        results = await asyncio.gather(*(follow(index) for index in range(n)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
    view.finish(await stream.completion())
