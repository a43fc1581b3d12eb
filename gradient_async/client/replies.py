"""Bodies of replies to what a call returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decoding import decode_completion, decode_models, reply_error
from ..errors import APIResponseValidationError, APIStatusError
from ..types import ChatCompletion, ModelList

if TYPE_CHECKING:
    from ..session import Reply

__all__ = ["finish_completion", "finish_models"]


def finish_completion(reply: Reply, content: bytes) -> ChatCompletion:
    """Decode the body of an awaited reply, and add what the session knows of it.

    Raises:
        APIStatusError: If a reply of status 200 holds an error.
        APIResponseValidationError: If it holds no completion.
    """
    failure: APIResponseValidationError
    try:
        completion = decode_completion(content)
    except APIResponseValidationError as error:
        failure = error
    else:
        completion.request_id = reply.request_id
        completion.rate_limits = reply.rate_limits
        completion.attempts = reply.attempts
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
    info = reply.info(content)
    said = reply_error(content)
    if said is not None:
        return reply.refusal(said, info)
    failure.response = info
    failure.request = reply.request
    failure.request_id = reply.request_id
    failure.rate_limits = reply.rate_limits
    failure.attempts = reply.attempts
    failure.body = content.decode("utf-8", "replace")
    return failure
