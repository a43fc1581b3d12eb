"""What a hook sees of a call."""

from __future__ import annotations

import pytest

from gradient_async import APIConnectionError, CallInfo, Headers, StreamTruncatedError
from gradient_async.errors import ResponseInfo, status_error_class

OK, NOT_FOUND = (ResponseInfo(status_code=code, headers=Headers()) for code in (200, 404))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, None),
        (status_error_class(404)("no such model", response=NOT_FOUND), "404"),
        (StreamTruncatedError("short", response=OK), "StreamTruncatedError"),
        (APIConnectionError("lost"), "APIConnectionError"),
        (KeyError("any"), "KeyError"),
    ],
)
def test_the_type_of_an_error_is_its_status_or_else_its_class(
    error: BaseException | None, expected: str | None
) -> None:
    call = CallInfo(
        operation="chat", method="POST", url="https://x.test", params={}, stream=False, error=error
    )
    assert expected == call.error_type
