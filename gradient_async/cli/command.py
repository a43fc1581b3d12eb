"""Shared by all commands: their descriptions, the options of commands that use a server, and the client."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import math
import os
import signal
import textwrap
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, NoReturn, TypeVar, cast
from urllib.parse import urlsplit

from ..client import AsyncGradient
from ..testing import serve
from .display import complain, handling

T = TypeVar("T")

DEFAULT_MODEL = "llama3.3-70b-instruct"

LOG_VARIABLES = {"GRADIENT_LOG": "debug or info: log requests on standard error"}
# The environment variables of commands that use a server, with descriptions for the help.
CLIENT_VARIABLES = {
    "GRADIENT_MODEL_ACCESS_KEY": "key for the models; DIGITALOCEAN_ACCESS_TOKEN if there is none",
    "GRADIENT_BASE_URL": "server to ask, as for --base-url",
    "GRADIENT_INFERENCE_ENDPOINT": "the same without the version: requests go to URL/v1/chat/completions",
    **LOG_VARIABLES,
}
MODEL_VARIABLES = {"GRADIENT_MODEL": "model to ask where --model is not given"}
SCREEN_VARIABLES = {"NO_COLOR": "if set, draw without colours"}

_MAX_CANCELS = 2  # how many times Ctrl-C only cancels, see `run`
_VARIABLES = "environment variables:"
_INDENT = 12 * " "


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, but let the first two Ctrl-C only cancel it.

    With `asyncio.run`, the second Ctrl-C raises KeyboardInterrupt at any place. In the middle of the event loop, of aiohttp
    or of the closing of the loop, this leaves connections that never report their loss, and prints tracebacks. A third
    Ctrl-C raises KeyboardInterrupt at any place here as well, so that a program that does not end can be ended.
    """
    came = 0
    tasks: list[asyncio.Task[Any]] = []

    def on_interrupt() -> None:
        nonlocal came
        came += 1
        if came > _MAX_CANCELS or not tasks:
            raise KeyboardInterrupt
        [task] = tasks
        if not task.done():
            task.get_loop().call_soon_threadsafe(task.cancel)  # also wakes the loop

    async def main() -> T:
        tasks.append(cast("asyncio.Task[Any]", asyncio.current_task()))
        return await work

    try:
        with handling(signal.SIGINT, on_interrupt), asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(_report)
            return runner.run(main())
    except asyncio.CancelledError:
        if not came:
            raise
        raise KeyboardInterrupt from None
    finally:
        if not tasks:
            work.close()  # otherwise Python would warn that the coroutine never ran, if Ctrl-C came before its start


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report an error in the event loop, but not the KeyboardInterrupt of a Ctrl-C during the end of the program."""
    if not isinstance(context.get("exception"), KeyboardInterrupt):
        loop.default_exception_handler(context)


class Command(NamedTuple):
    """One command. The module of each command has it as the constant ``COMMAND``.

    Attributes:
        name: Name of the command.
        help: A description for the list of commands.
        description: A description for the help of the command.
        add_arguments: A function that adds the arguments of the command to a parser.
        run: A function or coroutine function that runs the command, and returns the exit status.
        variables: The environment variables that the command reads, with their meanings.
    """

    name: str
    help: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | Coroutine[Any, Any, int]]
    variables: dict[str, str] = {}

    @property
    def epilog(self) -> str | None:
        """The end of the command's help: the list of its variables."""
        if not self.variables:
            return None
        return "\n".join([_VARIABLES, *(f"{name}\t{meaning}" for name, meaning in self.variables.items())])


class Parser(argparse.ArgumentParser):
    """The parser of one command, or of the whole command line.

    Attributes:
        summary: A description of the command for the list of commands.
        added: The arguments of the parser, in order.
    """

    def __init__(self, **options: Any) -> None:
        self.summary = ""
        self.added: list[argparse.Action] = []
        super().__init__(**options, formatter_class=HelpFormatter)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an argument to the parser, and to `added`."""
        action = super().add_argument(*names, **options)
        self.added.append(action)
        return action

    def error(self, message: str) -> NoReturn:
        """Report wrong arguments in one line. argparse would print a list of all options before the message."""
        complain(f"{message}; {self.prog} --help shows how to use it")
        self.exit(2)


class HelpFormatter(argparse.HelpFormatter):
    """Formats the list of variables in the way in which argparse formats options."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if not text.startswith(_VARIABLES):
            return super()._fill_text(text, width, indent)
        lines = [_VARIABLES]
        for line in text.splitlines()[1:]:
            name, _, meaning = line.partition("\t")
            lines += [
                f"  {name}",
                textwrap.fill(meaning, width, initial_indent=_INDENT, subsequent_indent=_INDENT),
            ]
        return "\n".join(lines)


def whole_number(text: str) -> int:
    """Parse the value of an option that is a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive_seconds(text: str) -> float:
    """Parse the value of an option that is a time limit."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def default_model() -> str:
    """Return the model for requests if the command line names none."""
    return os.environ.get("GRADIENT_MODEL") or DEFAULT_MODEL


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands with a server share."""
    parser.add_argument(
        "--local", action="store_true", help="ask a simulated model on this machine; needs no key"
    )
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="server to ask instead of Gradient; requests go to URL/chat/completions",
    )


def is_loopback(url: str) -> bool:
    """Whether a server is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


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
            if client.model_access_key is None and is_loopback(client.base_url):
                client.model_access_key = "none"  # a server on this machine seldom requires a key
            yield client
