"""``gradient-async serve``: run the local server until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio

from ..testing import Quota, serve
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
