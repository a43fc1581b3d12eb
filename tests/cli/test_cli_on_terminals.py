"""The commands besides ``chat`` as their users see them: on terminals of several widths, and interrupted at random."""

from __future__ import annotations

import contextlib
import json
import random
import re
import sys
from pathlib import Path

import pytest

from gradient_async.testing import chunk, sse

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from terminal import Terminal

WIDTHS = [40, 80, 200]
PLAIN = {"NO_COLOR": "1"}
COLOUR = re.compile(rb"\x1b\[(?:[0-9;]*;)?[34][0-9]")


def unbroken(text: str) -> str:
    """Return what was drawn without spaces and line breaks, as a terminal may break lines anywhere."""
    return "".join(text.split())


def test_the_demo() -> None:
    """At once in all widths, since it takes its time for people to watch."""
    with contextlib.ExitStack() as stack:
        terminals = [
            stack.enter_context(Terminal("demo", columns=columns, environment=PLAIN)) for columns in WIDTHS
        ]
        terminals.append(stack.enter_context(Terminal("demo", columns=40)))
        for terminal in terminals:
            assert 0 == terminal.end()
            shown = unbroken(terminal.shown)
            for part in (
                "nonetwork",
                "get_weather",
                "18degreesinTokyo",
                "Forecast(city='Paris'",
                "choice2",
                "2stopped",
                "40completions",
            ):
                assert part in shown
            assert (COLOUR.search(terminal.raw) is None) is (terminal is not terminals[-1])


@pytest.mark.parametrize("columns", WIDTHS)
def test_replay(tmp_path: Path, columns: int) -> None:
    whole, cut = tmp_path / "whole.sse", tmp_path / "cut.sse"
    whole.write_bytes(sse(chunk("Hello there"), chunk(finish_reason="stop")))
    cut.write_bytes(sse(chunk("Half"), done=False))
    with Terminal("replay", str(whole), str(cut), columns=columns) as terminal:
        assert 1 == terminal.end()
    shown = unbroken(terminal.shown)
    assert "Hellothere[stop]" in shown
    assert "StreamTruncatedError:therecordingends" in shown
    assert COLOUR.search(terminal.raw) is None


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("environment", [{}, PLAIN])
def test_models(columns: int, environment: dict[str, str]) -> None:
    with Terminal("models", "--local", columns=columns, environment=environment) as terminal:
        assert 0 == terminal.end()
    assert ["model", "owner", "since"] == terminal.shown.splitlines()[0].split()
    assert "simulated     gradient-async  2026-01-01" in terminal.shown
    assert COLOUR.search(terminal.raw) is None


@pytest.mark.parametrize("columns", WIDTHS)
def test_serve(columns: int) -> None:
    """It shows how to use it, and ends at Ctrl-C without a word."""
    with Terminal("serve", "--port", "0", columns=columns) as terminal:
        terminal.wait_for("serving http://127.0.0.1:")
        terminal.wait_for('"Hello"}]}', 1) if columns > 40 else terminal.wait_for("Hello", 2)
        terminal.write("\x03")
        assert 130 == terminal.end()
    assert "Traceback" not in terminal.shown
    assert "exportGRADIENT_INFERENCE_ENDPOINT=http://127.0.0.1:" in unbroken(terminal.shown)
    assert terminal.shown.endswith("^C")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(shell: str) -> None:
    with Terminal("completions", shell) as terminal:
        assert 0 == terminal.end()
    assert "gradient-async" in terminal.shown


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["demo"], "A simulated model"),
        (["serve", "--port", "0"], "serving"),
        (["map", "--local", "in.jsonl", "out.jsonl"], "requests/s"),
    ],
)
def test_interrupted_at_a_random_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], first: str, seed: int
) -> None:
    """It says how it goes on, if it does, and restores the terminal."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"messages": [{"role": "user", "content": "Write 500 words"}]}) + "\n"] * 20_000
    (tmp_path / "in.jsonl").write_text("".join(lines))
    dice = random.Random(f"{arguments} {seed}")
    with Terminal(*arguments) as terminal:
        terminal.wait_for(first)
        terminal.read_for(dice.random())
        terminal.write("\x03")
        terminal.read_for(dice.choice([0, 0.01, 0.1]))
        terminal.write("\x03")
        assert 130 == terminal.end(), terminal.shown
    assert "Traceback" not in terminal.shown
    assert terminal.raw.rfind(b"\x1b[?25h") >= terminal.raw.rfind(b"\x1b[?25l")
    if arguments[0] == "map":
        done = (tmp_path / "out.jsonl").read_text().splitlines()
        assert all(json.loads(line) for line in done)
        assert len(done) < len(lines)
