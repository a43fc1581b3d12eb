"""``gradient-async serve``: run the local server until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import math
import os
import re
import textwrap
import time
from typing import Any, cast

from ..testing import Quota, Request, Server, serve
from ..testing.browser import usage
from .command import Command
from .display import complain, note, say


def _port(text: str) -> int:
    """Parse the value of ``--port``."""
    if not text.isdecimal() or int(text) > 65535:  # noqa: PLR2004  # the largest port
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    """Parse the value of ``--delay``."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def parse_quota(text: str) -> Quota:
    """Parse the value of ``--quota``: two numbers for the bucket of requests, and two for the bucket of tokens."""
    try:
        match text.split(","):
            case [requests, per_second]:
                return Quota(requests=int(requests), per_second=float(per_second))
            case [requests, per_second, tokens, tokens_per_second]:
                return Quota(
                    requests=int(requests),
                    per_second=float(per_second),
                    tokens=int(tokens),
                    tokens_per_second=float(tokens_per_second),
                )
            case _:
                raise argparse.ArgumentTypeError(
                    f"{text!r} is not two or four numbers with commas between them"
                )
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_speed(text: str) -> float | None:
    """Parse the value of ``--speed``: a number above 0, or ``max``."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0
    if not speed > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor max")
    return speed


async def run_serve(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C cancels this; return 1 if the server can't start with these arguments."""
    try:
        server = serve(
            replay=arguments.replay,
            speed=arguments.speed,
            upstream=arguments.upstream,
            record=arguments.record,
            keys=arguments.key,
            delay=arguments.delay,
            rate_limit=arguments.quota,
            host=arguments.host,
            port=arguments.port,
            on_reply=lambda request: _log(server, request, quiet=arguments.quiet),
        )
        await server.start()
    except ValueError as error:
        complain(_in_flags(str(error)))
        return 1
    except OSError as error:
        complain(_reason(error, arguments))
        return 1
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(server)
        ways = usage(server.url, arguments.key[0] if arguments.key else "any", "simulated")
        say(f"serving {server.url}  (press Ctrl-C to stop)\n")
        for title in ("Command line", "curl"):
            say(f"{textwrap.indent(ways[title], '  ')}\n")
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await never  # Ctrl-C cancels this task


def _in_flags(message: str) -> str:
    """Return a message of `serve` with flags in place of arguments."""
    message = re.sub(r"^(\w+): ", r"--\1: ", message).replace("as upstream=", "by --upstream")
    return message.replace("serve(upstream=, record=)", "serve --upstream --record")


def _reason(error: OSError, arguments: argparse.Namespace) -> str:
    """Return the reason why the server can't start, with advice."""
    where = f"port {arguments.port} of {arguments.host}"
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where} is taken by another program; choose another by --port, or any that is free by --port 0"
        )
    if error.errno == errno.EACCES:
        return f"{where} is not for every user; choose a port above 1023 by --port"
    # asyncio puts its own text into errors of the system, so the system's text is used. Errors of name look-ups have negative
    # numbers, for which the system has no text.
    number = error.errno or 0
    reason = os.strerror(number) if number > 0 else error.strerror or error
    return f"can't listen on {where}: {reason}; choose an address of this machine by --host"


def _log(server: Server, request: Request, *, quiet: bool) -> None:
    """Write a line about a request, and drop the request, because the server may run for weeks."""
    server.requests.clear()
    if quiet:
        return
    seconds = (request.replied_at or 0) - request.received_at
    line = f"{time.strftime('%H:%M:%S')} {request.status or '---'} {request.method} {request.path}"
    line += f"{_asked(request)}: {request.reply_size:,} bytes in {seconds:.2f} s"
    if request.failure is not None:
        line += f": {request.failure}"
    elif request.closed_at is not None:
        line += "; the client left"
    with contextlib.suppress(OSError):  # standard error may be a pipe that was closed
        note(line)


def _asked(request: Request) -> str:
    """Return the model of a request, and "(stream)" if it asks for a stream, for the log."""
    try:
        body = request.json
    except (ValueError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    params = cast("dict[str, Any]", body)
    return f" {params.get('model', '')!s:.60}{' (stream)' if params.get('stream') else ''}"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add(
        "--port",
        type=_port,
        default=8080,
        metavar="P",
        help="port; 0 picks a free one (default: %(default)s)",
    )
    add("--replay", metavar="DIR", help="replay the recordings of this folder")
    add(
        "--speed",
        type=parse_speed,
        default=1.0,
        metavar="X",
        help="how many times as fast as recorded to replay; max makes no pauses (default: %(default)s)",
    )
    add("--upstream", metavar="URL", help="pass on requests that are not recorded to this server")
    add("--record", metavar="DIR", help="record the replies of the upstream server in this folder")
    add(
        "--delay",
        type=_seconds,
        default=0.02,
        metavar="S",
        help="seconds between tokens (default: %(default)s)",
    )
    add("--key", action="append", default=[], metavar="K", help="accept only this key; may be repeated")
    add(
        "--quota",
        type=parse_quota,
        metavar="N,R",
        help="rate limit of each key: N requests at once, and R more in each second; N,R,T,S also limits tokens: T at "
        "once, and S more in each second (default: no limit)",
    )
    add("-q", "--quiet", action="store_true", help="do not log requests")


COMMAND = Command(
    "serve",
    help="run a local server for any client",
    description="Run a local server for any client, until Ctrl-C. It simulates a model, replays recordings, or passes "
    "requests on to another server and records the replies, without keys. Each request is logged on standard error. A "
    "browser shows at the server's URL what it is and how to use it; pages from this machine may send it requests.",
    add_arguments=_add_arguments,
    run=run_serve,
)
