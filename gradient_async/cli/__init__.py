"""The command line, ``gradient-async``. Each command is in the module of the same name."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from .._version import __version__
from .chat import DEFAULT_MODEL, run_chat
from .demo import run_demo
from .map import run_map
from .replay import run_replay
from .serve import parse_quota, parse_speed, run_serve

__all__ = ["main"]

# The exit statuses that shells give to a program ended by Ctrl-C, or by writing to a closed pipe.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Args:
        argv: Arguments without the program's name; those of the process if None.
    """
    arguments = _parser().parse_args(argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output at exit, and would report the broken pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return status


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "demo":
            return asyncio.run(run_demo())
        case "chat":
            return asyncio.run(run_chat(arguments))
        case "replay":
            return run_replay(arguments.files, as_json=arguments.json)
        case "serve":
            return asyncio.run(run_serve(arguments))
        case _:
            return asyncio.run(run_map(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradient-async", description="Stream chat completions from DigitalOcean Gradient."
    )
    parser.add_argument("--version", action="version", version=f"gradient-async {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    where = argparse.ArgumentParser(add_help=False)  # options of both commands that ask a model
    where.add_argument(
        "--local", action="store_true", help="ask a simulated model on this machine; needs no key"
    )
    where.add_argument(
        "--base-url",
        metavar="URL",
        help="server to ask instead of Gradient; requests go to URL/chat/completions",
    )

    commands.add_parser(
        "demo",
        help="show what the library does; needs no key",
        description="Show what the library does, with a simulated model on this machine. Needs no key.",
    )

    add = commands.add_parser(
        "chat",
        parents=[where],
        help="send a prompt to a model and show the answer as it arrives",
        description="Send a prompt to a model and show the answer as it arrives. The key is read from the "
        "environment variable GRADIENT_MODEL_ACCESS_KEY.",
    ).add_argument
    add("prompt", metavar="PROMPT", help="text to send as the user; - reads standard input")
    add("-n", type=int, metavar="N", help="number of answers, shown side by side (default: 1)")
    add("--model", default=DEFAULT_MODEL, metavar="M", help="model to ask (default: %(default)s)")
    add("--system", metavar="TEXT", help="system message: instructions to the model")
    add("--max-tokens", type=int, metavar="K", help="maximum number of tokens to generate")
    add("--temperature", type=float, metavar="T", help="sampling temperature, from 0 to 2")
    add("--logprobs", action="store_true", help="show the probability of each token")
    add("--json", action="store_true", help="print only the whole completion, as one line of JSON")

    add = commands.add_parser(
        "replay",
        help="decode recorded event streams",
        description="Decode recorded event streams and print their completions. The exit status is 1 if a "
        "completion is not complete.",
    ).add_argument
    add("files", nargs="+", metavar="FILE", help="a recorded response body; - reads standard input")
    add("--json", action="store_true", help="print each completion as one line of JSON")

    add = commands.add_parser(
        "serve",
        help="run a local server for any client",
        description="Run a local server for any client, until Ctrl-C. It simulates a model, replays recordings, or passes "
        "requests on to another server and records the replies, without keys.",
    ).add_argument
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

    add = commands.add_parser(
        "map",
        parents=[where],
        help="send the requests of a file and write the results to another",
        description="Send the requests of a file, one on each line: batch lines with custom_id and body, or the "
        "parameters of a request alone. Each result is written as it arrives, one on each line. After an "
        "interruption, run the same command again: it sends the requests that have no result yet, and those that "
        "failed or have changed.",
    ).add_argument
    add("input", metavar="IN.jsonl", help="file of requests; - reads standard input")
    add(
        "output", metavar="OUT.jsonl", help="file of results; requests with a result in it are not sent again"
    )
    add(
        "--model",
        default=DEFAULT_MODEL,
        metavar="M",
        help="model for requests that name none (default: %(default)s)",
    )
    add(
        "--max-concurrency",
        type=int,
        default=64,
        metavar="N",
        help="maximum number of requests in flight (default: %(default)s)",
    )
    add("--requests-per-minute", type=float, metavar="R", help="maximum number of requests in any minute")
    add("--tokens-per-minute", type=float, metavar="T", help="maximum number of tokens in a minute")
    add("--adaptive", action="store_true", help="adapt the number of requests in flight to the server")
    add("--stream", action="store_true", help="stream replies, so that stalled ones are noticed early")
    add(
        "--retry-errors",
        action="store_true",
        help="send all requests whose results are errors again, also those that the server refused with 400, 404, "
        "413 or 422",
    )
    return parser
