"""``gradient-async models``: list the models that the key may use."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from ..errors import GradientError
from ..types import ModelInfo
from .command import CLIENT_VARIABLES, Command, add_client_arguments, open_client
from .display import complain, on_terminal, one_line, say, say_bold, say_json
from .problems import explain

_TITLES = ("model", "owner", "since")


async def run_models(arguments: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if the models can't be listed."""
    try:
        async with open_client(arguments) as client:
            models = (await client.models.list()).data
    except GradientError as error:
        complain(f"{type(error).__name__}: {explain(error)}")
        return 1
    if arguments.json:
        for model in models:
            say_json(model.to_dict())
    elif on_terminal(sys.stdout):
        _say_table(models)
    else:
        for model in models:
            say(one_line(model.id))
    return 0


def _say_table(models: Sequence[ModelInfo]) -> None:
    """Write a table. If the terminal is too narrow for all columns, leave out the last columns."""
    rows = [(one_line(model.id), one_line(model.owned_by), _day(model.created)) for model in models]
    widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
    terminal = shutil.get_terminal_size().columns
    fits = (count for count in (3, 2) if sum(widths[:count]) + 2 * (count - 1) <= terminal)
    shown = next(fits, 1)
    for number, row in enumerate([_TITLES, *rows]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row[:shown], widths, strict=False)).rstrip()
        (say if number else say_bold)(line)


def _day(created: int) -> str:
    try:
        return datetime.fromtimestamp(created, UTC).date().isoformat() if created else ""
    except (OverflowError, ValueError, OSError):  # the time is outside of the calendar
        return ""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print each model as one line of JSON")


COMMAND = Command(
    "models",
    help="list the models that the key may use",
    description="List the models that the key may use: as a table in a terminal, one name on each line in a pipe.",
    add_arguments=_add_arguments,
    run=run_models,
    variables=CLIENT_VARIABLES,
)
