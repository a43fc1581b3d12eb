"""Rows and lines of results, for tests of the journal."""

from __future__ import annotations

import json
from typing import Any

from gradient_async import ChatCompletion, GradientError
from gradient_async.decoding import decode_body, decode_completion
from gradient_async.errors import ResponseInfo, status_error_class
from gradient_async.fanout.result_file import Row, encode_result
from gradient_async.testing import completion
from gradient_async.types import Headers


def ask(index: int, key: Any, params: dict[str, Any]) -> tuple[Row, dict[str, Any]]:
    """Return the row of a request, and its parameters."""
    return Row.of(index, key).asking(params)


def row_of(index: int, key: Any = None, text: str = "x") -> Row:
    """Return the row of a request with this prompt."""
    return ask(index, key, {"model": "m", "messages": [{"role": "user", "content": text}]})[0]


def answer(text: str = "Hi", **fields: Any) -> ChatCompletion:
    """Return a completion that was received."""
    content = json.dumps(completion(text, id="c1", **fields)).encode()
    found = decode_completion(content)
    found.receive(content, decode_body)
    return found


def refusal(status: int) -> GradientError:
    """Return the error of a status."""
    response = ResponseInfo(status_code=status, headers=Headers())
    return status_error_class(status)(
        f"answered {status}", response=response, code="c", request_id="r", attempts=2
    )


def line_of(
    index: int, key: Any = None, text: str = "x", *, error: GradientError | str | None = None
) -> bytes:
    """Return the line of a result, whose answer is the prompt."""
    return encode_result(row_of(index, key, text), None if error else answer(text), error)
