"""The file of results: its lines, by what a row is known, and what is read again."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from result_lines import answer, ask, line_of, refusal, row_of

from gradient_async import (
    APIStatusError,
    APITimeoutError,
    ChatCompletion,
    GradientError,
    InvalidRequestError,
    JournalError,
    RateLimitError,
    StreamTruncatedError,
)
from gradient_async.decoding import decode_completion
from gradient_async.fanout.result_file import InputLine, ResultFile, decode_result, encode_result, renumbered
from gradient_async.testing import completion

# Lines


def test_results_are_like_those_of_batches() -> None:
    found = answer()
    found.request_id, found.attempts = "r1", 3
    row = json.loads(encode_result(row_of(2, "a"), found, None))
    assert row_of(2, "a").digest.hex() == row["digest"]
    assert row["response"]["body"]["choices"][0]["message"]["content"] == "Hi"
    assert (200, "r1", 3) == tuple(
        row["response"][name] for name in ("status_code", "request_id", "attempts")
    )
    assert ("c1", "a", 3, None) == (row["id"], row["custom_id"], row["line"], row["error"])
    assert '{"id":' == encode_result(row_of(2), found, None)[:6].decode()


def test_results_have_the_whole_reply() -> None:
    """Also fields without names; the user's completion does not keep a decoded copy for that."""
    found = answer("Hi", citations=["x"])
    row = json.loads(encode_result(row_of(0), found, None))
    assert ["x"] == row["response"]["body"]["citations"]
    assert not hasattr(found, "_body")


def test_errors_say_what_is_known() -> None:
    row = json.loads(encode_result(row_of(2), None, refusal(429)))
    assert row["response"] is None
    assert ("RateLimitError", "answered 429", 429, "c", "r") == tuple(
        row["error"][name] for name in ("type", "message", "status_code", "code", "request_id")
    )
    partial = decode_completion(json.dumps(completion("Hel")).encode())
    row = json.loads(encode_result(row_of(2), None, StreamTruncatedError("cut", partial=partial)))
    assert "Hel" == row["error"]["partial"]["choices"][0]["message"]["content"]
    row = json.loads(encode_result(row_of(2), None, GradientError("plain")))
    assert {"type": "GradientError", "message": "plain"} == row["error"]
    row = json.loads(encode_result(row_of(3, "b"), None, "no"))
    assert ({"type": "BadLine", "message": "no"}, "b", 4) == (row["error"], row["custom_id"], row["line"])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refusal(429), RateLimitError),
        (APITimeoutError("slow", attempts=3), APITimeoutError),
        (StreamTruncatedError("cut", attempts=2), StreamTruncatedError),
        (InvalidRequestError("wrong"), InvalidRequestError),
        (GradientError("plain"), GradientError),
        (JournalError("full", path="x"), GradientError),
    ],
    ids=str,
)
def test_errors_keep_their_class(error: GradientError, kind: type[GradientError]) -> None:
    """If a request can have one of this class; an unknown name with a status is an error of this status."""
    found = decode_result(encode_result(row_of(2), None, error)).answer()
    assert (kind, str(error)) == (type(found), str(found))
    assert getattr(error, "attempts", None) == getattr(found, "attempts", None)
    assert getattr(error, "status_code", None) == getattr(found, "status_code", None)
    renamed = encode_result(row_of(2), None, error).replace(type(error).__name__.encode(), b"Odd")
    assert (RateLimitError if kind is RateLimitError else GradientError) is type(
        decode_result(renamed).answer()
    )


def test_a_line_gets_another_number() -> None:
    """Nothing else of it changes."""
    assert line_of(0).replace(b'"line":1,', b'"line":7,') == renumbered(line_of(0), 7)


# Rows

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hé"}], "temperature": 0.2}


def test_a_row_is_known_by_key_and_parameters() -> None:
    """The digest is the same in every version of Python and of this library."""
    known = ask(4, "a", REQUEST)[0]
    assert (5, "a", None, False) == (known.line, known.custom_id, known.source, known.bad)
    text = '["a",{"messages":[{"content":"Hé","role":"user"}],"model":"m","temperature":0.2}]'
    assert hashlib.blake2b(text.encode(), digest_size=16).digest() == known.digest
    assert "6d410b73376243734ed64213d81ba908" == known.digest.hex()
    same = [
        dict(reversed(REQUEST.items())),
        {**REQUEST, "stream": True, "stream_options": {"include_usage": True}},
        {**REQUEST, "timeout": 5, "extra_headers": {"Authorization": "Bearer k"}},
        {**REQUEST, "messages": ({"content": "Hé", "role": "user"} for _ in range(1))},
    ]
    assert {known.digest} == {ask(0, "a", params)[0].digest for params in same}
    others = [
        ask(4, "b", REQUEST),
        ask(4, None, REQUEST),
        ask(4, "a", {**REQUEST, "temperature": 0.3}),
        ask(4, "a", {**REQUEST, "n": None}),
        ask(4, "a", {**REQUEST, "extra_body": {"top_k": 1}}),
        ask(4, "a", {**REQUEST, "extra_query": {"v": 1}}),
    ]
    assert 7 == len({known.digest, *(row.digest for row, _ in others)})


def test_parameters_can_be_read_twice() -> None:
    """Options that are no JSON stay as they are."""
    timeout = object()
    params = {"messages": iter([{"role": "user", "content": iter(["x"])}]), "timeout": timeout}
    _, plain = ask(0, None, params)
    assert {"messages": [{"role": "user", "content": ["x"]}], "timeout": timeout} == plain


def test_keys_are_written_as_json() -> None:
    """Equal keys in JSON are equal keys."""
    keys = [None, "a", 1, 1.5, True, ("a", 2), {"a": 1}, uuid.UUID(int=1), dt.date(2026, 1, 2)]
    rows = [ask(0, key, REQUEST)[0] for key in keys]
    ids = [None, "a", 1, 1.5, True, ["a", 2], {"a": 1}, str(uuid.UUID(int=1)), "2026-01-02"]
    assert ids == [row.custom_id for row in rows]
    assert len(ids) == len({row.digest for row in rows})


@pytest.mark.parametrize(
    ("key", "params", "says"),
    [
        (object(), REQUEST, "key="),
        (float("nan"), REQUEST, "key="),
        ("a", {**REQUEST, "seed": object()}, "seed="),
        ("a", {**REQUEST, "user": "\ud800"}, "the request can't be written as JSON"),
        ("\ud800", REQUEST, "the request can't be written as JSON"),
    ],
)
def test_what_has_no_json_is_told(key: Any, params: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        ask(3, key, params)


def test_a_line_of_a_file_is_its_own_key() -> None:
    row, _ = ask(0, InputLine(7, "a", "d"), REQUEST)
    assert (7, "a") == (row.line, row.custom_id)
    assert ask(0, "a", REQUEST)[0].digest == row.digest


# Reading


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


@pytest.fixture
def reading(path: Path) -> Iterator[ResultFile]:
    path.touch()
    file = os.open(path, os.O_RDWR)
    yield ResultFile(path, file)
    os.close(file)


def text_of(found: Any) -> str | None:
    assert isinstance(found, ChatCompletion)
    return found.choices[0].message.content


def test_results_are_read_on(path: Path, reading: ResultFile) -> None:
    """As another process writes them: a line that is not whole is read later."""
    first, second = line_of(0, "a", "one"), line_of(1, "b", "two")
    path.write_bytes(first + second[:40])
    assert second[:40] == reading.read_on()
    assert "one" == text_of(reading.take(row_of(5, "a", "one")))
    assert reading.take(row_of(1, "b", "two")) is None
    path.write_bytes(first + second)
    assert b"" == reading.read_on()
    assert "two" == text_of(reading.take(row_of(1, "b", "two")))
    assert b"" == reading.read_on()


def test_a_completion_is_as_it_was_received(path: Path, reading: ResultFile) -> None:
    found = answer("Hi")
    found.request_id, found.attempts = "r", 2
    path.write_bytes(encode_result(row_of(0), found, None))
    reading.read_on()
    again = reading.take(row_of(0))
    assert again == found
    assert isinstance(again, ChatCompletion)
    assert found.to_dict() == again.to_dict()
    assert completion("Hi", id="c1") == again.body


def test_equal_rows_have_their_own_results(path: Path, reading: ResultFile) -> None:
    path.write_bytes(b"".join(encode_result(row_of(0), answer(text), None) for text in "abc"))
    reading.read_on()
    assert ["a", "b", "c"] == [text_of(reading.take(row_of(0), nth)) for nth in range(3)]
    assert reading.take(row_of(0), 3) is None


@pytest.mark.parametrize(
    ("status", "kept"),
    [(400, True), (404, True), (413, True), (422, True), (401, False), (429, False), (500, False)],
)
def test_errors_that_are_the_requests_own_fault_are_kept(
    path: Path, reading: ResultFile, status: int, kept: bool
) -> None:
    path.write_bytes(line_of(0, error=refusal(status)))
    reading.read_on()
    assert 1 == reading.errors
    found = reading.take(row_of(0))
    if not kept:
        assert found is None
        return
    error = refusal(status)
    assert type(error) is type(found)
    assert isinstance(found, APIStatusError)
    assert {**vars(error), "response": None} == {**vars(found), "response": None}
    assert status == found.status_code


def test_all_errors_can_be_made_again(path: Path) -> None:
    path.write_bytes(line_of(0, error=refusal(400)) + line_of(1, "a", error="no"))
    with path.open("rb") as file:
        reading = ResultFile(path, file.fileno(), retry_errors=True)
        reading.read_on()
        assert 2 == reading.errors
        assert reading.take(row_of(0)) is reading.take(row_of(1, "a")) is None


def test_an_error_of_an_earlier_version_has_no_status(path: Path, reading: ResultFile) -> None:
    line = InputLine(1, None, "d1")
    path.write_bytes(
        b'{"id":null,"custom_id":"a","line":1,"response":null,"error":{"type":"BadLine","message":"no"}}\n'
    )
    reading.read_on()
    bad = ask(0, line, {})[0]._replace(bad=True)
    found = reading.take(bad)
    assert GradientError is type(found)
    assert "no" == str(found)


def test_a_reply_that_is_no_completion_is_asked_for_again(path: Path, reading: ResultFile) -> None:
    """Another program may have changed it."""
    whole = line_of(0)
    for body in (b'{"choices":[]}', b"5"):
        start = whole.index(b'"body":') + len(b'"body":')
        path.write_bytes(whole[:start] + body + b'},"error":null}\n')
        reading.read_on()
        assert reading.take(row_of(0)) is None
        path.write_bytes(b"")
        reading._forget()


def test_results_without_a_digest_go_by_key_or_number(path: Path, reading: ResultFile) -> None:
    old = line_of(0, "a", "one"), line_of(1, None, "two"), line_of(2, "c", "three")
    digests = b"", b'"digest":"0123456789abcdef",', b'"digest":"",'
    for line, row, digest in zip(
        old, (row_of(0, "a", "one"), row_of(1, None, "two"), row_of(2, "c", "three")), digests, strict=True
    ):
        with path.open("ab") as file:
            file.write(line.replace(b'"digest":"%s",' % row.digest.hex().encode(), digest))
    reading.read_on()
    assert ["one", "two", "three"] == [
        text_of(reading.take(row)) for row in (row_of(9, "a"), row_of(1), row_of(9, "c"))
    ]
    assert reading.take(row_of(9)) is None
    assert reading.take(ask(0, InputLine(2, None, "other"), REQUEST)[0]) is None
    assert "two" == text_of(reading.take(ask(0, InputLine(2, None, "0123456789abcdef"), REQUEST)[0]))


def test_a_file_that_another_program_changed(path: Path, reading: ResultFile) -> None:
    path.write_bytes(line_of(0))
    reading.read_on()
    path.write_bytes(line_of(0)[:30])
    with pytest.raises(JournalError, match=r"results\.jsonl was changed by another program"):
        reading.take(row_of(0))


@pytest.mark.parametrize(
    "line", [b"notes\n", b'{"id":1,"name":"x"}\n', b"[]\n", line_of(0).replace(b'"digest":"', b'"digest":"X')]
)
def test_lines_that_are_no_results_are_told(path: Path, reading: ResultFile, line: bytes) -> None:
    path.write_bytes(line_of(0) + line)
    with pytest.raises(
        JournalError, match=r"results\.jsonl:2 is not a result of map; choose another file"
    ) as caught:
        reading.read_on()
    assert str(path) == caught.value.path


def test_a_file_that_cannot_be_read_is_told(path: Path) -> None:
    reading = ResultFile(path, -1)
    with pytest.raises(JournalError, match=r"results\.jsonl: .*open it again"):
        reading.read_on()
