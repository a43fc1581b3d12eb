"""The program: its arguments, its help, and how it exits."""

from __future__ import annotations

import importlib
import io
import os
import shlex
import subprocess
import sys
import time
from typing import Any

import pytest

from gradient_async.cli import main

COMMANDS = ("demo", "chat", "replay", "serve", "map")


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "gradient_async", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


def test_interruption_and_a_closed_pipe_have_their_own_exits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradient_async.cli._run", interrupted)
    assert main(["demo"]) == 130

    def no_reader(_arguments: Any) -> int:
        raise BrokenPipeError

    class Output(io.StringIO):
        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr("gradient_async.cli._run", no_reader)
    monkeypatch.setattr(sys, "stdout", Output())
    assert main(["demo"]) == 141


def test_a_reader_that_leaves_is_no_trouble() -> None:
    """As ``gradient-async serve | head -1`` does."""
    command = f"{shlex.quote(sys.executable)} -m gradient_async chat --local 'Write 2000 words' | head -c 10"
    began = time.monotonic()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)  # noqa: S607  # whichever bash there is
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) == 10
    assert time.monotonic() - began < 30


def test_the_module_is_the_program() -> None:
    assert importlib.import_module("gradient_async.__main__").main is main


def test_help_and_version() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(f"\n    {command} " in shown.stdout for command in COMMANDS)
    assert run("--version").stdout.startswith("gradient-async ")
    assert run("chatt").returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence, below the line that shows how to call it."""
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    usage, description, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: gradient-async {command} ")
    assert description.endswith(".")
