"""``gradient-async serve``: run the local server until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio

from ..testing import serve
from .display import complain, say

_USAGE = """\
serving {url}  (press Ctrl-C to stop)

  export GRADIENT_INFERENCE_ENDPOINT={url} GRADIENT_MODEL_ACCESS_KEY={key}
  gradient-async chat 'Tell me a story'

  curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\
    -d '{{"model": "simulated", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


async def run_serve(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C cancels this; return 1 if the server can't start with these arguments."""
    try:
        server = serve(
            replay=arguments.replay,
            keys=arguments.key,
            delay=arguments.delay,
            host=arguments.host,
            port=arguments.port,
        )
        async with server:
            say(_USAGE.format(url=server.url, key=arguments.key[0] if arguments.key else "any"))
            await asyncio.Event().wait()
    except (OSError, ValueError) as error:
        complain(str(error))
    return 1
