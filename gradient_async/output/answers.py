"""Typed answers: a type as the form of an answer, and the verdict whether a completion holds values of the type."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar, cast, get_origin, overload

import msgspec

from ..errors import (
    ContentFilterFinishReasonError,
    InvalidRequestError,
    LengthFinishReasonError,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    copy_of,
    escape,
)
from ..partial import PartialJSON
from ..types import (
    ChatCompletion,
    ChatCompletionMessage,
    Choice,
    Model,
    ParsedChatCompletion,
    ParsedChatCompletionMessage,
    ParsedChoice,
    is_given,
)
from .schemas import Codec, UnfitTextError, codec_of, match_opening, shown_text
from .strict import NoSchemaError

T = TypeVar("T")


class Answer(Generic[T]):
    """A type as the form of an answer. You can pass an `Answer` wherever you can pass the type itself.

    Args:
        type_: Anything that msgspec can decode, such as a Struct, a dataclass, a TypedDict or a union; or a model of
            pydantic, alone or inside lists, dictionaries, tuples and unions.
        name: The name of the schema, for the model to read; by default the name of the type.
        description: What the answer is for, for the model to read.
        strict: Whether the server has to enforce the schema. A strict schema requires all fields and allows no others. By
            default, None, the schema is strict if the type allows a strict schema.

    Attributes:
        type: The type.
        name: The name of the schema.
        description: The description, or None.
        strict: Whether the server has to enforce the schema.
        schema: The JSON schema that is sent. Answers of one type share it, so it must not be changed.
        response_format: The whole parameter ``response_format``.

    Raises:
        InvalidRequestError: If the type has no schema; if ``strict`` is true, also if the type has no strict schema.
    """

    # Whether the text of a message with tool calls has to be an answer.
    beside_calls = True

    @overload
    def __init__(
        self,
        type_: type[T],
        *,
        name: str | None = None,
        description: str | None = None,
        strict: bool | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Answer[Any],
        type_: object,
        *,
        name: str | None = None,
        description: str | None = None,
        strict: bool | None = None,
    ) -> None: ...
    def __init__(
        self,
        type_: Any,
        *,
        name: str | None = None,
        description: str | None = None,
        strict: bool | None = None,
    ) -> None:
        refusal: NoSchemaError
        try:
            codec = codec_of(type_)
            self.schema, self.strict = codec.form(strict)
        except NoSchemaError as error:
            refusal = error.with_traceback(None)
        else:
            self._codec: Codec[T] = codec
            self.type = type_
            self.name = codec.name if name is None else name
            self.description = description
            if name is not None and re.fullmatch("[A-Za-z0-9_-]{1,64}", name) is None:
                raise InvalidRequestError(
                    f"name={escape(name, 80)!r}: expected 1 to 64 of the characters a-z A-Z 0-9 _ -",
                    param="response_format",
                )
            return
        problem = f"at {refusal.path}: {refusal.problem}"
        if strict and _has_schema(type_):
            problem = f"strict=True cannot hold {problem}; leave strict out to send the schema without it"
        raise InvalidRequestError(f"response_format={_shown_type(type_)}: {problem}", param="response_format")

    def in_run(self) -> Answer[T]:
        """Return a copy for the turns of a run, in which the text of a message with tool calls is not an answer."""
        copied = copy.copy(self)
        copied.beside_calls = False
        return copied

    @property
    def response_format(self) -> dict[str, Any]:
        """The whole parameter ``response_format``, for requests by another client."""
        described = {} if self.description is None else {"description": self.description}
        schema = {"name": self.name, **described, "strict": self.strict, "schema": self.schema}
        return {"type": "json_schema", "json_schema": schema}

    def decode(self, text: str) -> T:
        """Read the text of an answer.

        The JSON may be surrounded by white space, or by one fence of Markdown. If the type requires an integer, a whole number
        may be written as a float, such as ``2.0``. Half of a surrogate pair becomes U+FFFD. Nothing else is repaired.

        Raises:
            OutputDecodeError: If the text is not JSON.
            OutputValidationError: If the text is JSON, but not a value of the type.
        """
        unfit: UnfitTextError
        if not text.strip():
            raise OutputDecodeError("the answer is empty", text=text)
        try:
            return self._codec.decode(text)
        except UnfitTextError as error:
            unfit = error.with_traceback(None)
        if unfit.path is None:
            shown = f"the answer is not JSON: {unfit.shown}; it begins '{shown_text(text)}'"
            raise OutputDecodeError(shown, text=text, parsed=self.known(text))
        shown = f"the answer is not a valid {_shown_type(self.type)}: {unfit.shown}"
        raise OutputValidationError(shown, text=text, path=unfit.path, parsed=unfit.plain)

    def known(self, text: str) -> Any:
        """Return the plain data in the beginning of an answer."""
        opening = match_opening(text)
        return self.unwrap(PartialJSON().feed(text[opening.end() :] if opening else text))

    def unwrap(self, plain: Any) -> Any:
        """Return the answer inside the plain data of a text, which may be incomplete."""
        return self._codec.unwrap_plain(plain)

    def __reduce__(self) -> tuple[Any, ...]:
        options = {"name": self.name, "description": self.description, "strict": self.strict}
        return partial(Answer, **options), (self.type,)

    def __repr__(self) -> str:
        if "name" not in vars(self):  # `__init__` has failed, and a traceback shows this repr
            return "<Answer unfinished>"
        return f"Answer({_shown_type(self.type)}, name={self.name!r}, strict={self.strict})"


def _has_schema(type_: Any) -> bool:
    try:
        codec_of(type_)
    except NoSchemaError:
        return False
    return True


def _shown_type(type_: Any) -> str:
    is_class = isinstance(type_, type) and get_origin(type_) is None
    return escape(type_.__qualname__ if is_class else repr(type_), 80)


# Parameters


def is_type(response_format: object) -> bool:
    """Whether a value of ``response_format`` is a type, and not a schema as the API takes it."""
    return (
        isinstance(response_format, Answer)
        or callable(response_format)
        or get_origin(response_format) is not None
        or hasattr(response_format, "__value__")  # an alias made by the statement `type`
    )


def answer_of(response_format: object) -> Answer[Any] | None:
    """Return the `Answer` for a value of ``response_format``; None for None, and for a schema in the form of the API.

    Raises:
        InvalidRequestError: If the value is a type without a schema, or if it is not a type.
    """
    if isinstance(response_format, Answer):
        return cast("Answer[Any]", response_format)
    if not isinstance(response_format, type) and (
        response_format is None or isinstance(response_format, Mapping) or not is_given(response_format)
    ):
        return None
    try:
        codec = codec_of(response_format)
    except NoSchemaError:
        pass
    else:
        if codec.answer is None:
            codec.answer = Answer(response_format)
        return cast("Answer[Any]", codec.answer)
    return Answer(response_format)  # raises the error outside of the handler, so that it has no `__context__`


def take_answer(arguments: dict[str, Any]) -> Answer[Any] | None:
    """Replace a type in the arguments of a request by its schema, in place; return the form of the answer.

    Raises:
        InvalidRequestError: If the type has no schema.
    """
    answer = answer_of(arguments.get("response_format"))
    if answer is not None:
        arguments["response_format"] = answer.response_format
    return answer


# Checking answers


def has_answer(message: ChatCompletionMessage) -> bool:
    """Whether the text of a message has to be an answer.

    It does not if the model refuses, or if the model calls tools and the text is empty.
    """
    text = message.content or ""
    return not message.refusal and (bool(text.strip()) or not (message.tool_calls or message.function_call))


def judge_choice(choice: Choice, answer: Answer[T] | None) -> tuple[ParsedChoice[T], OutputError | None]:
    """Read the text of a choice; return the choice with its value, and the error if the text should be an answer but is not.

    Args:
        choice: The choice.
        answer: The form of the answer; None if the text has no type.
    """
    parsed: T | None = None
    error: OutputError | None = None
    if answer is not None:
        try:
            parsed = _decode(choice, answer)
        except OutputError as raised:
            error = raised.with_traceback(None)
            error.choice = choice.index
    message = _as(ParsedChatCompletionMessage, choice.message, parsed=parsed)
    return _as(ParsedChoice, choice, message=message), error


def _as(kind: type[Model], struct: Model, **fields: Any) -> Any:
    """Make a Struct of another class with the fields of a Struct, and with these fields replaced."""
    # Callers pass `ParsedChoice` and not the alias `ParsedChoice[T]`, whose call takes several times as long.
    return kind(**(msgspec.structs.asdict(struct) | fields))


def _decode(choice: Choice, answer: Answer[T]) -> T | None:
    message, reason = choice.message, choice.finish_reason
    text = message.content or ""
    # The finish_reason is checked before the JSON, because a cut text may happen to end where its JSON ends.
    if reason == "length":
        raise LengthFinishReasonError(
            "the answer was cut at the limit of tokens (finish_reason 'length'); raise max_tokens or max_completion_tokens",
            text=text,
            parsed=answer.known(text),
        )
    if reason == "content_filter":
        raise ContentFilterFinishReasonError(
            "a content filter cut the answer (finish_reason 'content_filter')",
            text=text,
            parsed=answer.known(text),
        )
    calls = message.tool_calls or message.function_call
    return answer.decode(text) if has_answer(message) and (answer.beside_calls or not calls) else None


def value_of(choice: Choice, answer: Answer[T], get_completion: Callable[[], ChatCompletion]) -> T | None:
    """Return the value of one choice, or None if it has no answer.

    Args:
        choice: The choice.
        answer: The form of the answer.
        get_completion: Returns the completion with all choices, for the error.

    Raises:
        OutputError: If the text is not a value of the type.
    """
    judged, error = judge_choice(choice, answer)
    if error is None:
        return judged.message.parsed
    raise copy_of(describe_error(error, judge(get_completion(), answer)[0]))


def describe_error(error: OutputError, completion: ParsedChatCompletion[Any]) -> OutputError:
    """Set the attributes of an error that come from its completion; return the error."""
    error.completion = completion
    error.request_id, error.attempts = completion.request_id, completion.attempts
    error.rate_limits = completion.rate_limits
    return error


def judge(
    completion: ChatCompletion, answer: Answer[T] | None
) -> tuple[ParsedChatCompletion[T], OutputError | None]:
    """Read the texts of a completion; return the completion with its values, and the error of the first faulty choice.

    Args:
        completion: The completion.
        answer: The form of the answers; None if the texts have no type.
    """
    judged = [judge_choice(choice, answer) for choice in completion.choices]
    result = _with_choices(completion, [choice for choice, _ in judged])
    errors = [error for _, error in judged if error is not None]
    error = min(errors, key=lambda error: error.choice, default=None)
    return result, None if error is None else describe_error(error, result)


def _with_choices(completion: ChatCompletion, choices: list[ParsedChoice[T]]) -> ParsedChatCompletion[T]:
    result: ParsedChatCompletion[T] = _as(ParsedChatCompletion, completion, choices=choices)
    result.receive_as(completion)
    return result


def parse_so_far(completion: ChatCompletion, answer: Answer[T]) -> ParsedChatCompletion[T]:
    """Read the texts of an unfinished completion. If a text is not a value of the type, its value is None."""
    return _with_choices(
        completion,
        [judge_choice(choice, answer if _may_be_whole(choice) else None)[0] for choice in completion.choices],
    )


def _may_be_whole(choice: Choice) -> bool:
    """Whether the text of a choice may be whole: an answer ends with a brace or with a fence of Markdown.

    Without this test, each piece of a stream would cause a useless attempt to decode the text.
    """
    return choice.finish_reason is not None or (choice.message.content or "").rstrip().endswith(("}", "`"))


def parse_completion(completion: ChatCompletion, answer: Answer[T] | None) -> ParsedChatCompletion[T]:
    """Read the texts of a completion.

    Raises:
        OutputError: If a choice has no value of the type. The error has the completion, with the values of all other choices.
    """
    result, error = judge(completion, answer)
    if error is not None:
        raise copy_of(error)
    return result


def retry_messages(error: OutputError) -> list[Any]:
    """Return messages that ask a model to correct its answer: the answer, and a message of the user that names the fault."""
    # The tool calls are removed, because a history with tool calls also needs their results.
    answer = error.completion.choices[0].message.model_copy(
        update={"content": error.text, "tool_calls": None, "function_call": None}
    )
    fault = f"{error.message[:1].upper()}{error.message[1:]}. Answer again, with nothing but JSON that fits the schema."
    return [answer, {"role": "user", "content": fault}]
