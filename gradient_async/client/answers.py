"""Asks for a typed answer, and asks again if the answer is not a value of the type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ..decoding import list_iterables
from ..errors import InvalidRequestError, OutputDecodeError, OutputValidationError, copy_of
from ..output import Answer, judge, retry_messages, take_answer
from ..tools import tool_params
from ..types import NOT_GIVEN, ChatCompletion, ParsedChatCompletion, is_given, sum_usage
from .settings import check_count


def typed_arguments(arguments: dict[str, Any]) -> Answer[Any] | None:
    """Replace a type in the arguments of a request by its schema, in place; return the form of the answer.

    Raises:
        TypeError: If ``stream`` is given.
        InvalidRequestError: If the type has no schema.
    """
    if is_given(arguments.pop("stream", NOT_GIVEN)):
        raise TypeError("parse() never streams: leave 'stream' out, or use stream(response_format=...)")
    return take_answer(arguments)


def refuse_retries(arguments: Mapping[str, Any]) -> None:
    """Refuse ``output_retries`` for methods that return or stream an answer before its fault is known.

    Raises:
        TypeError: If it is given.
    """
    if "output_retries" in arguments:
        raise TypeError("output_retries: only parse() and map() ask again; leave it out here")


def described_tools(arguments: dict[str, Any]) -> dict[str, Any]:
    """Describe the functions among ``tools`` once for several requests.

    Raises:
        TypeError: If a function cannot be a tool.
        InvalidRequestError: If two tools have one name.
    """
    return {**arguments, "tools": tool_params(arguments["tools"])} if "tools" in arguments else arguments


def check_retries(output_retries: Any, arguments: dict[str, Any]) -> int:
    """Return how often a request may be repeated because of its answer; 0 if that is not given.

    Raises:
        ConfigurationError: If the value is not a number of retries.
        InvalidRequestError: If the request cannot be repeated with the answer.
    """
    if not is_given(output_retries):
        return 0
    retries = check_count("output_retries", output_retries, min_=0)
    if retries:
        extra_body: Mapping[str, Any] = arguments.get("extra_body") or {}
        if extra_body.get("n", arguments.get("n")) not in {None, 1}:
            raise InvalidRequestError(
                f"output_retries={output_retries}: a request with n above 1 cannot be repeated for one of its choices",
                param="output_retries",
            )
        if "messages" in extra_body:
            raise InvalidRequestError(
                f"output_retries={output_retries}: pass messages as a parameter, not in extra_body",
                param="output_retries",
            )
    return retries


async def parse(
    fetch: Callable[[dict[str, Any]], Awaitable[ChatCompletion]],
    arguments: dict[str, Any],
    answer: Answer[Any] | None,
    retries: int,
) -> ParsedChatCompletion[Any]:
    """Request a completion, and read its texts.

    Args:
        fetch: Makes the request for these arguments; it may change them.
        arguments: Arguments of the request.
        answer: The form of the answer.
        retries: How often to ask again, with the faulty answer and a message that names the fault, if an answer is no
            JSON or not a value of the type. Usage and attempts of all requests are added up.

    Raises:
        OutputError: If the last answer is not a value of the type.
    """
    usage, attempts = None, 0
    if retries:
        list_iterables(arguments)  # each request reads the same messages
    while True:
        completion = await fetch({**arguments})
        if attempts:
            used = completion.usage
            completion.usage = usage if used is None else sum_usage(usage, used)
            completion.attempts += attempts
        usage, attempts = completion.usage, completion.attempts
        result, error = judge(completion, answer)
        if error is None:
            return result
        if not retries or not isinstance(error, (OutputDecodeError, OutputValidationError)):
            raise copy_of(error)
        retries -= 1
        arguments["messages"] = [*arguments["messages"], *retry_messages(error)]
