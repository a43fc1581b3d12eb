"""The conversation on a terminal: its lines and its commands."""

from __future__ import annotations

import argparse
import builtins
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradient_async.cli import dialogue
from gradient_async.cli.conversation import Conversation
from gradient_async.cli.dialogue import _HELP, Dialogue, _complete, hold

IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y"}}


class FakeChat:
    """Answers every message at once; does not answer ``fail``."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = argparse.Namespace(**{"image": [], **arguments})
        self.options: dict[str, Any] = {}
        self.conversation = Conversation(model="m")
        self.asked: list[Any] = []
        self.kept: list[int] = []

    def ask(self, content: Any) -> bool:
        self.asked.append(content)
        if content == "stop":
            raise KeyboardInterrupt
        if content != "fail":
            self.conversation.ask(content)
            self.conversation.messages.append({"role": "assistant", "content": f"{len(self.asked)}"})
        return True

    def keep(self) -> None:
        self.kept.append(len(self.conversation.messages))


Type = Callable[..., FakeChat]


def contents(chat: FakeChat) -> list[Any]:
    """The contents of the messages of a conversation."""
    return [message["content"] for message in chat.conversation.messages]


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type lines in a conversation until it ends; an exception among them is raised in place of a line."""

    def typed(*lines: str | BaseException, chat: FakeChat | None = None) -> FakeChat:
        chat = chat or FakeChat()
        left = iter(lines)

        def read(_prompt: str) -> str:
            line = next(left, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(builtins, "input", read)
        assert hold(chat) == 0
        assert next(left, None) is None
        return chat

    return typed


def test_lines_are_messages(enter: Type) -> None:
    chat = enter("one", "", "  ", "two \\", "lines", "//slash", "/exit")
    assert ["one", "two \nlines", "/slash"] == chat.asked


def test_ctrl_c_ends_a_line_or_an_answer(enter: Type) -> None:
    chat = enter("one", KeyboardInterrupt(), "stop", "two")
    assert ["one", "stop", "two"] == chat.asked


def test_bytes_that_are_no_text(enter: Type, capsys: pytest.CaptureFixture[str]) -> None:
    assert ["one"] == enter(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "one").asked
    assert "that is not text" in capsys.readouterr().err


@pytest.mark.parametrize("last", ["/exit", "/quit"])
def test_leaving(enter: Type, last: str) -> None:
    assert ["one"] == enter("one", last).asked


def test_settings(enter: Type, capsys: pytest.CaptureFixture[str]) -> None:
    chat = enter(
        "/model",
        "/model other",
        "/system",
        "/system Be brief",
        "/set top_p=0.5",
        "/set",
        "/set seed=1",
        "/set top_p",
        "/set none",
    )
    assert ("other", "Be brief", {"seed": 1}) == (
        chat.conversation.model,
        chat.conversation.system,
        chat.options,
    )
    printed = capsys.readouterr().out
    for text in (
        "model: m",
        "model: other",
        "system message: none",
        "system message: Be brief",
        "parameters: top_p=0.5",
    ):
        assert text in printed
    assert enter("/system -", chat=chat).conversation.system is None


def test_images_and_files_go_with_the_next_message(enter: Type, tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("content")
    chat = enter(f"/file {tmp_path}/f.txt", "/image https://x/y", "explain", "more", "/image https://x/y", "")
    text = f"{tmp_path}/f.txt:\ncontent\n\nexplain"
    assert [[{"type": "text", "text": text}, IMAGE], "more", [IMAGE]] == chat.asked
    assert [[{"type": "text", "text": "a"}, IMAGE], "b"] == enter(
        "a", "b", chat=FakeChat(image=[IMAGE])
    ).asked


def test_files_of_the_home_directory(
    enter: Type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``~`` stands for it, as in a shell. A file that is no text is told in words of the user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "f.txt").write_text("content")
    (tmp_path / "f.bin").write_bytes(b"\xff")
    assert [f"{tmp_path / 'f.txt'}:\ncontent\n\nexplain"] == enter(
        "/file ~/f.txt", "/file ~/f.bin", "explain"
    ).asked
    assert f"/file {tmp_path / 'f.bin'}: not a text\n" in capsys.readouterr().err


def test_questions_are_asked_again_and_taken_back(enter: Type, capsys: pytest.CaptureFixture[str]) -> None:
    chat = enter("/retry", "/undo", "one", "two", "/retry", "fail", "/retry")
    assert ["one", "two", "two", "fail", "fail"] == chat.asked
    assert ["one", "1", "two", "3"] == contents(chat)
    complaints = capsys.readouterr().err
    assert "there is no question to ask again" in complaints
    assert "there is no question to take away" in complaints
    enter("/undo", chat=chat)
    assert "taken away: two; 2 messages left" in capsys.readouterr().out
    assert ["one", "1"] == contents(chat)
    assert [2] == chat.kept
    enter("/retry", chat=chat)
    assert "one" == chat.asked[-1]
    assert ["one", "6"] == contents(chat)
    enter("/clear", chat=chat)
    assert [] == contents(chat)
    assert "m" == chat.conversation.model


@pytest.mark.parametrize("failing", ["fail", "stop"])
def test_a_question_without_an_answer_is_taken_back_alone(
    enter: Type, failing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exchange before it stays, also one with the same question; the next ``/undo`` takes that."""
    chat = enter("one", failing, "/undo")
    assert ["one", "1"] == contents(chat)
    assert f"taken away: {failing} (it had no answer); 2 messages left" in capsys.readouterr().out
    enter("/undo", chat=chat)
    assert [] == contents(chat)
    assert "taken away: one; 0 messages left" in capsys.readouterr().out
    for role in ("user", "assistant"):
        chat.conversation.messages.append({"role": role, "content": failing})
    for command in ("/retry", "/undo"):
        enter(failing, command, chat=chat)
        assert [failing] * 2 == contents(chat)


def test_what_is_taken_back_is_one_short_line(enter: Type, capsys: pytest.CaptureFixture[str]) -> None:
    enter("\x1b \u202ea \\", "b" * 100, "/undo", "/image https://x/y", "c", "/undo")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"taken away: \\x1b \\u202ea {'b' * 55}…; 0 messages left" in printed
    assert "taken away: c (an image); 0 messages left" in printed


def test_an_editor(enter: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; f = open(sys.argv[1], 'a'); f.write(' and more\\nlines\\n')"
    monkeypatch.setenv("EDITOR", f'{shlex.quote(sys.executable)} -c "{program}"')
    assert ["a text and more\nlines"] == enter("/edit a text").asked
    monkeypatch.setenv("VISUAL", "true")
    assert [] == enter("/edit").asked


def test_saving(enter: Type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "saved.md"
    enter("/system Be brief", "one", "/image https://x/y", "two", f"/save {path}", f"/save {path}")
    assert path.read_text() == (
        "## system\n\nBe brief\n\n## user\n\none\n\n## assistant\n\n1\n\n## user\n\ntwo\n\n(an image)\n\n## assistant\n\n2\n\n"
    )
    assert f"/save {path}: File exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/nothing", "/nothing: no such command; /help lists them"),
        ("/set nothing=1", "there is no parameter 'nothing'"),
        ("/image none.png", "none.png: No such file"),
        ("/file none.txt", "/file none.txt: No such file"),
        ("/file", "/file needs FILE"),
        ("/image", "/image needs FILE|URL"),
        ("/save", "/save needs FILE"),
        ("/save ~", "File exists"),
        ("/set temperature=9", "temperature=9: expected `float` <= 2.0"),
    ],
)
def test_mistakes_are_told(
    enter: Type,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    line: str,
    problem: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    chat = enter(line)
    assert [] == chat.asked
    assert {} == chat.options
    assert problem in capsys.readouterr().err


def test_an_editor_that_fails_is_told(
    enter: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for editor, problem in (
        ("false", "/edit : false failed"),
        ("no-such-editor", "No such file"),
        ("'", "No closing"),
    ):
        monkeypatch.setenv("VISUAL", editor)
        assert [] == enter("/edit").asked
        assert problem in capsys.readouterr().err


def test_every_command_has_help(enter: Type, capsys: pytest.CaptureFixture[str]) -> None:
    enter("/help")
    printed = capsys.readouterr().out
    for name, _, meaning in _HELP:
        assert name in printed
        assert meaning in printed
        assert name == "/exit" or hasattr(Dialogue, f"_do_{name[1:]}")
    assert [f"/{name[4:]}" for name in dir(Dialogue) if name.startswith("_do_")] == sorted(
        {name for name, _, _ in _HELP} - {"/exit"}
    )


def test_names_of_commands_are_completed() -> None:
    assert ["/system", "/set", "/save", None] == [_complete("/s", state) for state in range(4)]
    assert _complete("", 0) is None


@pytest.mark.parametrize("with_readline", [True, False])
def test_earlier_messages(
    enter: Type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, with_readline: bool
) -> None:
    """A conversation that goes on has them in the history of the keyboard, where there is one."""
    if not with_readline:
        monkeypatch.setattr(dialogue, "readline", None)
    chat = FakeChat()
    chat.ask("earlier")
    chat.ask([IMAGE])
    enter(chat=chat)
    assert "m, 4 messages so far; /help" in capsys.readouterr().out
