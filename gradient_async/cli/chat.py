"""``gradient-async chat``: send a prompt to a model and show the answer as it arrives."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from ..errors import GradientError, StreamError
from ..stream import ChatCompletionStream
from .command import (
    CLIENT_VARIABLES,
    DEFAULT_MODEL,
    SCREEN_VARIABLES,
    Command,
    add_client_arguments,
    open_client,
)
from .display import complain, json_line, note, open_display, say_json

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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help="text to send as the user; - reads standard input")
    add("-n", type=int, metavar="N", help="number of answers, shown side by side (default: 1)")
    add("--model", default=DEFAULT_MODEL, metavar="M", help="model to ask (default: %(default)s)")
    add("--system", metavar="TEXT", help="system message: instructions to the model")
    add("--max-tokens", type=int, metavar="K", help="maximum number of tokens to generate")
    add("--temperature", type=float, metavar="T", help="sampling temperature, from 0 to 2")
    add("--logprobs", action="store_true", help="show the probability of each token")
    add("--json", action="store_true", help="print only the whole completion, as one line of JSON")


COMMAND = Command(
    "chat",
    help="send a prompt to a model and show the answer as it arrives",
    description="Send a prompt to a model and show the answer as it arrives.",
    add_arguments=_add_arguments,
    run=run_chat,
    variables=CLIENT_VARIABLES | SCREEN_VARIABLES,
)
