"""Every parameter shows where people look: `help`, `inspect.signature`, mocks with a spec."""

from __future__ import annotations

import functools
import inspect
import pickle
import pydoc
import re
import subprocess
import sys
from types import ModuleType
from typing import Any
from unittest.mock import AsyncMock, create_autospec, patch

import pytest
from client_calls import CALL, Start

from gradient_async import NOT_GIVEN, AsyncGradient, ChatCompletion, Gradient
from gradient_async.client import completions, options, parameters, raw
from gradient_async.client.parameters import described, spelled_out
from gradient_async.decoding import known_params
from gradient_async.sync import client as sync
from gradient_async.types import params

Method = tuple[Any, str, list[Any]]


def methods_of(models: Any, agents: Any) -> list[Method]:
    """List the methods of both kinds of completions, each with the TypedDicts of its arguments."""
    return [
        (models, "create", [params.ChatCompletionCreate]),
        (models, "parse", [options.AnswerOptions, options.ChatParseOptions]),
        (models, "stream", [options.AnswerOptions, params.ChatCompletionParse]),
        (models, "fan_out", [options.FanOutAnswerOptions, options.ChatFanOutOptions]),
        (models, "map", [options.AnswerOptions, options.MapOptions]),
        (models, "run", [options.AnswerOptions, options.ChatRunOptions]),
        (agents, "create", [params.AgentCompletionCreate]),
        (agents, "parse", [options.AnswerOptions, options.AgentParseOptions]),
        (agents, "stream", [options.AnswerOptions, params.AgentCompletionParse]),
        (agents, "fan_out", [options.FanOutAnswerOptions, options.AgentFanOutOptions]),
        (agents, "run", [options.AnswerOptions, options.AgentRunOptions]),
    ]


METHODS: list[Method] = [
    *methods_of(completions.Completions, completions.AgentCompletions),
    *methods_of(sync.Completions, sync.AgentCompletions),
    (raw.RawCompletions, "create", [params.ResponseCreate]),
    (raw.RawCompletions, "parse", [options.AnswerOptions, params.ResponseParse]),
    (raw.StreamingCompletions, "create", [params.ResponseCreate]),
]
each_method = pytest.mark.parametrize(("owner", "name", "kinds"), METHODS)


@each_method
def test_a_signature_has_every_parameter_by_keyword_with_its_type(
    owner: Any, name: str, kinds: list[Any]
) -> None:
    found = inspect.signature(getattr(owner, name)).parameters
    fields = {field: kind for each in kinds for field, kind, _ in described(each)}
    own = [argument for argument in ("self", "requests", "stream") if argument in found]
    assert set(found) == {*fields, *own}
    for field, annotation in fields.items():
        assert inspect.Parameter.KEYWORD_ONLY is found[field].kind
        assert annotation == found[field].annotation
        assert not {"Annotated", "Required", "Meta"} & set(annotation.replace("[", " ").split())


@each_method
def test_a_signature_lacks_no_parameter(owner: Any, name: str, kinds: list[Any]) -> None:
    """Every method takes what its requests may have, also what only models or only agents take."""
    found = inspect.signature(getattr(owner, name)).parameters
    assert set() == known_params(agent="Agent" in owner.__name__) - found.keys()


@each_method
def test_help_tells_what_each_parameter_is(owner: Any, name: str, kinds: list[Any]) -> None:
    text = pydoc.render_doc(getattr(owner, name), renderer=pydoc.TextDoc())
    for each in kinds:
        for field, annotation, description in described(each):
            assert description, f"{each.__name__}.{field} has no description"
            first, *others = description.split("\n")
            assert f"\n        {field} ({annotation}): {first}\n" in text
            for line in others:
                assert f"\n            {line.strip()}\n" in text
    for argument in inspect.signature(getattr(owner, name)).parameters:
        assert argument == "self" or re.search(rf"^        {argument}(: | \()", text, re.MULTILINE), argument
    assert "**params" not in text
    assert "**options" not in text


def test_required_parameters_come_first_and_options_have_their_defaults() -> None:
    signature = inspect.signature(completions.Completions.fan_out)
    assert ["self", "n", "messages", "model"] == list(signature.parameters)[:4]
    defaults = {name: each.default for name, each in signature.parameters.items()}
    assert (inspect.Parameter.empty, True, "raise", NOT_GIVEN) == (
        *(defaults[name] for name in ("n", "stream", "on_error", "temperature")),
    )
    assert "FanOut[Any]" == signature.return_annotation
    assert 10 == inspect.signature(completions.Completions.run).parameters["max_turns"].default
    assert 64 == inspect.signature(sync.Completions.map).parameters["max_concurrency"].default


def test_types_are_those_that_a_reader_writes() -> None:
    found = inspect.signature(AsyncGradient(model_access_key="k").chat.completions.create).parameters
    assert {
        "messages": "Iterable[MessageParam | ChatCompletionMessage | Mapping[str, Any]]",
        "model": "str",
        "metadata": "Mapping[str, str] | None",
        "stop": "str | Sequence[str] | None",
        "stream": "bool | NotGiven | None",
        "temperature": "float | None",
        "tool_choice": "ToolChoice | None",
    } == {
        name: found[name].annotation
        for name in ("messages", "model", "metadata", "stop", "stream", "temperature", "tool_choice")
    }
    assert "self" not in found


def test_clients_show_every_option() -> None:
    for client in (AsyncGradient, Gradient):
        assert {"model_access_key", "timeout", "hooks"} <= set(inspect.signature(client).parameters)


# What must go on as if the methods were any others


def test_a_wrapper_shows_the_same() -> None:
    create = completions.Completions.create
    assert inspect.isfunction(create)  # a call costs what it did
    assert inspect.iscoroutinefunction(create)

    @functools.wraps(create)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await create(*args, **kwargs)

    assert inspect.signature(create) == inspect.signature(wrapper)
    assert create.__doc__ == wrapper.__doc__
    assert create is pickle.loads(pickle.dumps(create))  # noqa: S301  # our own


async def test_mocks_with_a_spec_check_calls(start: Start) -> None:
    _, client = await start()
    resource: Any = client.chat.completions  # type checkers refuse the wrong calls
    mock = AsyncMock(spec=resource)
    assert isinstance(mock.create, AsyncMock)
    await mock.create(**CALL)
    with patch.object(
        completions.Completions, "create", autospec=True, return_value=ChatCompletion()
    ) as create:
        assert ChatCompletion() == await resource.create(**CALL, temperature=0.5)
        create.assert_awaited_once_with(resource, **CALL, temperature=0.5)
        for wrong in ({"model": "m"}, CALL | {"temprature": 0.5}):
            with pytest.raises(TypeError, match=r"messages|temprature"):
                await resource.create(**wrong)
    spec = create_autospec(client, instance=True)
    spec.chat.completions.map([], max_concurrency=2)
    with pytest.raises(TypeError):
        spec.chat.completions.map(max_concurrency=2)


def test_a_program_without_source_has_the_names_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = ModuleType("frozen")
    frozen.__file__ = None
    assert ({}, {}) == parameters._read(frozen)
    monkeypatch.setattr(parameters, "_DESCRIPTIONS", {})
    assert ("model", "str", "") in described(params.ChatCompletionCreate)


def test_a_method_without_docstring_has_the_signature() -> None:
    @spelled_out(params.RequestOptions)
    def method(self: Any, **options: Any) -> None: ...

    assert method.__doc__ is None
    assert ["self", "extra_headers"] == list(inspect.signature(method).parameters)[:2]


def test_without_docstrings_the_package_works() -> None:
    code = (
        "import inspect; from gradient_async import AsyncGradient; "
        "create = AsyncGradient(model_access_key='k').chat.completions.create; "
        "print(create.__doc__, 'temperature' in inspect.signature(create).parameters)"
    )
    run = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    assert "None True\n" == run.stdout
