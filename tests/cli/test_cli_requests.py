"""What ``gradient-async map`` reads, and what it counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradient_async.cli.map import Counts, RequestLine, read_requests

MESSAGES = [{"role": "user", "content": "Hello"}]
BODY = {"model": "m", "messages": MESSAGES}


def lines(*rows: Any) -> list[bytes]:
    return [row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows]


def read(*rows: Any) -> list[RequestLine]:
    return list(read_requests(lines(*rows), "default"))


# Requests


@pytest.mark.parametrize(
    ("row", "custom_id", "params"),
    [
        pytest.param(BODY, None, BODY, id="parameters"),
        pytest.param({"messages": MESSAGES}, None, {**BODY, "model": "default"}, id="no model"),
        pytest.param({"body": BODY}, None, BODY, id="body"),
        pytest.param({"custom_id": "a", "body": BODY}, "a", BODY, id="custom_id"),
        pytest.param({"custom_id": "a", **BODY}, "a", BODY, id="custom_id beside parameters"),
        pytest.param(
            {"custom_id": "a", "method": "post", "url": "/v1/chat/completions", "body": BODY},
            "a",
            BODY,
            id="batch",
        ),
        pytest.param(
            {**BODY, "stream": True, "seed": 3, "top_k": 5},
            None,
            {**BODY, "stream": True, "seed": 3, "extra_body": {"top_k": 5}},
            id="unknown parameters go along",
        ),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(BODY).encode(), None, BODY, id="bom, no newline"),
    ],
)
def test_lines_that_are_requests(row: Any, custom_id: str | None, params: dict[str, Any]) -> None:
    (found,) = read(row)
    assert RequestLine(1, custom_id, found.digest, params) == found


@pytest.mark.parametrize(
    ("row", "says", "custom_id"),
    [
        pytest.param(b"{\n", "not valid JSON", None, id="cut"),
        pytest.param(b'{"a": "\xff"}\n', "not valid JSON", None, id="not utf-8"),
        pytest.param(b"[" * 100_000 + b"\n", "not valid JSON", None, id="deep"),
        pytest.param([1], "not a JSON object", None, id="list"),
        pytest.param({"prompt": "x", "custom_id": "a"}, 'neither "body" nor "messages"', "a", id="neither"),
        pytest.param({"body": "x", "custom_id": "a"}, "body is not a JSON object", "a", id="body"),
        pytest.param({"body": BODY, "custom_id": 5}, "custom_id 5 is not a string", None, id="custom_id"),
        pytest.param(
            {"body": BODY, "method": "GET"}, "method 'GET' is not supported; only POST is", None, id="method"
        ),
        pytest.param({"body": BODY, "url": "/v1/embeddings"}, "only /chat/completions is", None, id="url"),
    ],
)
def test_lines_that_are_none(row: Any, says: str, custom_id: str | None) -> None:
    """They are told with their number, and the next is read."""
    (fine, bad, last) = read(BODY, row, BODY)
    assert says in bad.problem
    assert {} == bad.params
    assert (2, custom_id) == (bad.number, bad.custom_id)
    assert [1, 3] == [fine.number, last.number]


def test_what_a_line_says_is_shown_as_far_as_it_fits() -> None:
    """A line may be of any length; a message is for people."""
    long = "x" * 100_000
    rows = read(
        {"custom_id": [long], "body": BODY},
        {"url": long, "body": BODY},
        {"method": long, "body": BODY},
        *[{"custom_id": long, "body": BODY}] * 2,
    )
    problems = [row.problem for row in rows if row.problem]
    assert 4 == len(problems)
    assert all(80 < len(problem) < 200 and "xxx..." in problem for problem in problems)


def test_a_line_that_changed_can_be_told() -> None:
    """Its place, its end and the lines before it are not part of it."""
    first, second, third = read({"custom_id": "a", "body": BODY}, {"custom_id": "b", "body": BODY}, b"{no")
    assert first.digest != second.digest
    again, last = read(b"\n", json.dumps({"custom_id": "a", "body": BODY}).encode() + b"  \r\n", b"{no\n")
    assert (first.digest, third.digest) == (again.digest, last.digest)


def test_empty_lines_are_passed_over_and_counted() -> None:
    assert [2, 4] == [line.number for line in read(b"\n", BODY, b"  \r\n", BODY)]


def test_a_custom_id_is_given_once() -> None:
    first, second = read({"custom_id": "a", "body": BODY}, {"custom_id": "a", "body": BODY})
    assert "" == first.problem
    assert "custom_id 'a' is already used on line 1; use another" == second.problem
    assert (2, None) == (second.number, second.custom_id)


# Counts


def test_counts_tell_rates_and_what_is_left() -> None:
    now = 100.0
    counts = Counts(10, lambda: now)
    assert "0.0 requests/s, 0 tokens/s, 0 failed" == str(counts)
    now += 4
    counts.done, counts.failed, counts.tokens, counts.invalid, counts.skipped = 7, 1, 100, 1, 1
    assert 10 == counts.over
    for total, left in ((50, "20 s"), (5, "0 s"), (10_010, "1:23:20")):
        counts.total = total
        assert f"2.0 requests/s, 25 tokens/s, 1 failed, {left} left" == str(counts)
    assert "7 done, 1 failed, 1 invalid, 1 done earlier, 100 tokens, 4.0 s" == counts.summary()
