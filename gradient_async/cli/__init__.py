"""The command line, ``gradient-async``. Each command is in the module of the same name."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from .._version import __version__
from .chat import COMMAND as CHAT
from .command import Parser, run
from .completions import COMMAND as COMPLETIONS
from .demo import COMMAND as DEMO
from .display import complain, show_cursor
from .map import COMMAND as MAP
from .models import COMMAND as MODELS
from .replay import COMMAND as REPLAY
from .serve import COMMAND as SERVE

__all__ = ["main"]

_COMMANDS = (DEMO, CHAT, MODELS, MAP, REPLAY, SERVE, COMPLETIONS)
# The exit statuses that shells report for a program that was ended by Ctrl-C, and for one that wrote to a closed pipe.
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_UNWRITABLE = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Args:
        argv: Arguments without the program's name. If None, the arguments of the process.
    """
    try:
        try:
            return _run(_parser().parse_args(argv))
        finally:
            if argv is None:  # the process ends now, and Python would print a traceback for another Ctrl-C
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        show_cursor()
        return _INTERRUPTED
    except BrokenPipeError:
        status = _BROKEN_PIPE
    except OSError as error:  # standard output failed: the commands handle all other errors
        complain(f"standard output can't be written: {error.strerror or error}")
        status = _UNWRITABLE
    # The interpreter flushes standard output at exit, and would report the error again.
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _run(arguments: argparse.Namespace) -> int:
    status = cast("int | Coroutine[Any, Any, int]", arguments.run(arguments))
    if isinstance(status, int):
        return status
    return run(status)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="gradient-async", description="Stream chat completions from DigitalOcean Gradient.")
    parser.add_argument("--version", action="version", version=f"gradient-async {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    parsers: dict[str, Parser] = {}
    for command in _COMMANDS:
        added = commands.add_parser(
            command.name, help=command.help, description=command.description, epilog=command.epilog
        )
        command.add_arguments(added)
        added.set_defaults(run=command.run)
        added.summary = command.help
        parsers[command.name] = added
    parser.set_defaults(parsers=parsers)
    return parser
