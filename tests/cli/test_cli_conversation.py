"""The last conversation, and its file."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gradient_async import ChatCompletion, ChatCompletionMessage, Choice, ToolCall
from gradient_async.cli.conversation import Conversation, load, path_of
from gradient_async.types import Function


def completion(**fields: Any) -> ChatCompletion:
    done = ChatCompletion()
    done.choices = [Choice(index=0, message=ChatCompletionMessage(**fields))]
    return done


def test_questions_and_answers() -> None:
    held = Conversation(model="m", system="Be brief")
    held.ask("one")
    assert held.take(completion(content="1"))
    held.ask("two")
    assert held.take(completion(refusal="no"))
    assert ["Be brief", "one", "1", "two", "no"] == [message["content"] for message in held.to_send()]
    assert "two" == held.withdraw()
    assert ["one", "1"] == [message["content"] for message in held.messages]
    assert "one" == held.withdraw()
    assert held.withdraw() is None
    assert ["system"] == [message["role"] for message in held.to_send()]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        ChatCompletion(),
        completion(content=""),
        completion(tool_calls=[ToolCall(id="", function=Function(name="f", arguments="{}"))]),
    ],
)
def test_a_question_without_an_answer_is_taken_away(answer: ChatCompletion | None) -> None:
    """Calls of tools have no results here, so servers would refuse them."""
    held = Conversation(messages=[{"role": "user", "content": "old"}])
    held.ask("one")
    assert not held.take(answer)
    assert ["old"] == [message["content"] for message in held.messages]


def test_the_file_is_for_the_user_alone(tmp_path: Path) -> None:
    """Also if the folder was open to others before."""
    path = tmp_path / "a" / "b" / "gradient-async" / "conversation.json"
    held = Conversation(model="m", messages=[{"role": "user", "content": "secret"}])
    before = os.umask(0)
    try:
        held.save(path)
        path.parent.chmod(0o777)
        path.chmod(0o666)
        held.save(path)
    finally:
        os.umask(before)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)
    assert [path] == list(path.parent.iterdir())
    assert held == load(path)


def test_a_file_that_can_not_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gradient-async" / "conversation.json"
    Conversation(model="old").save(path)

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        Conversation(model="new").save(path)
    assert "old" == load(path).model
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"messages": [5]}', b'{"model": 5}'])
def test_a_file_that_is_no_conversation(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "conversation.json"
    path.write_bytes(content)
    with pytest.raises(msgspec.MsgspecError):
        load(path)


def test_where_it_is() -> None:
    """By the rules of XDG, which has relative paths ignored."""
    home = Path.home() / ".local" / "state"
    for value, folder in (("/somewhere", Path("/somewhere")), ("somewhere", home), ("", home)):
        assert folder / "gradient-async" / "conversation.json" == path_of({"XDG_STATE_HOME": value})
    assert home / "gradient-async" / "conversation.json" == path_of({})


def test_users_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(FileNotFoundError, match="there is no home directory; set XDG_STATE_HOME"):
        path_of({})
