"""``gradient-async chat``."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest

from gradient_async.cli import main
from gradient_async.testing import Server, ThreadedServer, chunk, reply_sse, serve


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    """A server that ``chat`` finds without being told."""
    running: Server = serve()
    with running as threaded:
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", threaded.url)
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "k")
        monkeypatch.delenv("GRADIENT_BASE_URL", raising=False)
        yield threaded


def test_chat_streams_an_answer(server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "m1", "--system", "Be brief", "--max-tokens", "9", "--temperature", "0.5"]
    assert main(["chat", "Say: hello there", *arguments]) == 0
    assert capsys.readouterr().out == "hello there\n"
    assert server.requests[0].json == {
        "model": "m1",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Say: hello there"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_chat_shows_probabilities(server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--logprobs", "Say: hello"]) == 0
    assert capsys.readouterr().out.startswith("hello[")
    assert server.requests[0].json["top_logprobs"] == 3


def test_chat_shows_several_answers_one_after_the_other(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "-n", "2", "Name a colour"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("-- choice 0\n") < printed.index("-- choice 1\n")


def test_chat_prints_json(server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--json", "--base-url", f"{server.url}/v1", "Say: hello"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"][0]["message"]["content"] == "hello"


def test_chat_needs_no_server_of_yours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--local", "--json", "Say: hello"]) == 0
    assert main(["chat", "--local", "Say: hi"]) == 0
    assert capsys.readouterr().out.endswith("\nhi\n")


def test_chat_reads_standard_input(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say: from a pipe"))
    assert main(["chat", "-"]) == 0
    assert capsys.readouterr().out == "from a pipe\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "error-401"], "AuthenticationError: "),
        (["--model", "error-cut"], "StreamInterruptedError: "),
        (["--model", "error-cut", "-n", "2"], "StreamInterruptedError: "),
        (["--temperature", "9"], "InvalidRequestError: temperature=9.0"),
        (["--base-url", "ftp://x"], "ConfigurationError: base_url"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["chat", "Count to ten", *arguments]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"gradient-async: {says}")
    assert complaint.count("\n") == 1


def test_a_broken_answer_is_kept_where_json_was_asked_for(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "--json", "--model", "error-cut", "Count to ten"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err.splitlines()[1])["choices"][0]["message"]["content"]


@pytest.mark.parametrize("complete", [True, False])
def test_chat_escapes_json(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str], *, complete: bool
) -> None:
    """Of the completion, and of what there is of it where the stream breaks."""
    evil = "a\x9bb\u202ec"
    server.push(reply_sse(chunk(evil, model=evil, finish_reason=evil if complete else None), done=complete))
    assert main(["chat", "--json", "Hi"]) == (0 if complete else 1)
    printed = "".join(capsys.readouterr())
    assert not {"\x9b", "\u202e"} & set(printed)
    found = json.loads(printed.splitlines()[-1])
    assert (evil, evil) == (found["model"], found["choices"][0]["message"]["content"])
