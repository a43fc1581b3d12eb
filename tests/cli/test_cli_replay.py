"""``gradient-async replay``."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from gradient_async.assembly import CompletionAssembler
from gradient_async.cli import main
from gradient_async.decoding import ChunkDecoder
from gradient_async.testing import chunk, sse


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Path]:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    bodies = {
        "text": sse(
            chunk("Hello"), chunk(" there", finish_reason="stop"), chunk(usage=usage) | {"choices": []}
        ),
        "crlf": sse(chunk("Hello"), chunk(finish_reason="stop")).replace(b"\n", b"\r\n"),
        "tools": sse(chunk(tool_calls=[call], finish_reason="tool_calls")),
        "two": sse(
            chunk("a", reasoning_content="hm"), chunk(refusal="no", index=1), "{,}" * 0 or chunk(content=None)
        ),
        "odd": sse(chunk("x") | {"created": 1.5}, chunk(finish_reason="stop")),
        "cut": sse(chunk("Hel"), done=False),
        "empty": b"",
        "error": sse(chunk("Hel"), {"error": {"message": "bo\x07om"}}),
        "foreign": sse({"type": "response.created"}),
        "foreign cut": sse({"candidates": []}, done=False),
    }
    for name, body in bodies.items():
        (tmp_path / f"{name}.sse").write_bytes(body)
    return {name: tmp_path / f"{name}.sse" for name in bodies}


def test_replay_prints_one_completion_a_line(
    recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(recordings[name]) for name in ("text", "crlf", "tools")]
    assert main(["replay", "--json", *files]) == 0
    text, crlf, tools = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert text["choices"][0]["message"] == {"role": "assistant", "content": "Hello there"}
    assert text["usage"]["total_tokens"] == 3
    assert crlf["choices"][0]["message"]["content"] == "Hello"
    assert tools["choices"][0]["message"]["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": '{"a": 1}',
    }


def test_replay_reports_what_is_not_complete_and_goes_on(
    recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(recordings[name]) for name in ("cut", "empty", "error", "foreign", "foreign cut")]
    assert main(["replay", "--json", *files, "/no/such/file", str(recordings["text"])]) == 1
    cut, empty, error, foreign, foreign_cut, missing, text = (
        json.loads(line) for line in capsys.readouterr().out.splitlines()
    )
    assert (cut["file"], cut["type"]) == (files[0], "StreamTruncatedError")
    assert cut["partial"]["choices"][0]["message"]["content"] == "Hel"
    assert empty["error"] == "the recording contains no chunk"
    assert (error["type"], error["partial"]["choices"][0]["message"]["content"]) == (
        "StreamServerError",
        "Hel",
    )
    assert {"StreamProtocolError"} == {foreign["type"], foreign_cut["type"]}
    assert ("Responses API" in foreign["error"], "Gemini" in foreign_cut["error"]) == (True, True)
    assert (missing["type"], missing["error"]) == ("FileNotFoundError", "No such file or directory")
    assert text["choices"]


def test_replay_for_people(recordings: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(recordings[name]) for name in ("text", "tools", "two", "odd", "cut", "empty")]
    assert main(["replay", *files]) == 1
    printed = capsys.readouterr().out
    for line in (
        "Hello there",
        "[1 + 2 = 3 tokens]",
        '-> f({"a": 1})  [c]',
        "-- choice 1",
        "(thinking) hm",
        "(refused) no",
        "[no finish_reason]",
        f"== {recordings['odd']} (1 irregular events)",
    ):
        assert line in printed.splitlines()
    assert f"== {recordings['cut']}: StreamTruncatedError: the recording ends with neither" in printed


def test_replay_reads_standard_input(
    recordings: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Input:
        buffer = io.BytesIO(recordings["text"].read_bytes())

    monkeypatch.setattr(sys, "stdin", Input)
    assert main(["replay", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"]


EVIL = "x\x9b2J\u202e\x7fy"


@pytest.mark.parametrize("as_json", [False, True])
def test_every_field_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """Names, ids and reasons of a server as well as text, in JSON too, and names of files."""
    call = {
        "index": 0,
        "id": EVIL,
        "type": EVIL,
        "function": {"name": EVIL, "arguments": f'{{"{EVIL}":"\n"}}'},
    }
    everything = chunk(
        EVIL, id=EVIL, model=EVIL, finish_reason=EVIL + "\n[stop]", refusal=EVIL, reasoning_content=EVIL,
        role=EVIL, tool_calls=[call], usage={"prompt_tokens": 1},
    )  # fmt: skip
    bodies = [
        sse(everything | {"system_fingerprint": EVIL, "service_tier": EVIL, "retrieval": {EVIL: EVIL}}),
        sse(everything, {"error": {"message": EVIL + "\nforged", "code": EVIL, "type": EVIL}}),
        sse(EVIL),
    ]
    files = [tmp_path / f"{number}{EVIL}" for number in range(len(bodies))]
    for file, body in zip(files, bodies, strict=True):
        file.write_bytes(body)
    names = [*map(str, files), str(tmp_path / f"missing{EVIL}\n")]
    assert main(["replay", *["--json"] * as_json, *names]) == 1
    printed, complaints = capsys.readouterr()
    assert complaints == ""
    assert not {"\x9b", "\u202e", "\x7f"} & set(printed)
    assert not {"[stop]", "forged"} & set(printed.splitlines())
    if as_json:
        whole, broken, *_ = map(json.loads, printed.splitlines())
        assert (EVIL, EVIL + "\n[stop]") == (whole["model"], whole["choices"][0]["finish_reason"])
        assert names[1] == broken["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_file_may_have_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    assert main(["replay", "--json", file]) == 1
    assert json.loads(capsys.readouterr().out)["file"].endswith("/\ufffd")
    assert main(["replay", file]) == 1
    assert "/\\udcff: FileNotFoundError" in capsys.readouterr().out


def corpus() -> Path:
    default = Path(__file__).parents[2] / ".." / "shared" / "corpus"
    return Path(os.environ.get("GRADIENT_ASYNC_CORPUS", default)) / "streams"


@pytest.mark.skipif(not corpus().is_dir(), reason="the recorded streams are not here")
def test_replay_gives_what_the_core_assembles(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(str(file) for file in corpus().glob("*.sse"))
    main(["replay", "--json", *files])
    lines = capsys.readouterr().out.splitlines()
    assert len(files) == len(lines)
    for file, line in zip(files, lines, strict=True):
        row = json.loads(line)
        decoder, assembler = ChunkDecoder(), CompletionAssembler()
        if "partial" not in row:
            assembler.extend(decoder.feed(Path(file).read_bytes()))
            assembler.extend(decoder.close())
            assert assembler.completion.to_dict() == row
        else:
            assert row["file"] == file
            assert row["type"].startswith("Stream")
