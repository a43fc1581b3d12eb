"""Tools from functions."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import inspect
import math
import pickle
import sys
import types
from collections import UserString
from decimal import Decimal
from typing import Any, cast
from unittest.mock import patch

import msgspec
import pytest
import tool_functions as functions
from tool_functions import LIST, SENTINEL, Point, Service, Unit, Word, get_weather

from gradient_async import (
    ConfigurationError,
    GradientError,
    InvalidRequestError,
    Tool,
    ToolArgumentsError,
    ToolCall,
    ToolContext,
    tool,
)
from gradient_async.tools import name_of_tool, result_text, text_of_error, tool_params, tools_of

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"], "default": "C"}},
    "required": ["city"],
    "additionalProperties": False,
}

REFUSED: list[tuple[Any, str]] = [
    (functions.positional, "positional: parameter 'a': it is positional-only"),
    (functions.variadic, "variadic: parameter '*values': it is variadic positional"),
    (functions.keywords, "keywords: parameter '**values': it is variadic keyword"),
    (cast("Any", functions).bare, "bare: parameter 'a': it has no annotation"),
    (Service.look_up, "look_up: parameter 'self': it has no annotation; pass a method of an object"),
    (functions.no_schema, "no_schema: parameter 'b': Bare is a class without declared fields"),
    (functions.checkers_only, "checkers_only: parameter 'number': name 'Fraction' is not defined"),
    (functions.wrong, "wrong: parameter 'a': Can only set `min_length`"),
    (functions.generator, "generator: a generator function is no tool"),
    (functions.async_generator, "async_generator: a generator function is no tool"),
    (Service, "Service: a class is no tool"),
    (vars(Service)["of_class"], "of_class: a classmethod is not callable"),
    (5, "int: a int is not callable"),
    (dict.fromkeys, "fromkeys: parameter 'iterable': it is positional-only"),
    (cast("Any", dict).update, "update: its parameters are not known"),
]


class TestTool:
    def test_attributes(self) -> None:
        assert ("get_weather", "Tell the weather of a city.", WEATHER, False, None) == (
            get_weather.name,
            get_weather.description,
            get_weather.parameters,
            get_weather.strict,
            get_weather.timeout,
        )
        function = {
            "name": "get_weather",
            "description": "Tell the weather of a city.",
            "parameters": WEATHER,
        }
        assert {"type": "function", "function": function} == get_weather.to_dict()
        assert "<Tool get_weather>" == repr(get_weather)
        assert inspect.iscoroutinefunction(get_weather.function)

    async def test_still_callable(self) -> None:
        """With the function's own signature."""
        assert "Berlin: 20 F" == await get_weather("Berlin", unit="F")
        assert ["city", "unit"] == list(inspect.signature(get_weather).parameters)
        assert ("get_weather", "Tell the weather of a city.") == (get_weather.__name__, get_weather.__doc__)  # type: ignore[attr-defined]

    def test_options(self) -> None:
        for made in (
            tool(functions.plain, name="a-b", description="d", strict=True, timeout=5),
            tool(name="a-b", description="d", strict=True, timeout=5)(functions.plain),
            Tool(Tool(functions.plain), name="a-b", description="d", strict=True, timeout=5),
        ):
            assert ("a-b", "d", True, 5, functions.plain) == (
                made.name,
                made.description,
                made.strict,
                made.timeout,
                made.function,
            )
            assert made.to_dict()["function"]["strict"] is True

    def test_pickles(self) -> None:
        made = pickle.loads(pickle.dumps(tool(functions.plain, name="other", timeout=2)))  # noqa: S301  # our own
        assert ("other", 2, functions.plain) == (made.name, made.timeout, made.function)

    def test_decorated_functions_pickle(self) -> None:
        """By their name, which is the tool's. In `__main__`, which another process may not have, with the function."""
        assert pickle.loads(pickle.dumps(get_weather)) is get_weather  # noqa: S301  # our own
        main = types.ModuleType("__main__")
        exec(  # noqa: S102  # as a script defines it
            "from gradient_async import tool\n@tool\ndef f(a: int) -> int:\n    return a", vars(main)
        )
        with patch.dict(sys.modules, {"__main__": main}):
            assert main.f.function in main.f.__reduce__()[1]

    @pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "5", True])
    def test_timeouts_are_checked(self, timeout: Any) -> None:
        with pytest.raises(
            ConfigurationError, match=r"plain: timeout=.* is not a positive number of seconds"
        ):
            tool(functions.plain, timeout=timeout)

    @pytest.mark.parametrize(
        ("function", "name", "names", "description"),
        [
            (functions.plain, "plain", ["city"], "Return the city."),
            (Service("s").look_up, "look_up", ["key", "limit"], "Look up a key."),
            (Service.of_class, "of_class", ["a"], None),
            (Service.static, "static", ["a"], None),
            (vars(Service)["static"], "static", ["a"], None),
            (Service("s"), "Service", ["word"], "Say a word."),
            (functools.partial(Service("s").look_up, limit=1), "look_up", ["key"], "Look up a key."),
            (functools.partial(functions.plain), "plain", ["city"], "Return the city."),
            (
                functools.partial(functools.partial(get_weather.function, "Berlin")),
                "get_weather",
                ["unit"],
                None,
            ),
            (
                functools.partial(get_weather, unit="F"),
                "get_weather",
                ["city"],
                "Tell the weather of a city.",
            ),
            (functions.logged(functions.plain), "plain", ["city"], "Return the city."),
            (functions.elsewhere, "elsewhere", ["city"], None),
        ],
    )
    def test_kinds_of_functions(
        self, function: Any, name: str, names: list[str], description: str | None
    ) -> None:
        """Also async; `self` is no parameter, and neither is what a partial binds."""
        made = tool(function)
        assert (name, names) == (made.name, list(made.parameters["properties"]))
        assert description in {made.description, None}
        assert made.is_async is (name in {"look_up", "get_weather"})
        given = {"city": "b", "key": "b", "word": "b", "a": 1, "unit": "F"}
        text = msgspec.json.encode({each: given[each] for each in names if each in given}).decode()
        arguments = made.arguments(text)
        if name == "elsewhere":
            return
        result = made(**arguments)
        assert function(**arguments) == result if not made.is_async else asyncio.run(result)

    def test_wrappers_are_told_apart(self) -> None:
        """A wrapper has the attributes of its function, but is another tool."""
        inner, outer = tools_of([functions.plain])[0], tools_of([functions.logged(functions.plain)])[0]
        assert ("x", "logged x") == (inner(city="x"), outer(city="x"))
        assert inner is tools_of([functions.plain])[0]

    def test_copies_by_value_have_no_tool(self) -> None:
        """A copy that cloudpickle makes of a function would otherwise need its tool before the copy is whole."""
        tools_of([functions.plain])
        kept = pickle.loads(pickle.dumps(vars(functions.plain)))  # noqa: S301  # our own
        function = types.FunctionType(functions.plain.__code__, dict(vars(functions)))
        function.__annotations__ = functions.plain.__annotations__
        vars(function).update(kept)
        assert tools_of([function])[0].function is function

    def test_names(self) -> None:
        """A lambda needs `name=`."""
        with pytest.raises(TypeError, match=r"<lambda>: the name of a tool has .* pass name="):
            tool(lambda: 1)
        assert "one" == tool(lambda: 1, name="one").name
        for name in ("a b", "x" * 65, "ü", ""):
            with pytest.raises(TypeError, match="the name of a tool"):
                tool(functions.plain, name=name)

    def test_descriptions(self) -> None:
        """The first paragraph as one line; those of parameters from `Meta`, else from `Args:`."""
        made = tool(functions.described)
        assert "Tell the weather in two lines." == made.description
        found = {name: schema.get("description") for name, schema in made.parameters["properties"].items()}
        assert {
            "city": "From the annotation.",
            "days": "How many days, at most ten: or so.",
            "points": "Where.",
            "when": None,
            "unit": None,
        } == found
        assert tool(functions.described, description="").description is None
        assert "One line." == tool(functions.spaced).description
        assert (None, "The city.") == (
            tool(functions.only_args).description,
            tool(functions.only_args).parameters["properties"]["city"]["description"],
        )

    def test_parameters(self) -> None:
        """A default makes one optional, and is told where it has a JSON form."""
        made = tool(functions.described)
        assert ["city", "days", "points"] == made.parameters["required"]
        properties = made.parameters["properties"]
        assert {"$ref": "#/$defs/Unit", "default": "C"} == properties["unit"]
        assert properties["when"]["default"] is None
        assert {"Point", "Unit"} == made.parameters["$defs"].keys()
        properties = tool(functions.defaults).parameters["properties"]
        told = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
        assert {"numbers": [1], "empty": [], "nothing": None, "point": {"x": 1, "y": 0}} == told
        assert "required" not in tool(functions.defaults).parameters

    def test_no_parameters(self) -> None:
        nothing = functions.nothing
        closed: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
        assert closed == tool(nothing).parameters == tool(nothing, strict=True).parameters
        assert {} == tool(nothing).arguments("")
        assert {"name": "nothing", "parameters": closed} == tool(nothing).to_dict()["function"]

    def test_strict(self) -> None:
        """The transformation of answers; defaults then apply only to what a server leaves out."""
        made = tool(get_weather, strict=True)
        assert {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        } == made.parameters
        assert {"city": "b", "unit": "C"} == made.arguments('{"city":"b"}')
        with pytest.raises(
            TypeError, match=r"open_object: parameter 'extra': strict=True cannot hold at \$\.extra"
        ):
            tool(functions.open_object, strict=True)

    @pytest.mark.parametrize(("function", "words"), REFUSED)
    def test_refused(self, function: Any, words: str) -> None:
        """With a TypeError that names function and parameter."""
        for name in (None, "other"):
            with pytest.raises(TypeError) as refused:
                tool(function, name=name)
            assert words in str(refused.value)


class TestArguments:
    @pytest.mark.parametrize(
        ("text", "arguments"),
        [
            ('{"city":"b","unit":"F"}', {"city": "b", "unit": "F"}),
            (' {"unit":"F","city":"b"}\n', {"city": "b", "unit": "F"}),
            ('{"city":"b"}', {"city": "b", "unit": "C"}),
        ],
    )
    def test_validated(self, text: str, arguments: dict[str, Any]) -> None:
        assert arguments == get_weather.arguments(text)

    def test_types(self) -> None:
        """Values have the types of the annotations, and whole floats are integers."""
        made = tool(functions.described)
        text = '{"city":"b","days":2.0,"points":[{"x":1.0}],"when":"2026-01-02","unit":"F"}'
        assert {
            "city": "b",
            "days": 2,
            "points": [Point(1)],
            "when": dt.date(2026, 1, 2),
            "unit": Unit.F,
        } == made.arguments(text)

    def test_defaults_are_the_functions_own_objects(self) -> None:
        for text in ("", " \n", "{}"):
            found = tool(functions.defaults).arguments(text)
            assert found["numbers"] is LIST
            assert found["other"] is SENTINEL
            assert math.isnan(found["rate"])
            mine = functions.defaults(**found)
            assert all(mine[place] is functions.defaults()[place] for place in (0, 1, 2, 5))

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ('{"city":5}', "Expected 'str', got 'int' - at $.city"),
            ('{"city":"b","unit":"K"}', "Invalid enum value 'K' - at $.unit"),
            ("{}", "Object missing required field 'city'"),
            ('{"city":"b","where":1}', "Object contains unknown field 'where'"),
            ("[]", "Expected 'object', got 'array'"),
            ("null", "Expected 'object', got 'null'"),
            ("city", "JSON is malformed: invalid character (byte 0)"),
            ('{"city":"b"', "Input data was truncated"),
        ],
    )
    def test_message_for_the_model(self, text: str, problem: str) -> None:
        """It names path, what was expected and the parameters there are."""
        with pytest.raises(ToolArgumentsError) as raised:
            get_weather.arguments(text)
        listed = 'Parameters: city (string, required), unit ("C" | "F")'
        assert f"Invalid arguments for get_weather: {problem}. {listed}" == str(raised.value)
        assert (GradientError, ValueError) == ToolArgumentsError.__bases__

    def test_parameters_that_the_message_lists(self) -> None:
        with pytest.raises(ToolArgumentsError) as raised:
            tool(functions.described).arguments("{")
        assert str(raised.value).endswith(
            "Parameters: city (string, required), days (integer, required), "
            'points (array of object, required), when (string | null), unit ("C" | "F")'
        )

        with pytest.raises(ToolArgumentsError, match=r"Parameters: none$"):
            tool(functions.nothing).arguments('{"a":1}')
        with pytest.raises(ToolArgumentsError) as raised:
            tool(functions.anything).arguments("[]")
        assert str(raised.value).endswith(
            "Parameters: value (any value, required), items (array, required), one (1, required)"
        )

    def test_long_arguments(self) -> None:
        """Text of the model is cut and escaped."""
        with pytest.raises(ToolArgumentsError) as raised:
            get_weather.arguments('{"' + "k\\n" * 5000 + '":1}')
        assert len(str(raised.value)) < 320 and str(raised.value).isprintable()


class TestContext:
    def test_given_not_asked_for(self) -> None:
        """A parameter annotated `ToolContext` is no parameter of the schema, and is given."""
        context = ToolContext(call=ToolCall(id="c"), turn=2, messages=[{}], context=self)
        assert ("c", 2, [{}], self) == (context.call.id, context.turn, context.messages, context.context)
        made = tool(functions.annotated_context)
        assert {"city"} == made.parameters["properties"].keys()
        arguments = made.arguments('{"city":"b"}')
        assert {"city": "b"} == arguments
        assert (2, "b") == made(**made.keywords(arguments, context))
        with pytest.raises(ToolArgumentsError, match="unknown field 'ctx'"):
            made.arguments('{"city":"b","ctx":1}')

    def test_a_function_that_is_called_outside_of_runs_too(self) -> None:
        """With None, it is still no parameter."""
        made = tool(functions.context_or_none)
        assert {"city"} == made.parameters["properties"].keys()
        context = ToolContext(call=ToolCall(id="c"), turn=2)
        assert ((2, "b"), (None, "b")) == (made(**made.keywords({"city": "b"}, context)), made("b"))

    def test_in_a_union_it_is_a_type_like_others(self) -> None:
        with pytest.raises(TypeError, match="in_context: parameter 'again'"):
            tool(functions.in_context)


class TestResults:
    @pytest.mark.parametrize(
        ("result", "text"),
        [
            ("text", "text"),
            ("", ""),
            (None, "null"),
            (3, "3"),
            (True, "true"),
            ({"a": [1, None]}, '{"a":[1,null]}'),
            (Point(1), '{"x":1,"y":0}'),
            ([Point(1)], '[{"x":1,"y":0}]'),
            (dt.date(2026, 1, 2), '"2026-01-02"'),
            (Decimal("1.50"), '"1.50"'),
            (b"raw", '"cmF3"'),
            (Unit.F, '"F"'),
            (Word.YES, "yes"),
            ("ä€😀", "ä€😀"),
        ],
    )
    def test_text(self, result: object, text: str) -> None:
        """Text as it is, None is `null`, everything else JSON."""
        assert text == result_text(result)

    def test_text_of_another_class(self) -> None:
        class Named(str):
            __slots__ = ()

        assert str is type(result_text(Named("x")))

    @pytest.mark.parametrize("result", [object(), {(1, 2): 3}, UserString("x"), "a\udce9", ["a\udce9"]])
    def test_no_json_form(self, result: object) -> None:
        """An error of the tool."""
        with pytest.raises((TypeError, UnicodeEncodeError)):
            result_text(result)

    def test_errors(self) -> None:
        """Their text can be sent, whatever they say."""

        class BrokenError(Exception):
            def __str__(self) -> str:
                return str(1 // 0)

        assert "BrokenError: its message cannot be shown (ZeroDivisionError)" == text_of_error(BrokenError())
        assert "OSError: a\\udce9" == text_of_error(OSError("a\udce9"))
        assert "KeyError" == text_of_error(KeyError())

    def test_no_limit_on_size(self) -> None:
        assert 3_000_002 == len(result_text(["a" * 3_000_000])) - 2


class TestParameter:
    """The parameter `tools` of a request."""

    def test_functions_tools_and_mappings(self) -> None:
        """A plain function stands for `tool(function)`; mappings go as they are."""
        mapping = {"type": "function", "function": {"name": "mapped"}}
        custom = {"type": "custom", "custom": {"name": "c"}}
        sent = tool_params(iter([functions.plain, get_weather, mapping, custom, {"type": "other"}]))
        assert ["plain", "get_weather"] == [each["function"]["name"] for each in sent[:2]]
        assert sent[2] is mapping and sent[3] is custom
        made = tools_of((functions.plain, mapping))
        assert isinstance(made[0], Tool) and made[1] is mapping
        service = Service("s")
        (method,) = tools_of([service.look_up])
        assert ("look_up", service.look_up) == (method.name, method.function)

    def test_mappings_alone(self) -> None:
        """They are not looked at: what the API refuses is for the API to refuse."""
        mapping = {"type": "function", "function": {"name": "a"}}
        assert [mapping, mapping] == tool_params([mapping, mapping])
        for other in (None, {"type": "function"}, "text"):
            assert other == tool_params(other)

    @pytest.mark.parametrize(
        "other",
        [
            get_weather,
            tool(functions.plain, name="get_weather"),
            {"type": "function", "function": {"name": "get_weather"}},
            {"type": "custom", "custom": {"name": "get_weather"}},
        ],
    )
    def test_two_of_one_name(self, other: Any) -> None:
        with pytest.raises(InvalidRequestError, match="two tools have the name get_weather") as refused:
            tool_params([get_weather, {"type": "custom", "custom": {}}, {"function": None}, other])
        assert "tools" == refused.value.param

    def test_names_of_tools(self) -> None:
        """Also of those that stand for a mapping."""

        class Function(msgspec.Struct):
            name: str

        class Other(msgspec.Struct):
            function: Function

        found = [
            name_of_tool(each) for each in (get_weather, Other(Function("f")), {"custom": {"name": "c"}}, {})
        ]
        assert ["get_weather", "f", "c", None] == found

    def test_what_is_no_tool(self) -> None:
        with pytest.raises(TypeError, match="Service: a class is no tool"):
            tool_params([Service])
