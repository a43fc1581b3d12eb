"""The page on the command line tells everything that the help does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradient_async.cli import _COMMANDS, _parser
from gradient_async.cli.dialogue import _HELP

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8")


def section(title: str) -> str:
    """Return the section of a command."""
    return re.split(r"\n## ", PAGE.split(f"\n## {title}\n")[1])[0]


@pytest.mark.parametrize("command", _COMMANDS, ids=lambda command: command.name)
def test_commands(command: object) -> None:
    """With each of their options and variables."""
    name, variables = command.name, command.variables  # type: ignore[attr-defined]
    text = section(name)
    parsers = (
        _parser()
        .parse_args([name, *{"replay": ["f"], "map": ["i", "o"], "completions": ["bash"]}.get(name, [])])
        .parsers
    )
    for action in parsers[name]._actions:
        for option in action.option_strings:
            if option not in {"-h", "--help"}:
                assert f"`{option}" in text or f" `{option}" in text, option
    for variable in variables:
        assert f"`{variable}`" in section("Environment variables"), variable


def test_commands_of_a_conversation() -> None:
    for name, argument, _ in _HELP:
        row = f"{name} {argument}".rstrip().replace("|", "\\|")
        assert f"\n| `{row}` |" in PAGE, row
