"""Tools made from functions: the description for the model, the arguments of a call, and the result as text."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    ParamSpec,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import msgspec

from .decoding.normalize import is_object
from .decoding.plain import is_list_like
from .errors import ConfigurationError, InvalidRequestError, ToolArgumentsError, escape
from .output import Codec, NoSchemaError, UnfitTextError, has_model
from .types import ToolCall

P = ParamSpec("P")
R = TypeVar("R")

_SECTION = re.compile(r"^(?:Args|Arguments|Parameters):[ \t]*\n((?:[ \t]+\S.*\n?|[ \t]*\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"(\w+)(?:[ \t]*\(.*?\))?:[ \t]*(.*)")
_NO_DEFAULT = inspect.Parameter.empty


class ToolContext(msgspec.Struct, frozen=True, kw_only=True):
    """The run that calls a tool. A function gets this object if it has a parameter that is annotated with this class.

    Attributes:
        call: The call of the model.
        turn: Number of the turn, from 0.
        messages: The messages of the conversation so far.
        context: The object that was passed to ``run(context=...)``.
    """

    call: ToolCall
    turn: int = 0
    messages: list[Any] = []
    context: Any = None


class Tool(Generic[P, R]):
    """A function that the model may call. It can be called like the function itself.

    Args:
        function: A function, a bound method, a `functools.partial` or an object with ``__call__``; async or not. Every
            parameter needs an annotation, and what `functools.partial` binds is no parameter.
        name: The name for the model; by default the name of the function.
        description: What the function does, for the model; by default the first paragraph of its docstring.
        strict: Whether the server has to enforce the schema of the arguments, which then are all required.
        timeout: Seconds after which a run gives up a call.

    Attributes:
        function: The function.
        name: The name for the model.
        description: The description for the model, or None.
        parameters: The JSON schema of the arguments.
        strict: Whether the server has to enforce the schema.
        timeout: The time limit, or None.
        is_async: Whether the function is a coroutine function.

    Raises:
        TypeError: If the function cannot be a tool; the message names the parameter.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        strict: bool = False,
        timeout: float | None = None,
    ) -> None:
        given: Any = function
        self.function: Callable[P, R] = given.function if isinstance(given, Tool) else given
        owner, plain = _underlying(self.function)
        self._label = str(getattr(owner, "__name__", type(owner).__name__))
        self.name: str = self._label if name is None else name
        if re.fullmatch("[A-Za-z0-9_-]{1,64}", self.name) is None:
            raise TypeError(
                f"{escape(self.name, 80)}: the name of a tool has 1 to 64 of the characters a-z A-Z 0-9 _ -; "
                "pass name=..."
            )
        self.strict = strict
        self.timeout = check_seconds(f"{self.name}: timeout", timeout)
        self.is_async = inspect.iscoroutinefunction(plain)
        doc = inspect.cleandoc(getattr(plain, "__doc__", None) or getattr(owner, "__doc__", None) or "")
        paragraph = "" if _SECTION.match(doc) else " ".join(re.split(r"\n\s*\n", doc)[0].split())
        self.description: str | None = (paragraph if description is None else description) or None
        hints = dict(_hints_of(self._label, self.function, plain))
        self._contexts = [name for name, (hint, _) in hints.items() if hint is ToolContext]
        self._hints = {name: hint for name, hint in hints.items() if name not in self._contexts}
        self._codec = self._make_codec()
        self.parameters = self._make_parameters(_described(doc))
        functools.update_wrapper(self, self.function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        return self.function(*args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the tool in the form of the API."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = self.parameters
        if self.strict:
            function["strict"] = True
        return {"type": "function", "function": function}

    def arguments(self, text: str) -> dict[str, Any]:
        """Read the arguments of a call, and add the defaults of the function.

        Args:
            text: The JSON that the model wrote. An empty text counts as no arguments.

        Raises:
            ToolArgumentsError: If the text does not fit the parameters; the message is written for the model to read.
        """
        unfit: UnfitTextError
        try:
            given = self._codec.decode(text if text.strip() else "{}")
        except UnfitTextError as error:
            unfit = error.with_traceback(None)
        else:
            values = given if is_object(given) else msgspec.structs.asdict(given)
            return {
                name: default if (value := values.get(name, msgspec.UNSET)) is msgspec.UNSET else value
                for name, (_, default) in self._hints.items()
            }
        fault = unfit.shown.replace("`", "'")
        raise ToolArgumentsError(
            f"Invalid arguments for {self.name}: {fault}. Parameters: {_listed(self._codec.schema)}"
        )

    def keywords(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """Return the keyword arguments for a call of the function: the arguments of the model, and the context."""
        return {**arguments, **dict.fromkeys(self._contexts, context)}

    def _make_codec(self) -> Codec[Any]:
        models = any(has_model(hint) for hint, _ in self._hints.values())
        type_: Any
        if models:
            typing_extensions = sys.modules["typing_extensions"]  # pydantic has imported this module
            keys = {
                name: hint if default is _NO_DEFAULT else typing_extensions.NotRequired[hint]
                for name, (hint, default) in self._hints.items()
            }
            type_ = typing_extensions.TypedDict(self.name, keys)
            type_.__pydantic_config__ = {"extra": "forbid"}
        else:
            # The fields have no defaults of their own: msgspec would copy some defaults of the function, and refuse others.
            fields: list[Any] = [
                (name, hint) if default is _NO_DEFAULT else (name, hint, msgspec.UNSET)
                for name, (hint, default) in self._hints.items()
            ]
            type_ = msgspec.defstruct(
                self.name, fields, kw_only=True, forbid_unknown_fields=True, module=__name__
            )
        refusal: NoSchemaError
        try:
            return Codec(type_, models=models)
        except NoSchemaError as error:
            refusal = error.with_traceback(None)
        parameter = re.match(r"\$\.(\w+)", refusal.path)
        raise _refused(self._label, f"{refusal.problem} (at {refusal.path})", parameter and parameter[1])

    def _make_parameters(self, descriptions: dict[str, str]) -> dict[str, Any]:
        schema = self._codec.schema  # the schema may be changed, because the codec belongs to this tool alone
        for name, property_ in schema["properties"].items():
            default = self._hints[name][1]
            if name in descriptions:
                property_.setdefault("description", descriptions[name])
            if default is not _NO_DEFAULT:
                # The default has no JSON form.
                with contextlib.suppress(ValueError, TypeError, RecursionError):
                    encoded = _encoded(default)
                    if encoded != b"null" or default is None:  # msgspec encodes NaN as null
                        property_["default"] = msgspec.json.decode(encoded)
        refusal: NoSchemaError
        try:
            form, _ = self._codec.form(self.strict)
        except NoSchemaError as error:
            refusal = error.with_traceback(None)
        else:
            return {
                key: form[key]
                for key in ("type", "properties", "required", "additionalProperties", "$defs")
                if key in form and (form[key] or key != "required")
            }
        problem = f"strict=True cannot hold at {refusal.path}: {refusal.problem}"
        parameter = re.match(r"\$\.(\w+)", refusal.path)
        raise _refused(self._label, problem, parameter and parameter[1])

    def __reduce__(self) -> str | tuple[Any, ...]:
        # The name of a decorated function refers to the tool, so the tool is pickled by that name. In `__main__` the tool is
        # pickled with its function instead, because another process may have another `__main__`.
        function: Any = self.function
        module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
        if module != "__main__" and _named(module, path) is self:
            return path
        options: dict[str, Any] = {
            "name": self.name, "description": self.description, "strict": self.strict, "timeout": self.timeout,
        }  # fmt: skip
        return functools.partial(Tool, **options), (self.function,)

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"


@overload
def tool(
    function: Callable[P, R],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    timeout: float | None = None,
) -> Tool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    timeout: float | None = None,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(function: Any = None, /, **options: Any) -> Any:
    """Make a tool from a function: ``@tool``, ``@tool(strict=True)`` or ``tool(function)``.

    Args:
        function: The function; see `Tool`, also for the other arguments.
        **options: The name, description, strictness and time limit of the tool.

    Raises:
        TypeError: If the function cannot be a tool; the message names the function and the parameter.
    """
    return functools.partial(Tool, **options) if function is None else Tool(function, **options)


def check_seconds(name: str, value: Any) -> float | None:
    """Return a time limit that is a positive number of seconds, or None.

    Raises:
        ConfigurationError: If it is anything else.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < float("inf")):
        raise ConfigurationError(f"{name}={value!r} is not a positive number of seconds or None")
    return cast("float | None", value)


# The parameters of a function


def _underlying(function: Any) -> tuple[Any, Any]:
    """Return the object inside partials and tools, and the function with its code, which is ``__call__`` of an object."""
    while (inner := _inner(function)) is not None:
        function = inner
    routine = inspect.isroutine(function) or isinstance(function, type)
    return function, function if routine else getattr(function, "__call__", function)  # noqa: B004  # it is used


def _inner(function: Any) -> Any:
    """Return the function that a partial, a tool or a static method calls; None for other functions."""
    if isinstance(function, functools.partial):
        return cast("functools.partial[Any]", function).func
    if isinstance(function, Tool):
        return cast("Tool[..., Any]", function).function
    return cast("staticmethod[..., Any]", function).__func__ if isinstance(function, staticmethod) else None


def _named(module: Any, path: str) -> Any:
    """Return the object with a name in a module, or None."""
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _hints_of(name: str, function: Any, plain: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the name of each parameter, with its annotation and default.

    Raises:
        TypeError: If a parameter cannot be filled from JSON.
    """
    if isinstance(plain, type):
        raise _refused(name, "a class is no tool; pass a function that makes the object")
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise _refused(name, "a generator function is no tool; return a list")
    if not callable(function):
        raise _refused(
            name, f"a {type(function).__name__} is not callable; pass a function or a bound method"
        )
    bound: set[str] = set()
    inner = function
    while inner is not None:
        bound |= (
            cast("functools.partial[Any]", inner).keywords.keys()
            if isinstance(inner, functools.partial)
            else set()
        )
        inner = _inner(inner)
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        parameters = None
    if parameters is None:
        raise _refused(name, "its parameters are not known; write a function that calls it")
    for parameter in parameters.values():
        if parameter.name in bound:
            continue
        if (
            parameter.kind is not parameter.POSITIONAL_OR_KEYWORD
            and parameter.kind is not parameter.KEYWORD_ONLY
        ):
            kind = parameter.kind.description
            raise _refused(
                name, f"it is {kind}; a model gives arguments by name", str(parameter).partition(":")[0]
            )
        if parameter.annotation is parameter.empty:
            typed = f"; write its type, as in '{parameter.name}: str'"
            cure = "; pass a method of an object" if parameter.name in {"self", "cls"} else typed
            raise _refused(name, f"it has no annotation{cure}", parameter.name)
        hint = _resolved(name, parameter, inspect.unwrap(plain))
        yield parameter.name, (ToolContext if _is_context(hint) else hint, parameter.default)


def _is_context(hint: Any) -> bool:
    """Whether an annotation is `ToolContext`, or a union of it with None, which allows calls outside of a run."""
    if get_origin(hint) is Annotated:
        return _is_context(get_args(hint)[0])
    others = [each for each in get_args(hint) if each is not type(None)]
    return hint is ToolContext or (get_origin(hint) in {Union, UnionType} and all(map(_is_context, others)))


def _resolved(name: str, parameter: inspect.Parameter, plain: Any) -> Any:
    """Return the annotation of a parameter. A string is evaluated in the module of the function."""
    probe = SimpleNamespace(__annotations__={"hint": parameter.annotation})
    local = {variable.__name__: variable for variable in getattr(plain, "__type_params__", ())}
    problem: str
    try:
        return get_type_hints(probe, getattr(plain, "__globals__", {}), local, include_extras=True)["hint"]
    except Exception as error:  # noqa: BLE001  # the annotation is any expression
        problem = f"{error}; a type has to be defined in the module, outside of functions and TYPE_CHECKING"
    raise _refused(name, problem, parameter.name)


def _refused(name: str, problem: str, parameter: str | None = None) -> TypeError:
    return TypeError(f"{name}: parameter {parameter!r}: {problem}" if parameter else f"{name}: {problem}")


def _described(doc: str) -> dict[str, str]:
    """Return the descriptions in the section ``Args:`` of a docstring."""
    section = _SECTION.search(doc)
    described: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in textwrap.dedent(section[1]).splitlines() if section else ():
        entry = _ENTRY.match(line)
        if entry:
            lines = described.setdefault(entry[1], [entry[2]])
        else:
            lines.append(line)
    return {name: text for name, lines in described.items() if (text := " ".join(" ".join(lines).split()))}


def _listed(schema: dict[str, Any]) -> str:
    """Describe parameters to the model, such as ``city (string, required), unit ("C" | "F")``."""
    required = schema.get("required", ())
    definitions = schema.get("$defs", {})
    return (
        ", ".join(
            f"{name} ({_kind(property_, definitions)}{', required' if name in required else ''})"
            for name, property_ in schema["properties"].items()
        )
        or "none"
    )


def _kind(schema: Any, definitions: dict[str, Any]) -> str:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {key: schema[key] for key in ("enum", "const", "type") if key in schema}
    if "const" in schema:
        schema = {"enum": [schema["const"]]}
    if "enum" in schema:
        return " | ".join(msgspec.json.encode(value).decode() for value in schema["enum"])
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    if alternatives:
        return " | ".join(_kind(alternative, definitions) for alternative in alternatives)
    kind: str = schema.get("type", "any value")
    return (
        f"array of {_kind(schema['items'], definitions)}" if isinstance(schema.get("items"), dict) else kind
    )


# Results


def result_text(result: object) -> str:
    """Return the result of a tool as text for the model.

    Text stays as it is, and everything else becomes JSON.

    Raises:
        TypeError: If the result has no JSON form.
        ValueError: If a text in the result has no JSON form.
    """
    if not isinstance(result, str):
        return _encoded(result).decode()
    text = str.__str__(result)  # the `__str__` of an enum would return its name
    if not text.isascii():
        text.encode()  # half a surrogate pair has no JSON form
    return text


def text_of_error(error: BaseException) -> str:
    """Return the class and the message of an exception, as text that can be sent."""
    name = type(error).__name__
    try:
        said = str(error)
    except Exception as fault:  # noqa: BLE001  # `__str__` is code of the user
        said = f"its message cannot be shown ({type(fault).__name__})"
    text = f"{name}: {said}" if said else name
    return text.encode(
        errors="backslashreplace"
    ).decode()  # the text may have halves of surrogate pairs, as names of files do


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_dumped)


def _dumped(value: Any) -> Any:
    kind: type[Any] = value.__class__
    if hasattr(kind, "model_dump"):  # the class is a model of pydantic
        return value.model_dump(mode="json")
    raise TypeError(f"a result of type {kind.__name__} has no JSON form")


# The parameter `tools` of a request

_ATTRIBUTE = "__gradient_tool__"


def tools_of(tools: Any) -> Any:
    """Return the value of ``tools`` as a list in which each function is a `Tool`, and everything else is unchanged.

    Raises:
        TypeError: If a function cannot be a tool.
        InvalidRequestError: If two tools have one name.
    """
    if not is_list_like(tools):
        return tools
    items: list[Any] = list(tools)
    if not any(map(callable, items)):
        return items
    made: list[Any] = [
        _tool_of(each) if callable(each) and not isinstance(each, Mapping) else each for each in items
    ]
    names: set[str] = set()
    for each in made:
        name = name_of_tool(each)
        if name is not None and name in names:
            raise InvalidRequestError(f"tools: two tools have the name {escape(name, 80)}", param="tools")
        names |= {name} if name is not None else set()
    return made


def tool_params(tools: Any) -> Any:
    """Return the value of ``tools`` in the form of the API."""
    made = tools_of(tools)
    if not isinstance(made, list):
        return made
    return [
        cast("Tool[..., Any]", each).to_dict() if isinstance(each, Tool) else each
        for each in cast("list[Any]", made)
    ]


def _tool_of(function: Any) -> Tool[..., Any]:
    """Return the tool of a function. The function keeps its tool as an attribute.

    A wrapper has a copy of its function's attributes, so the tool is used only if it is made from this function.
    """
    if isinstance(function, Tool):
        return cast("Tool[..., Any]", function)
    known: Any = getattr(function, _ATTRIBUTE, None)
    if known is not None and known.tool is not None and known.tool.function is function:
        return cast("Tool[..., Any]", known.tool)
    made = Tool[..., Any](function)
    if isinstance(function, FunctionType):
        setattr(function, _ATTRIBUTE, _Made(made))
    return made


class _Made:
    """Holds the tool of a function. It is pickled empty, because cloudpickle may copy a function with its attributes."""

    def __init__(self, tool: Tool[..., Any] | None = None) -> None:
        self.tool = tool

    def __reduce__(self) -> tuple[Any, ...]:
        return _Made, ()


def name_of_tool(tool: Any) -> str | None:
    """Return the name of a `Tool`, or of a tool in the form of the API; None if it has none."""
    if isinstance(tool, Tool):
        return cast("Tool[..., Any]", tool).name
    definition = _part(tool, "function") or _part(tool, "custom")
    name = _part(definition, "name")
    return name if isinstance(name, str) else None


def _part(value: Any, name: str) -> Any:
    """Return the value of a key of a mapping, or of an attribute of another object; None if it is missing."""
    return (
        cast("Mapping[str, Any]", value).get(name)
        if isinstance(value, Mapping)
        else getattr(value, name, None)
    )
