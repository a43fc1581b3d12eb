"""`Answer` and the verdict on completions."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, ForwardRef, Generic, Literal, Never

import msgspec
import pytest
from answer_types import Cat, Closed, Dog, Invoice, Line, Page, Point, Renamed
from msgspec import Meta, Struct
from tool_functions import get_weather, no_schema, open_object

from gradient_async import (
    Answer,
    ChatCompletion,
    ChatCompletionMessage,
    Choice,
    CompletionUsage,
    ContentFilterFinishReasonError,
    Function,
    InvalidRequestError,
    LengthFinishReasonError,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    ParsedChatCompletion,
    ParsedChatCompletionMessage,
    ParsedChoice,
    ParsedMessage,
    ToolArgumentsError,
    ToolCall,
    tool,
)
from gradient_async.decoding import encode_request
from gradient_async.output import (
    NoSchemaError,
    UnfitTextError,
    answer_of,
    is_type,
    judge,
    parse_completion,
    parse_so_far,
    retry_messages,
    take_answer,
)
from gradient_async.output import schemas as module
from gradient_async.output.schemas import codec_of

FAR: Any = list.__class_getitem__(ForwardRef("Far"))
VALID = '{"number":"7","lines":[{"price":1.5}]}'
INVOICE = Invoice("7", [Line(1.5)])


class Unresolved(Struct):
    lines: list[Nowhere]  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownVariableType]


class Bare:
    def __init__(self, a: int) -> None:
        self.a = a


class Holder(Struct):
    lines: list[Bare]


class Unchangeable(type):
    """Of classes whose attributes cannot be set."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise AttributeError(name)


class Fixed(metaclass=Unchangeable):
    """Such a class."""


class Constant(Struct):
    kind: ClassVar[int] = 1
    bare: Bare


def twin(type_: Any) -> Any:
    """Make a class of the same name each time."""
    return msgspec.defstruct("Twin", [("a", type_)], module=__name__)


TWINS: Any = tuple.__class_getitem__((twin(int), twin(str)))


def reply(*texts: str | None, **fields: Any) -> ChatCompletion:
    """Make a completion with a choice for each text."""
    choices = [
        Choice(index=index, message=ChatCompletionMessage(content=text), finish_reason="stop", **fields)
        for index, text in enumerate(texts)
    ]
    return ChatCompletion(id="c", choices=choices, usage=CompletionUsage(prompt_tokens=3), request_id="r")


class TestAnswer:
    def test_attributes(self) -> None:
        """The whole dict goes as it is; the description only when it is given."""
        answer = Answer(Closed)
        schema = {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        }
        assert (Closed, "Closed", None, True, schema) == (
            answer.type,
            answer.name,
            answer.description,
            answer.strict,
            answer.schema,
        )
        wanted = {"type": "json_schema", "json_schema": {"name": "Closed", "strict": True, "schema": schema}}
        assert wanted == answer.response_format
        said = Answer(Closed, name="a-b_1", description="What it is.", strict=True)
        assert {"name": "a-b_1", "description": "What it is."}.items() <= said.response_format[
            "json_schema"
        ].items()
        assert "Answer(Closed, name='Closed', strict=True)" == repr(answer)

    def test_pickles(self) -> None:
        answer = pickle.loads(pickle.dumps(Answer(Closed, name="x", description="d", strict=False)))  # noqa: S301  # our own
        assert ("x", "d", False, Closed(1)) == (
            answer.name,
            answer.description,
            answer.strict,
            answer.decode('{"a":1}'),
        )

    def test_an_answer_goes_wherever_a_type_goes(self) -> None:
        answer = Answer(Closed)
        assert answer is answer_of(answer)
        made = answer_of(Closed)
        assert made is not None and Closed is made.type
        assert made is answer_of(Closed), "made once per type"
        with pytest.raises(InvalidRequestError, match="3 is an instance of int"):
            answer_of(3)
        for nothing in (None, {"type": "json_object"}):
            assert answer_of(nothing) is None
        assert all(map(is_type, (Closed, answer, list[int], int | str, Literal["a"], Annotated[int, 1])))
        assert not any(map(is_type, ({"type": "json_object"}, None, "json")))

    def test_strict_is_decided_by_the_type(self) -> None:
        """None: true if the type can be said in the strict subset; False never transforms."""
        assert (True, False) == (Answer(Invoice).strict, Answer(dict[str, int]).strict)
        assert {"type": "object", "additionalProperties": {"type": "integer"}} == Answer(
            dict[str, int]
        ).schema
        loose = Answer(Point, strict=False)
        assert (False, ["x"]) == (loose.strict, loose.schema["required"])
        assert "additionalProperties" not in loose.schema
        assert {"type": "integer", "default": 0} == loose.schema["properties"]["y"]

    def test_a_root_that_is_no_object_is_wrapped(self) -> None:
        """It is unwrapped before anybody sees it: in values, paths and what is known."""
        answer = Answer(list[Line])
        assert {"value"} == answer.schema["properties"].keys()
        assert [Line(1.0)] == answer.decode('{"value":[{"price":1}]}')
        with pytest.raises(OutputValidationError) as raised:
            answer.decode('{"value":[{"price":1},{"price":"x"}]}')
        assert ("$[1].price", [{"price": 1}, {"price": "x"}]) == (raised.value.path, raised.value.parsed)
        with pytest.raises(OutputValidationError) as raised:
            answer.decode('[{"price":1}]')
        assert ("$", None) == (raised.value.path, raised.value.parsed)
        with pytest.raises(OutputDecodeError) as cut:
            answer.decode('{"value":[{"price":1},')
        assert [{"price": 1}] == cut.value.parsed
        assert Cat(1) == Answer(Cat | Dog).decode('{"value":{"type":"Cat","lives":1}}')

    @pytest.mark.parametrize(
        ("type_", "name"),
        [
            (Invoice, "Invoice"),
            (list[Invoice], "list_Invoice"),
            (Page[int], "Page_int"),
            (dict[str, list[Invoice]], "dict_str_list_Invoice"),
            (Cat | Dog, "Cat_Dog"),
            (Literal["a b", 1], "Literal_a_b_1"),
            (Annotated[Invoice, Meta(description="x")], "Invoice"),
            (msgspec.defstruct("_Ünter__x-y_", [("a", int)]), "nter_x-y"),
            (msgspec.defstruct("Ж", [("a", int)]), "answer"),
            (msgspec.defstruct("a" * 63 + "_bc", [("a", int)]), "a" * 63),
        ],
    )
    def test_name(self, type_: Any, name: str) -> None:
        """Other characters become `_`; runs and ends of `_` are dropped; 64 characters at most."""
        assert name == Answer(type_).name

    def test_a_name_that_the_api_refuses(self) -> None:
        for name in ("", "a b", "x" * 65):
            with pytest.raises(InvalidRequestError, match="expected 1 to 64 of the characters") as refused:
                Answer(Closed, name=name)
            assert "response_format" == refused.value.param

    @pytest.mark.parametrize(
        ("type_", "words"),
        [
            (Bare, "response_format=Bare: at $: Bare is a class without declared fields; make it a Struct"),
            (list[Bare], "at $[...]: Bare is a class"),
            (Holder, "response_format=Holder: at $.lines[...]: Bare is a class"),
            (dict[str, Holder], "at $[...].lines[...]: Bare is a class"),
            (Constant, "at $.bare: Bare is a class"),
            (len, "len is a function, not a type"),
            (Point(1), "is an instance of Point, not a type; pass Point itself"),
            (3, "3 is an instance of int, not a type; pass int itself"),
            ("Invoice", "the name 'Invoice' is not resolved; pass the class itself"),
            (Unresolved, "at $.lines: name 'Nowhere' is not defined; a type has to be defined in the module"),
            (Closed | Renamed, "all Struct types must be tagged"),
            (str | bytes, "leave one of them out, or make each a Struct with a tag"),
            ([int], "is an instance of list, not a type; write list[...], such as list[int]"),
            (Callable[[int], int], "Callable is a function, not a type; pass the type of the result"),
            (FAR, "at $[...]: the name 'Far' is not resolved; pass the class itself"),
            (deque[int], "deque has no form in JSON; use a list, a dict, a Struct or a dataclass"),
            (Never, "Never has no form in JSON"),
            (Generic, "Generic has no form in JSON"),
            (TWINS, "two classes have the name "),
        ],
    )
    def test_refused_early(self, type_: Any, words: str) -> None:
        """With the type, the path and the cure."""
        with pytest.raises(InvalidRequestError) as refused:
            Answer(type_)
        assert words in str(refused.value)
        assert "response_format" == refused.value.param

    def test_an_alias_that_contains_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which the statement `type` of newer versions of Python can make."""

        def fail(*args: Any, **options: Any) -> Any:
            raise RecursionError

        monkeypatch.setattr(msgspec.json, "schema_components", fail)
        with pytest.raises(InvalidRequestError, match="int contains itself; make it a class"):
            Answer(Annotated[int, []])

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no statement `type` before Python 3.12")
    def test_the_statement_type(self) -> None:
        scope: dict[str, Any] = {"Line": Line}
        exec("type Lines = list[Line]\ntype Maybe[T] = T | None\ntype Nest = list[Nest]", scope)  # noqa: S102
        assert [Line(1.0)] == Answer(scope["Lines"]).decode('{"value":[{"price":1}]}')
        assert ("Maybe_Line", None) == (
            (maybe := Answer(scope["Maybe"][Line])).name,
            maybe.decode('{"value":null}'),
        )
        with pytest.raises(InvalidRequestError, match="Nest contains itself"):
            Answer(scope["Nest"])

    def test_strict_that_cannot_hold(self) -> None:
        """Refused with path and reason."""
        with pytest.raises(InvalidRequestError, match="cannot hold at ") as refused:
            Answer(list[dict[str, int]], strict=True)
        assert "strict=True cannot hold at $[...]: an object with any keys" in str(refused.value)
        with pytest.raises(InvalidRequestError, match="at \\$: Bare is a class"):
            Answer(Bare, strict=True)


class TestCache:
    def test_schemas_are_made_once_a_type(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Local(Struct):
            a: int

        class Below(Local):
            b: int

        made: list[Any] = []
        schema = module._msgspec_schema

        def noted(type_: Any) -> Any:
            made.append(type_)
            return schema(type_)

        monkeypatch.setattr(module, "_msgspec_schema", noted)
        for _ in range(3):
            for type_ in (Local, list[Local], Below):
                assert Answer(type_, name="x").schema is Answer(type_, description="y").schema
                assert Answer(type_, strict=False).schema is Answer(type_, strict=False).schema
        assert [Local, list[Local], Below] == made

    def test_a_type_is_freed(self) -> None:
        """The cache does not keep a class, however it is used."""
        local: Any = msgspec.defstruct("Local", [("a", int)], module=__name__)
        Answer(local).decode('{"a":1}')
        Answer(list[local]).decode('{"value":[{"a":2.0}]}')
        Answer(local | None).decode('{"value":null}')
        assert 3 == len(module._codecs_of(local))
        gone = weakref.ref(local)
        del local
        gc.collect()
        assert gone() is None

    def test_bounded(self) -> None:
        """Types of Python alone are kept for good, so their number is bounded."""
        for number in range(200):
            literal: Any = Literal[number]  # pyright: ignore[reportInvalidTypeForm]
            Answer(literal)
        assert len(module._BUILTIN) <= module._MAX_CODECS

    def test_what_cannot_be_kept(self) -> None:
        """A type without a hash is described at each call; a class that cannot be changed is kept elsewhere."""
        type_ = Annotated[Closed, []]
        assert Closed(1) == Answer(type_).decode('{"a":1}')
        assert codec_of(type_) is not codec_of(type_)
        assert module._BUILTIN is module._codecs_of(list[Fixed])

    def test_a_class_copied_by_value_has_no_cache(self) -> None:
        """As cloudpickle copies classes of `__main__`."""
        Answer(Closed)
        assert {} == pickle.loads(pickle.dumps(vars(Closed)["__gradient_codecs__"]))  # noqa: S301  # our own

    def test_threads(self) -> None:
        """Several threads use a type for the first time."""
        for number in range(20):
            local = msgspec.defstruct(
                f"Local{number}", [("a", list[Line]), ("b", Page[int])], module=__name__
            )
            start = threading.Barrier(4)
            found: list[Any] = []

            def use(local: Any = local, start: threading.Barrier = start, found: list[Any] = found) -> None:
                start.wait()
                found.append(Answer(local).schema)

            threads = [threading.Thread(target=use) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert 4 == len(found) and all(schema is found[0] for schema in found)


class TestVerdict:
    def test_every_choice(self) -> None:
        completion = reply(VALID, VALID)
        completion.receive({"id": "c"}, None, [("a", "b")])
        parsed = parse_completion(completion, Answer(Invoice))
        assert [INVOICE, INVOICE] == [choice.message.parsed for choice in parsed.choices]
        assert (INVOICE, "c", "r", {"id": "c"}, "b") == (
            parsed.parsed,
            parsed.id,
            parsed.request_id,
            parsed.body,
            parsed.headers["a"],
        )
        assert (completion.usage, "stop", 1) == (
            parsed.usage,
            parsed.choices[1].finish_reason,
            parsed.choices[1].index,
        )
        assert (ParsedChatCompletion, ParsedChoice) == (type(parsed), type(parsed.choices[0]))
        assert issubclass(ParsedChatCompletion, ChatCompletion)
        assert ParsedMessage is ParsedChatCompletionMessage is type(parsed.choices[0].message)
        assert parse_completion(ChatCompletion(), Answer(Invoice)).parsed is None

    def test_parsed_is_a_value_of_the_user(self) -> None:
        """Not in `to_dict()` and `to_json()`, nor sent back; in `==`; it pickles; the collector sees it."""
        parsed = parse_completion(reply(VALID), Answer(Invoice))
        message = parsed.choices[0].message
        assert reply(VALID).to_dict() == parsed.to_dict() == parsed.model_dump(exclude_none=True)
        assert reply(VALID).to_json() == parsed.to_json()
        body = encode_request({"messages": [message]}, stream=None)
        assert {"messages": [{"role": "assistant", "content": VALID}]} == msgspec.json.decode(body)
        for copied in (pickle.loads(pickle.dumps(parsed)), copy.deepcopy(parsed)):  # noqa: S301  # our own
            assert parsed == copied
            copied.choices[0].message.parsed = None
            assert parsed != copied
        assert gc.is_tracked(message)
        assert "parsed=Invoice(" in repr(message)

    @pytest.mark.parametrize(
        "message",
        [
            ChatCompletionMessage(refusal="I can't."),
            ChatCompletionMessage(content="no JSON", refusal="I can't."),
            ChatCompletionMessage(tool_calls=[ToolCall()]),
            ChatCompletionMessage(content=" \n", tool_calls=[ToolCall()]),
            ChatCompletionMessage(content="", function_call=Function()),
        ],
    )
    def test_none_where_the_model_refused_or_only_calls_tools(self, message: ChatCompletionMessage) -> None:
        completion = ChatCompletion(choices=[Choice(message=message)])
        assert parse_completion(completion, Answer(Invoice)).parsed is None

    def test_text_beside_calls_is_read(self) -> None:
        message = ChatCompletionMessage(content=VALID, tool_calls=[ToolCall()])
        parsed = parse_completion(ChatCompletion(choices=[Choice(message=message)]), Answer(Invoice))
        assert INVOICE == parsed.parsed

    def test_none_without_a_type(self) -> None:
        parsed: ParsedChatCompletion[Any] = parse_completion(reply("text"), None)
        assert ([None], "text") == (
            [choice.message.parsed for choice in parsed.choices],
            parsed.choices[0].message.content,
        )

    @pytest.mark.parametrize(
        ("reason", "kind"),
        [("length", LengthFinishReasonError), ("content_filter", ContentFilterFinishReasonError)],
    )
    @pytest.mark.parametrize("text", [VALID, VALID[:20], None])
    def test_judged_before_json(self, reason: str, kind: type[OutputError], text: str | None) -> None:
        """Also where the text happens to be whole."""
        completion = reply(text)
        completion.choices[0].finish_reason = reason
        with pytest.raises(kind, match=reason) as raised:
            parse_completion(completion, Answer(Invoice))
        error = raised.value
        assert not isinstance(error, ValueError)
        assert (text or "", None) == (error.text, error.path)
        known = {"number": "7"} if text and len(text) == 20 else None
        assert error.parsed == (known or (msgspec.json.decode(text) if text else None))
        assert completion.usage == error.completion.usage

    def test_first_faulty_choice(self) -> None:
        """The first faulty index is raised; all choices are there, and the valid ones are parsed."""
        completion = reply(VALID, '{"number":1}', VALID, "no")
        with pytest.raises(OutputValidationError) as raised:
            parse_completion(completion, Answer(Invoice))
        error = raised.value
        assert (1, '{"number":1}', "r", 1) == (error.choice, error.text, error.request_id, error.attempts)
        found = [choice.message.parsed for choice in error.completion.choices]
        assert [INVOICE, None, INVOICE, None] == found
        assert CompletionUsage(prompt_tokens=3) == error.completion.usage
        restored = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        assert vars(error) == vars(restored) and str(error) == str(restored)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [("{", "stop"), ("", "stop"), ('{"a":"x"}', "stop"), ("{", "length"), ("{", "content_filter")],
    )
    def test_every_error_pickles(self, text: str, reason: str) -> None:
        """With its completion, in which the values of other choices are."""
        completion = reply('{"a":1}', text)
        completion.choices[1].finish_reason = reason
        _, error = judge(completion, Answer(Closed))
        assert error is not None and Closed(1) == error.completion.parsed
        for restored in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):  # noqa: S301  # our own
            assert (type(error), vars(error), str(error)) == (type(restored), vars(restored), str(restored))

    def test_judge_never_raises(self) -> None:
        result, error = judge(reply("{"), Answer(Invoice))
        assert result.parsed is None and isinstance(error, OutputDecodeError)
        assert error.__traceback__ is None

    def test_messages_of_a_retry(self) -> None:
        """The answer, without calls that would need results, and a message that names path and fault."""
        completion = reply('{"number":1}')
        completion.choices[0].message.tool_calls = [ToolCall()]
        _, error = judge(completion, Answer(Invoice))
        assert error is not None
        answer, fault = retry_messages(error)
        assert ('{"number":1}', None) == (answer.content, answer.tool_calls)
        assert "user" == fault["role"]
        assert "Expected `str`, got `int` - at $.number" in fault["content"]


def test_nothing_of_an_error_outlives_it() -> None:
    """With the collector off, nothing is left of an error, whose frames hold the answer."""

    def fail(call: Any, *args: Any) -> None:
        with contextlib.suppress(OutputError, InvalidRequestError, ToolArgumentsError, TypeError):
            call(*args)

    gc.collect()
    gc.disable()
    try:
        for text in ("{", '{"number":1}', ""):
            fail(Answer(Invoice).decode, text)
            fail(parse_completion, reply(text), Answer(Invoice))
            fail(get_weather.arguments, text)
        for type_ in (Bare, list[Holder], Unresolved, 3):
            fail(Answer, type_)
        fail(lambda: Answer(dict[str, int], strict=True))
        fail(tool, no_schema)
        fail(lambda: tool(open_object, strict=True))
        kinds = (OutputError, InvalidRequestError, ToolArgumentsError, NoSchemaError, UnfitTextError)
        assert [] == [found for found in gc.get_objects() if isinstance(found, kinds)]
    finally:
        gc.enable()


def test_arguments_of_every_reply() -> None:
    """`Function.parsed_arguments` is the JSON, or None if it is none."""
    for text, value in (('{"a":[1]}', {"a": [1]}), ("3", 3), ("", None), ('{"a"', None), ("[" * 100, None)):
        assert value == Function(name="f", arguments=text).parsed_arguments
    assert {"name": "f", "arguments": "{}"} == Function(name="f", arguments="{}").to_dict()


def test_take_answer_replaces_a_type_in_place() -> None:
    arguments: dict[str, Any] = {"response_format": int, "n": 1}
    answer = take_answer(arguments)
    assert answer is not None
    assert {"response_format": answer.response_format, "n": 1} == arguments
    others: list[dict[str, Any]] = [{}, {"response_format": {"type": "json_object"}}]
    for untyped in others:
        before = copy.deepcopy(untyped)
        assert (None, before) == (take_answer(untyped), untyped)


def test_the_text_so_far_is_a_value_or_none() -> None:
    """It never raises; a text that cannot be whole is not even decoded."""
    texts = [
        '{"value":',
        '{"value":1}',
        '{"value":"x"}',
        "no",
        "",
        None,
        '```\n{"value":2}\n```\n',
        '{"value":3}{',
    ]
    choices = [
        Choice(index=index, message=ChatCompletionMessage(content=text)) for index, text in enumerate(texts)
    ]
    parsed = parse_so_far(ChatCompletion(id="a", choices=choices), Answer(int))
    assert [None, 1, None, None, None, None, 2, None] == [each.message.parsed for each in parsed.choices]
    assert (ParsedChatCompletion, "a") == (type(parsed), parsed.id)
    whole = Choice(index=0, finish_reason="length", message=ChatCompletionMessage(content='{"value":1}'))
    assert parse_so_far(ChatCompletion(choices=[whole]), Answer(int)).parsed is None


def test_the_repr_of_an_answer_that_was_refused() -> None:
    """A traceback with locals may show it."""
    kind: type[Any] = Answer
    assert "<Answer unfinished>" == repr(object.__new__(kind))
