"""The page on the command line tells everything that the help does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradient_async.cli import _COMMANDS
from gradient_async.cli.command import Command, Parser
from gradient_async.cli.dialogue import _HELP

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8")


def section(title: str) -> str:
    """Return the section of a command."""
    return re.split(r"\n## ", PAGE.split(f"\n## {title}\n")[1])[0]


@pytest.mark.parametrize("command", _COMMANDS)
def test_commands(command: Command) -> None:
    """With each of their options and variables."""
    text = section(command.name)
    parser = Parser()
    command.add_arguments(parser)
    for action in parser.added:
        for option in {*action.option_strings} - {"-h", "--help"}:
            assert re.search(f"[` ]{option}[` ]", text), option
    for variable in command.variables:
        assert f"`{variable}`" in section("Environment variables"), variable


def test_commands_of_a_conversation() -> None:
    for name, argument, _ in _HELP:
        row = f"{name} {argument}".rstrip().replace("|", "\\|")
        assert f"\n| `{row}` |" in PAGE, row
