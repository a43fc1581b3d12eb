"""What is shown of an answer and of progress, as plain text and in a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import Any

import pytest
from rich.console import Console

from gradient_async import ChatCompletionMessage, Choice, ChunkChoice, ToolCall
from gradient_async.cli.display import (
    Display,
    PlainScreen,
    complain,
    json_line,
    note,
    on_terminal,
    one_line,
    open_display,
    open_screen,
    printable,
    probability_of,
    say,
    say_bold,
    say_json,
    tool_line,
    write,
)
from gradient_async.cli.rich_screen import RichScreen, colour_of
from gradient_async.types import ChatCompletion, ChoiceDelta, ChoiceLogprobs, Function, TokenLogprob

ENTRY = TokenLogprob(token="Hi", logprob=-0.1)


def display(panes: int = 1) -> AbstractContextManager[Display]:
    """Plain text, as in a pipe."""
    return open_display(None, panes)


def choice(content: str | None = None, **more: Any) -> ChunkChoice:
    logprobs = ChoiceLogprobs(content=more.pop("entries")) if "entries" in more else None
    return ChunkChoice(
        index=more.pop("index", 0), delta=ChoiceDelta(content=content, **more), logprobs=logprobs
    )


def whole() -> ChatCompletion:
    """A completion that calls a tool in each of two choices."""
    done = ChatCompletion()
    call = ToolCall(id="", function=Function(name="f", arguments="{}"))
    done.choices = [
        Choice(index=index, message=ChatCompletionMessage(tool_calls=[call])) for index in range(2)
    ]
    return done


def test_plain_text_of_one_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with display() as shown:
        shown.add(choice(reasoning_content="let me "), logprobs=True)
        shown.add(choice(reasoning_content="see"), logprobs=True)
        shown.add(choice("Hi", entries=[ENTRY]), logprobs=True)
        shown.add(choice(" there\x1b[2J"), logprobs=True)
        shown.add(choice(refusal="no"), logprobs=True)
        shown.add_calls(whole())
    assert capsys.readouterr().out == "(thinking) let me see\nHi[90%] there\\x1b[2Jno-> f({})\n-> f({})\n\n"
    with display():
        pass
    assert capsys.readouterr().out == ""


def test_each_choice_shows_its_own_reasoning(capsys: pytest.CaptureFixture[str]) -> None:
    """Choices think at the same time, and stop thinking one after the other."""
    with display(2) as shown:
        for index in range(2):
            shown.add(choice(reasoning_content="hm", index=index), logprobs=False)
        for index in range(2):
            shown.add(choice("yes", index=index), logprobs=False)
    printed = capsys.readouterr().out
    assert printed == "-- choice 0\n(thinking) hm\nyes\n-- choice 1\n(thinking) hm\nyes\n"


def test_log_probabilities_are_shown_where_they_were_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the reasoning stay part of the reasoning."""
    thought = choice(reasoning_content="Hm", entries=[TokenLogprob(token="Hm", logprob=-0.1)])
    for logprobs, text in ((False, "(thinking) Hm\nHi\n"), (True, "(thinking) HmHm[90%]\nHi[90%]\n")):
        with display() as shown:
            shown.add(thought, logprobs=logprobs)
            shown.add(choice("Hi", entries=[ENTRY]), logprobs=logprobs)
        assert text == capsys.readouterr().out


def test_plain_text_of_several_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with display(2) as shown:
        shown.add(choice("b", index=1), logprobs=False)
        shown.add(choice("a"), logprobs=False)
        shown.add_calls(whole())
    assert capsys.readouterr().out == "-- choice 0\na\n-> f({})\n-- choice 1\nb\n-> f({})\n"


@pytest.mark.parametrize("n", [1, 3])
def test_a_terminal_shows_choices_side_by_side(n: int) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system="truecolor")
    with closing(RichScreen(console, n)) as screen:
        view = Display(screen)
        for index in range(n):
            view.add(choice("plain", index=index, reasoning_content="thought"), logprobs=False)
            view.add(choice("Hi", index=index, entries=[ENTRY], refusal="no"), logprobs=True)
        view.add(choice(), logprobs=True)
        done = whole()
        done.choices = done.choices[:n]
        view.add_calls(done)
    printed = shown.getvalue()
    assert "plain" in printed
    assert "f({})" in printed
    assert ("choice 1" in printed) == (n > 1)


def test_colours_tell_how_likely_a_token_was(capsys: pytest.CaptureFixture[str]) -> None:
    likelihoods = (-0.01, -0.3, -1.0, -9999.0)
    probabilities = [probability_of(TokenLogprob(logprob=value)) for value in likelihoods]
    colours = [colour_of(probability) for probability in probabilities]
    assert colours == ["green", "yellow", "dark_orange", "red"]
    screen = PlainScreen()
    for probability in probabilities:
        screen.append(0, " ", probability=probability)
    assert capsys.readouterr().out.split() == ["[99%]", "[74%]", "[37%]", "[0%]"]
    assert 1.0 == probability_of(TokenLogprob(logprob=1e-9))


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[2J\r\n\tb\u202ec\ud800") == "a\\x1b[2J\\r\n\tb\\u202ec\\ud800"
    assert one_line("a\x1b[2J\r\n\tb\u202ec" + "x" * 999) == "a\\x1b[2J\\r\\n\\tb\\u202ec" + "x" * 999
    forged = ToolCall(id="c", function=Function(name="f", arguments="{\n[stop]"))
    assert tool_line(forged) == "f({\\n[stop])  [c]"
    assert tool_line(ToolCall(id="c\x07", function=Function(name="f", arguments="{}"))) == "f({})  [c\\x07]"


# All characters that a terminal obeys, and what they look like in Python and in JSON.
DANGEROUS = {
    chr(code)
    for code in [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x2028, 0x2029, 0x200E, 0x200F, *range(0x202A, 0x202F),
                 *range(0x2066, 0x206A)]
} - {"\t", "\n"}  # fmt: skip


@pytest.mark.parametrize("out", [say, write, say_bold, complain, note])
def test_whatever_is_written_is_escaped(
    out: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """At the exit, so that no caller can forget it."""
    out("a" + "".join(sorted(DANGEROUS)) + "\ud800b")
    written = "".join(capsys.readouterr()).removeprefix("\033[1m").removesuffix("\033[0m\n")
    assert set() == DANGEROUS & set(written)
    assert "\\x9b" in written
    assert "\\u202e" in written


@pytest.mark.parametrize("out", [complain, note, Display(PlainScreen()).say])
def test_what_goes_to_standard_error_is_one_line(
    out: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of files may have line feeds, which could pass for another line of this program."""
    out("a\nforged\tb")
    assert capsys.readouterr().err.endswith("a\\nforged\\tb\n")


def test_json_is_escaped_and_stays_the_same_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON allows all of these characters but C0 inside text, in names as well."""
    text = "".join(sorted(DANGEROUS)) + "é🙂\t\n"
    value: Any = {text: [text, {"a": text}], "b": None}
    say_json(value)
    line = capsys.readouterr().out
    assert line == json_line(value) + "\n"
    assert set() == DANGEROUS & set(line)
    assert "\n" not in line[:-1]
    assert value == json.loads(line)
    assert "é🙂" in line


# Progress


def test_without_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    with closing(PlainScreen(clock=lambda: now)) as screen:
        shown = Display(screen)
        shown.progress(0, 10, "one")
        now += 5
        shown.progress(0, 10, "two")
        shown.progress(5, 10, "three")
        now += 5
        shown.progress(5, 10, "fo\x1bur")
        shown.say("a line\x1b[2J")
    expected = ["0 of 10: two", "5 of 10: fo\\x1bur", "a line\\x1b[2J"]
    assert expected == capsys.readouterr().err.splitlines()


def test_in_a_terminal_it_is_a_bar() -> None:
    out = io.StringIO()
    with closing(RichScreen(Console(file=out, force_terminal=True, width=120))) as screen:
        shown = Display(screen)
        shown.progress(3, 4, "3.0 requests/s, 0 failed, 0 s left")
        shown.say("in.jsonl:7: [bold]not\x1b[31m JSON")
    assert "3/4" in out.getvalue()
    assert "3.0 requests/s" in out.getvalue()
    assert "0 failed, 0 s left" in out.getvalue()
    assert "[bold]not" in out.getvalue()
    assert "\x1b[31m JSON" not in out.getvalue()


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_without_rich_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_screen(Terminal(), 2)) as screen:
        assert isinstance(screen, RichScreen)
    with closing(open_screen(Terminal(), 0)) as screen:
        assert isinstance(screen, RichScreen)
    monkeypatch.setitem(sys.modules, "gradient_async.cli.rich_screen", None)
    assert isinstance(open_screen(Terminal(), 2), PlainScreen)


def test_a_stream_that_is_no_terminal_gets_plain_text() -> None:
    """Also one that was closed before the program began."""
    assert isinstance(open_screen(io.StringIO(), 2), PlainScreen)
    assert isinstance(open_screen(None, 2), PlainScreen)
    assert (True, False, False) == (on_terminal(Terminal()), on_terminal(io.StringIO()), on_terminal(None))


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 200_000])
def test_a_long_text_is_written_whole(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    """It is written in pieces, each of which is escaped."""
    text = "\x9b" + "é" * size + "\x9b"
    say(text)
    say_json(text)
    shown = "é" * size
    assert capsys.readouterr().out == f'\\x9b{shown}\\x9b\n"\\u009b{shown}\\u009b"\n'
