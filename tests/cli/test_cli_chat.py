"""``gradient-async chat``."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradient_async import ChatCompletion, Timing
from gradient_async.cli import main
from gradient_async.cli.chat import _say_end, extract
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
    arguments = [
        "-m",
        "m1",
        "-s",
        "Be brief",
        "-t",
        "0.5",
        "--max-tokens",
        "9",
        "--top-p",
        "0.9",
        "--seed",
        "5",
    ]
    arguments += [
        "--stop",
        "a",
        "--stop",
        "b",
        "-o",
        "user=me",
        "-o",
        "logit_bias={}",
        "-o",
        "top_p=1",
        "--timeout",
        "9",
    ]
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
        "top_p": 1,
        "seed": 5,
        "stop": ["a", "b"],
        "user": "me",
        "logit_bias": {},
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
        (
            ["--base-url", "ftp://x"],
            "ConfigurationError: the server (--base-url, GRADIENT_BASE_URL) can't be used",
        ),
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


# What is sent


@pytest.mark.parametrize(
    ("piped", "arguments", "sent"),
    [
        ("a file\n", ["explain"], "a file\n\nexplain"),
        ("a file\n", [], "a file\n"),
        ("a file\n", ["-"], "a file\n"),
        ("", ["explain"], "explain"),
    ],
)
def test_what_is_piped_is_sent(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch, piped: str, arguments: list[str], sent: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
    assert main(["chat", *arguments]) == 0
    assert sent == server.requests[0].json["messages"][0]["content"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([""], "the prompt is empty"),
        ([" \n"], "the prompt is empty"),
        ([], "the prompt is empty"),
        (["-c", "more"], "there is no conversation to continue; leave -c out to begin one"),
    ],
)
def test_nothing_is_sent_for_nothing(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["chat", *arguments]) == 2
    assert f"gradient-async: {says}\n" == capsys.readouterr().err
    assert [] == server.requests


def test_without_input_and_prompt(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat"]) == 2
    assert "no prompt: write one behind the options, or pipe it" in capsys.readouterr().err
    assert [] == server.requests


def test_images_are_sent(server: ThreadedServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images = ["--image", "https://x/y", "--image", str(tmp_path / "a.png")]
    assert main(["chat", "What is it?", *images]) == 0
    assert main(["chat", *images[:2]]) == 0
    text, first, second = server.requests[0].json["messages"][0]["content"]
    assert {"type": "text", "text": "What is it?"} == text
    assert "https://x/y" == first["image_url"]["url"]
    assert second["image_url"]["url"].startswith("data:image/png;base64,")
    assert [first] == server.requests[1].json["messages"][0]["content"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "nothing=1"],
        ["--image", "none.png"],
        ["--schema", "none.json"],
        ["--timeout", "x"],
        ["--timeout", "0"],
        ["-n", "x"],
        ["-o", "temperature=9"],
    ],
)
def test_arguments_are_refused_before_anything_is_sent(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """In one line, which is not behind a list of all options."""
    with pytest.raises(SystemExit, match="2"):
        main(["chat", "Hi", *arguments])
    assert [] == server.requests
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"gradient-async: argument {arguments[0]}: ")
    assert complaint.endswith("; gradient-async chat --help shows how to use it\n")
    assert 1 == complaint.count("\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["-t", "9"], "temperature=9.0"), (["-n", "0"], "n=0"), (5 * ["--stop", "a"], "stop=")],
)
def test_values_out_of_bounds_are_wrong_arguments(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["chat", "Hi", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"gradient-async: InvalidRequestError: {says}")
    assert [] == server.requests


def test_the_model_of_the_environment(server: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIENT_MODEL", "mine")
    assert main(["chat", "Hi"]) == 0
    assert main(["chat", "Hi", "-m", "other"]) == 0
    assert ["mine", "other"] == [request.json["model"] for request in server.requests]


def test_a_server_on_this_machine_needs_no_key(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others do, and the message says what to set."""
    for name in [name for name in os.environ if name.startswith(("GRADIENT", "DIGITALOCEAN"))]:
        monkeypatch.delenv(name)
    for host in ("127.0.0.1", "localhost"):
        assert main(["chat", "Say: hi", "--base-url", f"http://{host}:{server.port}/v1"]) == 0
    assert "hi\nhi\n" == capsys.readouterr().out
    assert main(["chat", "Say: hi"]) == 1
    assert (
        "no key for https://inference.do-ai.run/v1: set GRADIENT_MODEL_ACCESS_KEY" in capsys.readouterr().err
    )


# Values

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TYPES = """
import datetime
from dataclasses import dataclass
from pydantic import BaseModel

@dataclass
class Trip:
    city: str
    day: datetime.date = datetime.date(2026, 1, 2)

class Stay(BaseModel):
    city: str

Stays = list[Stay]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a schema and a module of types in it."""
    (tmp_path / "trip.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "chat_types.py").write_text(TYPES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "chat_types", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("schema", "answer", "value"),
    [
        ("trip.json", '```json\n{"city": "Rome"}\n```', {"city": "Rome"}),
        ("chat_types:Trip", '{"city": "Rome", "day": "2026-12-31"}', {"city": "Rome", "day": "2026-12-31"}),
        ("chat_types:Stay", '{"city": "Rome"}', {"city": "Rome"}),
        ("chat_types:Stays", '{"value": [{"city": "Rome"}]}', [{"city": "Rome"}]),
    ],
)
def test_answers_with_a_form_are_values(
    server: ThreadedServer,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    schema: str,
    answer: str,
    value: Any,
) -> None:
    """One line of JSON each, and nothing else."""
    pytest.importorskip("pydantic")
    del folder
    server.push(
        reply_sse(chunk("hm", reasoning_content="hm"), done=False),
        reply_sse(chunk(answer, reasoning_content="hm"), chunk(finish_reason="stop")),
    )
    assert main(["chat", "Where?", "--schema", schema]) == 1
    assert "" == capsys.readouterr().out
    assert main(["chat", "Where?", "--schema", schema]) == 0
    line = capsys.readouterr().out
    assert 1 == line.count("\n")
    assert value == json.loads(line)
    assert "json_schema" == server.requests[0].json["response_format"]["type"]
    server.push(reply_sse(*(chunk(answer, index=index, finish_reason="stop") for index in range(2))))
    assert main(["chat", "Where?", "-n", "2", "--schema", schema]) == 0
    assert [value, value] == [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (chunk("Rome", finish_reason="stop"), "OutputDecodeError: the answer is not JSON"),
        (chunk('["Rome"]', finish_reason="stop"), "OutputValidationError: "),
        (chunk('{"city"', finish_reason="length"), "LengthFinishReasonError: "),
        (chunk(refusal="I may not", finish_reason="stop"), "the model gives no answer: I may not"),
        (chunk(None, finish_reason="stop"), "OutputDecodeError: the answer is empty"),
    ],
)
@pytest.mark.parametrize("schema", ["trip.json", "chat_types:Trip"])
@pytest.mark.parametrize("as_json", [False, True])
def test_an_answer_without_the_form_is_an_error(
    server: ThreadedServer,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    reply: Any,
    says: str,
    schema: str,
    *,
    as_json: bool,
) -> None:
    pytest.importorskip("pydantic")
    del folder
    server.push(reply_sse(reply))
    arguments = ["chat", "Where?", "--schema", schema, *["--json"] * as_json]
    if as_json and (schema == "trip.json" or "no answer" in says):
        assert main(arguments) == 0  # the whole completion is what was asked for
        assert json.loads(capsys.readouterr().out)["choices"]
        return
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert "" == out
    assert err.startswith(f"gradient-async: {says}")
    if as_json:
        assert json.loads(err.splitlines()[1])["choices"]


# What is printed


def test_code_is_extracted(server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.push(reply_sse(chunk("Here:\n```python\nprint(1)\n\n```\nand\n```\n2\n```", finish_reason="stop")))
    assert main(["chat", "-x", "Code"]) == 0
    assert "print(1)\n\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no code", "no code"),
        ("~~~\na\n~~~", "a"),
        ("1. do\n   ```sh\n   ls\n   ```\n", "   ls"),
        ("```\nnever ends", "```\nnever ends"),
        ("````md\n```\na\n```\n````", "```\na\n```"),
        ("```\n```", ""),
    ],
)
def test_what_is_a_block_of_code(text: str, code: str) -> None:
    assert code == extract(text)


@pytest.mark.parametrize(
    ("n", "says"),
    [("1", "the answer was cut at the limit of tokens"), ("2", "choice 0 was cut at the limit of tokens")],
)
def test_a_cut_answer_is_said_to_be_cut(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str], n: str, says: str
) -> None:
    assert main(["chat", "Tell me a story", "--max-tokens", "5", "-n", n]) == 0
    assert says in capsys.readouterr().err
    server.push(reply_sse(chunk("a", finish_reason="content_filter")))
    assert main(["chat", "Tell me a story"]) == 0
    assert "gradient-async: the answer was cut by a content filter\n" == capsys.readouterr().err
    assert server.requests


def test_the_last_line_tells_what_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server may say nothing about tokens, and send no content."""
    monkeypatch.setenv("TERM", "dumb")

    def on_terminal(_stream: object) -> bool:
        return True

    monkeypatch.setattr("gradient_async.cli.chat.on_terminal", on_terminal)
    _say_end(ChatCompletion(), Timing(queued=0, headers=0, first_token=None, gaps=[], total=1.23))
    assert "[1.2 s]\n" == capsys.readouterr().out


# The last conversation


def sent(server: ThreadedServer) -> list[tuple[str, Any]]:
    """Return role and content of each message of the last request."""
    return [(message["role"], message["content"]) for message in server.requests[-1].json["messages"]]


def test_a_conversation_goes_on(server: ThreadedServer, at_home: Path) -> None:
    assert main(["chat", "Say: one", "-s", "Be brief", "-m", "m1"]) == 0
    assert main(["chat", "-c", "Say: two"]) == 0
    expected = [("system", "Be brief"), ("user", "Say: one"), ("assistant", "one"), ("user", "Say: two")]
    assert expected == sent(server)
    assert "m1" == server.requests[-1].json["model"]
    assert main(["chat", "-c", "Say: three", "-s", "Be kind", "-m", "m2", "--no-log"]) == 0
    assert ("system", "Be kind") == sent(server)[0]
    assert main(["chat", "--continue", "Say: four"]) == 0
    assert [*expected, ("assistant", "two"), ("user", "Say: four")] == sent(server)
    assert main(["chat", "Say: five"]) == 0
    assert [("user", "Say: five")] == sent(server)
    assert ["conversation.json"] == [path.name for path in at_home.iterdir()]


def test_what_came_of_an_answer_is_kept(server: ThreadedServer) -> None:
    """A question without any answer is not: it would make the next request invalid, or be answered late."""
    assert main(["chat", "Count to ten", "-m", "error-cut"]) == 1
    assert main(["chat", "-c", "go on", "-m", "error-401"]) == 1
    assert main(["chat", "-c", "Say: more", "-m", "m"]) == 0
    (_, question), (role, answer), (_, more) = sent(server)
    assert ("Count to ten", "assistant", "Say: more") == (question, role, more)
    assert answer.startswith("One")


def test_without_a_log_nothing_is_kept(server: ThreadedServer, at_home: Path) -> None:
    assert main(["chat", "Say: one", "--no-log"]) == 0
    assert not at_home.exists()
    assert server.requests


def test_a_conversation_that_can_not_be_read(
    server: ThreadedServer, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_home.mkdir()
    path = at_home / "conversation.json"
    path.write_text("{")
    assert main(["chat", "-c", "Hi"]) == 2
    assert (
        f"{path} can't be read: Input data was truncated; leave -c out to begin anew"
        in capsys.readouterr().err
    )
    path.unlink()
    path.mkdir()
    assert main(["chat", "-c", "Hi"]) == 2
    assert f"{path} can't be read: Is a directory" in capsys.readouterr().err
    assert [] == server.requests


def test_a_conversation_that_can_not_be_kept(
    server: ThreadedServer, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer is there all the same."""
    at_home.write_text("a file")
    assert main(["chat", "Say: one"]) == 0
    out, err = capsys.readouterr()
    assert "one\n" == out
    assert "gradient-async: the conversation is not kept: " in err
    assert server.requests
