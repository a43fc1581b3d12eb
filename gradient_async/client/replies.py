"""Bodies of replies to what a call returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..decoding import check_bounds, decode_completion, decode_models, reply_error
from ..errors import APIError, APIResponseValidationError, APIStatusError
from ..types import ChatCompletion, ModelList

if TYPE_CHECKING:
    from ..config import Limits
    from ..session.reply import Reply

__all__ = ["fetch", "finish_completion", "finish_models"]

T = TypeVar("T")


async def fetch(reply: Reply, limits: Limits, finish: Callable[[Reply, bytes], T]) -> T:
    """Read a reply to its end and decode it.

    Args:
        reply: The reply, its body unread.
        limits: How large the body may be.
        finish: Decodes it.

    Raises:
        APIError: If it could not be read, or is not what it should be.
    """
    failure: APIError
    try:
        result = finish(reply, await reply.read_all(limits))
    except APIError as error:
        # Without the frames that hold the body: a traceback may show locals, and servers echo keys.
        failure = error.with_traceback(None)
    except BaseException as error:
        reply.end(error)
        raise
    else:
        if reply.trace is not None:
            reply.end()
        return result
    reply.end(failure)
    raise failure


def finish_completion(reply: Reply, content: bytes) -> ChatCompletion:
    """Decode the body of an awaited reply, and add what the session knows of it.

    Raises:
        APIStatusError: If a reply of status 200 holds an error.
        APIResponseValidationError: If it holds no completion.
    """
    failure: APIResponseValidationError
    try:
        completion = decode_completion(content)
        n, limits = reply.n, reply.limits
        most = max(limits.choices, n) if isinstance(n, int) else limits.choices
        check_bounds(completion, choices=most, tool_calls=limits.tool_calls)
    except APIResponseValidationError as error:
        failure = error
    else:
        completion.request_id = reply.request_id
        completion.rate_limits = reply.rate_limits
        completion.attempts = reply.attempts
        if reply.trace is not None:
            reply.end(completion=completion)
        return completion
    raise _refused(reply, content, failure)


def finish_models(reply: Reply, content: bytes) -> ModelList:
    """Decode the list of models.

    Raises:
        APIStatusError: If a reply of status 200 holds an error.
        APIResponseValidationError: If it holds no list of models.
    """
    failure: APIResponseValidationError
    try:
        return decode_models(content)
    except APIResponseValidationError as error:
        failure = error
    raise _refused(reply, content, failure)


def _refused(
    reply: Reply, content: bytes, failure: APIResponseValidationError
) -> APIResponseValidationError | APIStatusError:
    """Make the error of a reply that was not what it should be."""
    error_body = reply_error(content)
    if error_body is not None:
        return reply.refusal(error_body, content)
    failure.body = content.decode("utf-8", "replace")
    reply.describe(failure, content)
    return failure
