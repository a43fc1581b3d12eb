"""``gradient-async serve``: run the local server until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio

from ..testing import Quota, serve
from .command import Command
from .display import complain, say

_USAGE = """\
serving {url}  (press Ctrl-C to stop)

  export GRADIENT_INFERENCE_ENDPOINT={url} GRADIENT_MODEL_ACCESS_KEY={key}
  gradient-async chat 'Tell me a story'

  curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\
    -d '{{"model": "simulated", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


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
        )
        async with server:
            say(_USAGE.format(url=server.url, key=arguments.key[0] if arguments.key else "any"))
            await asyncio.Event().wait()
    except (OSError, ValueError) as error:
        complain(str(error))
    return 1


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8080, metavar="P", help="port; 0 picks a free one (default: %(default)s)")
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
        "--delay", type=float, default=0.02, metavar="S", help="seconds between tokens (default: %(default)s)"
    )
    add("--key", action="append", default=[], metavar="K", help="accept only this key; may be repeated")
    add(
        "--quota",
        type=parse_quota,
        metavar="N,R",
        help="rate limit of each key: N requests at once, and R more in each second; N,R,T,S also limits tokens: T at "
        "once, and S more in each second (default: no limit)",
    )


COMMAND = Command(
    "serve",
    help="run a local server for any client",
    description="Run a local server for any client, until Ctrl-C. It simulates a model, replays recordings, or passes "
    "requests on to another server and records the replies, without keys.",
    add_arguments=_add_arguments,
    run=run_serve,
)
