"""The command line, ``gradient-async``: a thin user of the same API as everybody's."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from .._version import __version__

__all__ = ["main"]

_MODEL = "llama3.3-70b-instruct"
_INTERRUPTED = 130  # what shells report of a program that Ctrl-C ended
_NO_READER = 141  # and of one whose output nobody reads any more


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Args:
        argv: Arguments but for the program's name; those of the process if None.
    """
    arguments = _parser().parse_args(argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go; without this the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NO_READER
    return status


def _run(arguments: argparse.Namespace) -> int:
    # Each command loads what it needs: --help and replay need neither aiohttp nor a server.
    if arguments.command == "replay":
        from .replay import replay  # noqa: PLC0415  # only this command needs it

        return replay(arguments.files, as_json=arguments.json)
    import asyncio  # noqa: PLC0415  # neither --help nor replay needs it

    if arguments.command == "demo":
        from .demo import demo  # noqa: PLC0415  # only this command needs it

        return asyncio.run(demo())
    if arguments.command == "serve":
        from .serve import run_server  # noqa: PLC0415  # only this command needs it

        return asyncio.run(run_server(arguments))
    if arguments.command == "map":
        from .map import run_map  # noqa: PLC0415  # only this command needs it

        return asyncio.run(run_map(arguments))
    from .chat import chat  # noqa: PLC0415  # only this command needs it

    return asyncio.run(chat(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradient-async", description="Chat completions of DigitalOcean Gradient, streamed."
    )
    parser.add_argument("--version", action="version", version=f"gradient-async {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser(
        "demo", help="see what the library does, against a simulated model on this machine; needs no key"
    )

    chat = commands.add_parser("chat", help="ask a model and watch it answer")
    chat.add_argument("prompt", metavar="PROMPT", help="what to ask; - reads standard input")
    chat.add_argument(
        "--local", action="store_true", help="ask a simulated model on this machine; needs no key"
    )
    chat.add_argument(
        "--base-url", metavar="URL", help="a server to ask in place of Gradient, up to /chat/completions"
    )
    chat.add_argument("-n", type=int, default=None, metavar="N", help="how many answers, side by side")
    chat.add_argument("--model", default=_MODEL, metavar="M", help=f"which model (default: {_MODEL})")
    chat.add_argument("--system", metavar="TEXT", help="instructions to the model")
    chat.add_argument("--max-tokens", type=int, metavar="K", help="most tokens to generate")
    chat.add_argument("--temperature", type=float, metavar="T", help="0 to 2")
    chat.add_argument(
        "--logprobs", action="store_true", help="show how likely the model held each token to be"
    )
    chat.add_argument(
        "--json", action="store_true", help="print the completion as one line of JSON, and nothing else"
    )

    replay = commands.add_parser("replay", help="decode recorded event streams")
    replay.add_argument("files", nargs="+", metavar="FILE", help="a recorded body; - reads standard input")
    replay.add_argument("--json", action="store_true", help="print one completion a line, as JSON")

    serve = commands.add_parser("serve", help="run the local server, to point any client at")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument(
        "--port",
        type=int,
        default=8080,
        metavar="P",
        help="port to listen on; 0 takes a free one (default: 8080)",
    )
    serve.add_argument("--replay", metavar="DIR", help="play the recorded streams (*.sse) of a folder")
    serve.add_argument(
        "--delay", type=float, default=0.02, metavar="S", help="seconds between tokens (default: 0.02)"
    )
    serve.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="K",
        help="accept this key, and no key that is not given",
    )
    _add_map(commands)
    return parser


def _add_map(commands: Any) -> None:
    many = commands.add_parser(
        "map",
        help="make the requests of a file, and write the results to another",
        description="Makes the requests of a file, one on each line: batch lines with custom_id and body, or "
        "parameters alone. Results come as they finish, one line each. Run it again after an interruption, and "
        "it makes the requests that have no result yet.",
    )
    many.add_argument("input", metavar="IN.jsonl", help="requests; - reads standard input")
    many.add_argument("output", metavar="OUT.jsonl", help="results; what is in it already is not done again")
    many.add_argument(
        "--local", action="store_true", help="ask a simulated model on this machine; needs no key"
    )
    many.add_argument(
        "--base-url", metavar="URL", help="a server to ask in place of Gradient, up to /chat/completions"
    )
    many.add_argument(
        "--model", default=_MODEL, metavar="M", help=f"for lines that name none (default: {_MODEL})"
    )
    many.add_argument(
        "--max-concurrency", type=int, default=64, metavar="N", help="requests at a time (default: 64)"
    )
    many.add_argument("--requests-per-minute", type=float, metavar="R", help="requests in any minute")
    many.add_argument("--tokens-per-minute", type=float, metavar="T", help="tokens in a minute")
    many.add_argument(
        "--adaptive", action="store_true", help="find out how many at a time the server sustains"
    )
    many.add_argument("--stream", action="store_true", help="stream replies: stalls show early")
    many.add_argument(
        "--retry-errors", action="store_true", help="make the requests again whose results are errors"
    )
