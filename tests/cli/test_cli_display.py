"""What is shown of an answer and of progress, as plain text and in a terminal."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import Any

import pytest

from gradient_async import ChatCompletionMessage, Choice, ChunkChoice, ToolCall
from gradient_async.cli import display as display_module
from gradient_async.cli.display import (
    Display,
    PlainProgress,
    PlainScreen,
    Progress,
    complain,
    json_line,
    note,
    on_terminal,
    one_line,
    open_display,
    open_progress,
    open_screen,
    printable,
    say,
    say_bold,
    say_dim,
    say_json,
    show_cursor,
    tool_line,
    uninterrupted,
    write,
)
from gradient_async.cli.rich_screen import AnswerScreen, BarScreen, PanelScreen
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


@pytest.mark.parametrize("panes", [1, 2])
def test_values_are_lines_of_json(panes: int, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else is written, so that another program can read them."""
    with open_display(None, panes, values=True) as shown:
        shown.add(choice("{", reasoning_content="hm", refusal="no"), logprobs=False)
        for index in range(panes):
            shown.show_value(index, {"a": [index, "\x9b"]})
        shown.add_calls(whole())
    expected = [{"a": [index, "\x9b"]} for index in range(panes)]
    printed = capsys.readouterr().out
    assert expected == [json.loads(line) for line in printed.splitlines()]
    assert "\x9b" not in printed


def test_probabilities_are_labels_where_there_are_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    with display() as shown:
        for logprob in (1e-9, -0.01, -0.3, -1.0, -9999.0):
            entry = TokenLogprob(token=" ", logprob=logprob)
            shown.add(choice(" ", entries=[entry]), logprobs=True)
    assert capsys.readouterr().out.split() == ["[100%]", "[99%]", "[74%]", "[37%]", "[0%]"]


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


@pytest.mark.parametrize("out", [say, write, say_bold, say_dim, complain, note])
def test_whatever_is_written_is_escaped(
    out: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """At the exit, so that no caller can forget it."""
    out("a" + "".join(sorted(DANGEROUS)) + "\ud800b")
    written = re.sub("\033\\[[012]m", "", "".join(capsys.readouterr()))
    assert set() == DANGEROUS & set(written)
    assert "\\x9b" in written
    assert "\\u202e" in written


@pytest.mark.parametrize("out", [complain, note, Progress(PlainProgress()).say])
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
    with closing(PlainProgress(clock=lambda: now)) as screen:
        shown = Progress(screen)
        shown.progress(0, 10, "one")
        now += 5
        shown.progress(0, 10, "two")
        shown.progress(5, 10, "three")
        now += 5
        shown.progress(5, 10, "fo\x1bur")
        shown.say("a line\x1b[2J")
    expected = ["0 of 10: two", "5 of 10: fo\\x1bur", "a line\\x1b[2J"]
    assert expected == capsys.readouterr().err.splitlines()


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_is_drawn_on_if_it_can_be(
    monkeypatch: pytest.MonkeyPatch, term: str, *, rich: bool
) -> None:
    """Without rich, and where nothing can be drawn, it gets plain text."""
    monkeypatch.setenv("TERM", term)
    if not rich:
        monkeypatch.setitem(sys.modules, "gradient_async.cli.rich_screen", None)
    drawn = rich and term != "dumb"
    for panes, screen_type in ((1, AnswerScreen), (2, PanelScreen)):
        with closing(open_screen(Terminal(), panes)) as screen:
            assert isinstance(screen, screen_type if drawn else PlainScreen)
    with open_progress(Terminal()) as shown:
        assert isinstance(shown._screen, BarScreen if drawn else PlainProgress)


def test_a_stream_that_is_no_terminal_gets_plain_text() -> None:
    """Also one that was closed before the program began."""
    for stream in (io.StringIO(), None):
        assert isinstance(open_screen(stream, 2), PlainScreen)
        with open_progress(stream) as shown:
            assert isinstance(shown._screen, PlainProgress)
    assert (True, False, False) == (on_terminal(Terminal()), on_terminal(io.StringIO()), on_terminal(None))


def test_styles_are_left_out_where_they_would_be_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for term, expected in (("xterm", "\033[1ma\033[0m\n\033[2mb\033[0m\n"), ("dumb", "a\nb\n")):
        monkeypatch.setenv("TERM", term)
        say_bold("a")
        say_dim("b")
        assert expected == capsys.readouterr().out


def test_a_closed_stream_is_an_error_if_something_was_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages for people are dropped, answers are not."""
    monkeypatch.setattr(sys, "stderr", None)
    note("nobody reads this")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSError, match="Bad file descriptor: 'standard output'"):
        say("an answer")


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 200_000])
def test_a_long_text_is_written_whole(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    """It is written in pieces, each of which is escaped."""
    text = "\x9b" + "é" * size + "\x9b"
    say(text)
    say_json(text)
    shown = "é" * size
    assert capsys.readouterr().out == f'\\x9b{shown}\\x9b\n"\\u009b{shown}\\u009b"\n'


def test_ctrl_c_waits_until_the_terminal_is_restored() -> None:
    """In other threads it can't come."""
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("here")
    with uninterrupted():
        pass

    def elsewhere() -> None:
        with uninterrupted():
            done.append("there")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert ["here", "there"] == done
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def _own(_handle: int) -> int:
    return os.getpgrp()


def _other(_handle: int) -> int:
    return 0


def _nowhere(_handle: int) -> int:
    raise OSError(errno.ENOTTY, "not the terminal of this process")


@pytest.mark.skipif(display_module.termios is None, reason="there are no such terminals")
@pytest.mark.parametrize(("group", "changes"), [(_own, True), (_other, False), (_nowhere, False)])
def test_a_terminal_shows_nothing_that_is_typed_meanwhile(
    monkeypatch: pytest.MonkeyPatch, group: Callable[[int], int], *, changes: bool
) -> None:
    """Unless the process is in the background, or the terminal is that of another."""
    termios = display_module.termios
    control, handle = os.openpty()
    monkeypatch.setattr(os, "tcgetpgrp", group)
    with os.fdopen(control), os.fdopen(handle, "w") as stream:
        before = termios.tcgetattr(handle)
        assert before[3] & termios.ECHO
        for opened in (open_display(stream), open_progress(stream)):
            with opened:
                assert changes == (not termios.tcgetattr(handle)[3] & termios.ECHO)
            assert before == termios.tcgetattr(handle)
        monkeypatch.setattr(display_module, "termios", None)  # as on Windows
        with open_progress(stream):
            assert before == termios.tcgetattr(handle)


def test_the_cursor_is_shown_where_one_was_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for term, stream, written in (
        ("xterm", Terminal(), "\033[?25h"),
        ("dumb", Terminal(), ""),
        ("xterm", io.StringIO(), ""),
    ):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stdout", stream)
        show_cursor()
        assert written == stream.getvalue()
