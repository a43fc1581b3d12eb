"""Types to JSON schemas, and JSON text to values of these types.

msgspec does both. For a model of pydantic, alone or inside lists, dictionaries, tuples and unions, pydantic does both; it is
found in `sys.modules`, because a program that has a model has imported pydantic.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from _thread import RLock
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

import msgspec

from ..decoding.normalize import is_object
from ..errors import escape
from ..partial import PartialJSON
from .inspection import classes_in, cure_of, explain, has_model, is_builtin
from .strict import REF, NoSchemaError, references, strict_form

T = TypeVar("T")

# JSON in one fence of Markdown. The root of every schema is an object.
_FENCE = re.compile(r"```\w*\s*(\{.*\})\s*```", re.DOTALL)
# Matches white space and the beginning of a fence before the JSON of an unfinished answer.
match_opening = re.compile(r"\s*(?:```\w*\s*)?(?={)").match
# Matches strings, and numbers with a fraction or an exponent; `_respelled` changes some of them. The pattern also matches a
# string without an end, and no number that begins inside another. Otherwise the search would begin again at each of many
# quotation marks or digits, and take quadratic time.
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*+"?|(?<!\d)-?\d++(?:\.\d++(?:[eE][-+]?\d++)?|[eE][-+]?\d++)', re.ASCII | re.DOTALL
)
_HALF = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
_PLACE = re.compile(r"(.*) - at (`key` in )?`(\$.*)`", re.DOTALL)
_MAX_SHOWN = 200  # maximum characters of a text in a message
_VALUE = "$.value"  # the path of a wrapped value
# msgspec's table of a type must not be used by a thread while another thread builds it; see `build_tables`.
_BUILDING = RLock()


class UnfitTextError(Exception):
    """A text is not a value of a type. Users never see this error: `Answer` and `Tool` raise their own.

    Attributes:
        problem: A description of the fault.
        path: Path of the fault in the value, such as ``$.lines[2].price``; None if the text is not JSON.
        plain: The plain data of the text; None if the text is not JSON.
    """

    def __init__(self, problem: str, path: str | None = None, plain: Any = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path
        self.plain = plain

    @property
    def shown(self) -> str:
        """Problem and path, escaped for a message, because both may contain text of the model."""
        return shown_text(self.problem if self.path in {None, "$"} else f"{self.problem} - at {self.path}")


def shown_text(text: str) -> str:
    """Return the beginning of a text, escaped for a message."""
    shown = escape(text, _MAX_SHOWN)
    return shown if len(shown) <= _MAX_SHOWN else shown[: _MAX_SHOWN - 1] + "…"


def _respelled(token: re.Match[str]) -> str:
    """Return a string or a number of JSON in a form that msgspec and pydantic accept.

    JSON Schema, and so the model, takes `2.0` for an integer, and half of a surrogate pair for a character. msgspec and
    pydantic refuse both. A float that is exactly an integer becomes this integer, and the half becomes U+FFFD.
    """
    text = token.group()
    if text[0] == '"':
        if _HALF.search(text):
            whole = PartialJSON()
            whole.feed(text)
            if whole.complete and whole.valid:
                return msgspec.json.encode(whole.value).decode()
    elif float(text).is_integer():  # infinity is no integer, so the integer has a bounded length
        with contextlib.suppress(ArithmeticError):  # the exponent may have too many digits
            number = Decimal(text)
            if number == number.to_integral_value():
                return str(int(number))
    return text


def _candidates(text: str) -> Iterator[str]:
    """Yield the parts of a text that may be the JSON of an answer, the most probable first."""
    yield text
    text = text.strip()
    yield text
    if fenced := _FENCE.fullmatch(text):
        yield fenced[1]


def _check_json(text: str) -> None:
    """Raise a ValueError or RecursionError if a text is not JSON."""
    msgspec.json.decode(text, type=msgspec.Raw)


class Codec(Generic[T]):
    """Describes and reads the values of one type.

    The schema has an object at its root, as servers require. So the value of another type, or of a union, is the property
    ``value`` of an object.

    Args:
        type_: The type.
        models: Whether pydantic describes and reads the values; by default, if the type contains a model.

    Attributes:
        name: The name of the type, in the characters that the API allows.
        schema: The JSON schema.
        wrapped: Whether the value is a property of an object.
        answer: The `Answer` of the type without any options; None until it is made.

    Raises:
        NoSchemaError: If the type has none.
    """

    def __init__(self, type_: Any, *, models: bool | None = None) -> None:
        self.name = name_of(type_)
        models = has_model(type_) if models is None else models
        with _BUILDING:
            schema, definitions = _pydantic_schema(type_) if models else _msgspec_schema(type_)
        name = schema.get("$ref", "").removeprefix(REF)
        root = {key: value for key, value in {**definitions.get(name, {}), **schema}.items() if key != "$ref"}
        self.wrapped = root.get("type") != "object"
        if self.wrapped:
            root = {
                "type": "object",
                "properties": {"value": schema},
                "required": ["value"],
                "additionalProperties": False,
            }
        others = {key: value for key, value in definitions.items() if key != name}
        if REF + name not in references([root, *others.values()]):
            definitions = others
        self.schema: dict[str, Any] = {**root, "$defs": definitions} if definitions else root
        self._read = (_pydantic_reader if models else _msgspec_reader)(type_, self.wrapped)
        self._strict: dict[str, Any] | tuple[str, str] | None = (
            None  # either the schema, or the path and the reason why there is no schema
        )
        self.answer: Any = None

    def form(self, strict: bool | None) -> tuple[dict[str, Any], bool]:  # noqa: FBT001
        """Return the schema to send, and whether it is in the strict form, which servers can enforce.

        Args:
            strict: Whether the schema has to be strict. If None, it is strict if the type has a strict form.

        Raises:
            NoSchemaError: If ``strict`` is true, and the type has no strict form.
        """
        if strict is False:
            return self.schema, False
        with _BUILDING:
            if self._strict is None:
                try:
                    self._strict = strict_form(self.schema)
                except NoSchemaError as error:
                    self._strict = (self._path(error.path), error.problem)
        if isinstance(self._strict, dict):
            return self._strict, True
        if strict:
            raise NoSchemaError(*self._strict)
        return self.schema, False

    def decode(self, text: str) -> T:
        """Read a value.

        See `Answer.decode` for texts that are accepted although they are not exactly the JSON of the type.

        Raises:
            UnfitTextError: If the text is not a value of the type.
        """
        fault: tuple[str, str | None, Any] = ("", None, None)
        for candidate in _candidates(text):
            failure: Exception
            try:
                return self._unwrap(self._read(candidate))
            except Exception as error:  # noqa: BLE001  # the type's own code may raise anything
                failure = error.with_traceback(None)
            respelled = _TOKEN.sub(_respelled, candidate)
            if respelled != candidate:
                try:
                    return self._unwrap(self._read(respelled))
                except Exception as error:  # noqa: BLE001
                    failure = error.with_traceback(None)
            try:
                _check_json(respelled)
            except (ValueError, RecursionError) as error:
                fault = (self._fault(error, None)[0], None, None)
                continue
            plain = PartialJSON().feed(respelled)
            fault = (*self._fault(failure, plain), self.unwrap_plain(plain))
            break
        raise UnfitTextError(*fault)

    def unwrap_plain(self, plain: Any) -> Any:
        """Return the value inside the plain data of a text, which may be incomplete or have another form."""
        return (plain.get("value") if is_object(plain) else None) if self.wrapped else plain

    def _unwrap(self, value: Any) -> T:
        unwrapped: T = value.value if self.wrapped else value
        return unwrapped

    def _fault(self, error: Exception, plain: Any) -> tuple[str, str]:
        """Return a description and the path of the fault that an error reports."""
        if isinstance(error, RecursionError):
            return "nested too deep", "$"
        if not isinstance(error, ValueError):  # a validator or `__post_init__` raised the error
            return f"{type(error).__name__}: {error}", "$"
        if hasattr(error, "error_count"):  # the error comes from pydantic
            errors = cast("Any", error).errors
            first = errors(include_url=False, include_context=False, include_input=False)[0]
            problem, path = first["msg"], _path_of(first["loc"], plain, missing=first["type"] == "missing")
        else:
            place = _PLACE.fullmatch(str(error))
            problem, path = (place[1], place[3]) if place else (str(error), "$")
            if place and place[2]:
                problem += " as a key"
        return problem, self._path(path)

    def _path(self, path: str) -> str:
        """Return a path in the value, from a path that may begin with the property around the value."""
        return f"${path.removeprefix(_VALUE)}" if self.wrapped and path.startswith(_VALUE) else path


def _path_of(steps: tuple[int | str, ...], plain: Any, *, missing: bool) -> str:
    """Return the path of the location in an error of pydantic, without its steps for alternatives of unions and validators."""
    path = "$"
    for number, step in enumerate(steps):
        items = cast("list[Any]", plain) if isinstance(plain, list) else list[Any]()
        if isinstance(step, int) and step < len(items):
            plain, path = items[step], f"{path}[{step}]"
        elif is_object(plain) and str(step) in plain:
            plain, path = plain[str(step)], f"{path}.{step}"
        elif missing and number == len(steps) - 1:
            path += f".{step}"
    return path


# Names of types


def name_of(type_: Any) -> str:
    """Return the name of a type in the characters that the API allows, such as ``list_Invoice``."""
    name = re.sub("[^A-Za-z0-9-]+", "_", "_".join(_words(type_))).strip("_")
    return name[:64].rstrip("_") or "answer"


def _words(type_: Any) -> Iterator[str]:
    origin, args = get_origin(type_), get_args(type_)
    if origin is Annotated:
        args = args[:1]
    elif origin is Literal:
        yield "Literal"
        yield from map(str, args)
        return
    elif origin is not Union and origin is not UnionType:
        yield getattr(origin or type_, "__name__", "")
    for arg in args:
        yield from _words(arg)


# Types with a schema


def _msgspec_schema(type_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    problem: tuple[str, str]
    try:
        (schema,), definitions = msgspec.json.schema_components((type_,), ref_template=REF + "{name}")
        msgspec.json.Decoder(type_)
    except Exception as error:  # noqa: BLE001  # evaluating annotations may raise anything
        problem = explain(type_, error)
    else:
        for path, cls in classes_in(type_, "$", []):
            if has_model(cls):  # a dataclass of pydantic, which msgspec takes for an ordinary dataclass
                problem = path, cure_of(cls, TypeError())
                break
            if hasattr(cls, "__total__"):
                # msgspec sorts the keys of a TypedDict, but a model writes them in the order of the schema.
                order = list(inspect.get_annotations(cls))
                for definition in definitions.values():
                    properties = definition.get("properties", {})
                    name, _, _ = definition["title"].partition("[")  # a generic class, without its arguments
                    if name == cls.__name__ and properties.keys() == set(order):
                        definition["properties"] = {key: properties[key] for key in order}
        else:
            return schema, definitions
    raise NoSchemaError(*problem)


def _msgspec_reader(type_: Any, wrapped: bool) -> Callable[[str], Any]:  # noqa: FBT001
    return msgspec.json.Decoder(msgspec.defstruct("Wrapped", [("value", type_)]) if wrapped else type_).decode


def _pydantic_schema(type_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    problem: str
    try:
        make = getattr(type_, "model_json_schema", None) if isinstance(type_, type) else None
        schema: dict[str, Any] = (make or sys.modules["pydantic"].TypeAdapter(type_).json_schema)()
    except Exception as error:  # noqa: BLE001  # pydantic's errors have no common base
        problem = str(error).strip().split("\n", 1)[0]
    else:
        return schema, schema.pop("$defs", {})
    raise NoSchemaError("$", f"{problem}; use models of pydantic throughout, or Structs throughout")


def _pydantic_reader(type_: Any, wrapped: bool) -> Callable[[str], Any]:  # noqa: FBT001
    pydantic = sys.modules["pydantic"]
    read = pydantic.TypeAdapter(
        pydantic.create_model("Wrapped", value=(type_, ...)) if wrapped else type_
    ).validate_json

    def read_json(text: str) -> Any:
        _check_json(text)  # pydantic accepts NaN, which is not JSON
        return read(text)

    return read_json


# The cache


class _Codecs(dict[Any, Codec[Any]]):
    """The codecs of types that contain a class. They are pickled empty, because cloudpickle may copy a class with them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Codecs, ()


_ATTRIBUTE = "__gradient_codecs__"
_MAX_CODECS = 64  # maximum number of codecs that one class keeps
_BUILTIN = _Codecs()


def codec_of(type_: Any) -> Codec[Any]:
    """Return the codec of a type; make the codec at the first call.

    The class in the type, such as ``Invoice`` in ``list[Invoice]``, keeps the codec as an attribute, so that both are freed
    together. A dictionary with weak keys would keep both for ever, because the codec refers to its type.

    Raises:
        NoSchemaError: If the type has no schema.
    """
    if isinstance(type_, type) and (known := vars(type_).get(_ATTRIBUTE)) and type_ in known:
        # A shortcut for the usual case, a class that has a codec: the code below takes three times as long to find it.
        return cast("Codec[Any]", known[type_])
    with _BUILDING:
        codecs = _codecs_of(type_)
        try:
            codec: Codec[Any] | None = codecs.get(type_)
        except TypeError:  # the type is not hashable
            return Codec[Any](type_)
        if codec is None:
            codec = Codec[Any](type_)
            if len(codecs) >= _MAX_CODECS:
                codecs.clear()
            codecs[type_] = codec
        return codec


def _codecs_of(type_: Any) -> _Codecs:
    owner = _owner(type_)
    if owner is None:
        return _BUILTIN
    codecs = vars(owner).get(_ATTRIBUTE)
    if codecs is None:
        codecs = _Codecs()
        try:
            setattr(owner, _ATTRIBUTE, codecs)
        except (TypeError, AttributeError):  # a class that cannot be changed, such as one written in C
            return _BUILTIN
    return codecs


def _owner(type_: Any) -> type | None:
    """Return the first class in a type that does not belong to Python's standard library."""
    origin = get_origin(type_)
    if origin is None or origin is type_:  # the origin of `Generic` is `Generic` itself
        return type_ if isinstance(type_, type) and not is_builtin(type_) else None
    return next((owner for part in (*get_args(type_), origin) if (owner := _owner(part))), None)
