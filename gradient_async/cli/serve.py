"""``gradient-async serve``: the local server, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import sys

from .text import say

__all__ = ["run_server"]


async def run_server(arguments: argparse.Namespace) -> int:
    """Serve until cancelled; Ctrl-C does that.

    Args:
        arguments: Those of the command line.

    Returns:
        1 if the server can't run as asked.
    """
    from ..testing import serve  # noqa: PLC0415  # only this command needs it

    try:
        server = serve(
            replay=arguments.replay,
            keys=arguments.key,
            delay=arguments.delay,
            host=arguments.host,
            port=arguments.port,
        )
        async with server:
            key = arguments.key[0] if arguments.key else "any"
            say(f"serving {server.url}  (Ctrl-C ends it)")
            say()
            say(f"  export GRADIENT_INFERENCE_ENDPOINT={server.url} GRADIENT_MODEL_ACCESS_KEY={key}")
            say("  gradient-async chat 'Tell me a story'")
            say()
            say(f"  curl {server.url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\")
            say(
                """    -d '{"model": "simulated", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'"""
            )
            await asyncio.Event().wait()
    except (OSError, ValueError) as error:
        print(f"gradient-async: {error}", file=sys.stderr)
    return 1
