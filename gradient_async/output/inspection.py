"""Looks into types: which classes they contain, and why a type has no schema."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, ClassVar, ForwardRef, Literal, get_args, get_origin, get_type_hints

import msgspec


def has_model(type_: Any) -> bool:
    """Whether a type is a model of pydantic, or an alias or a union that contains one."""
    pydantic = sys.modules.get("pydantic.main")
    return pydantic is not None and _contains(type_, pydantic.BaseModel, [])


def _contains(type_: Any, base: type, seen: list[Any]) -> bool:
    if type_ in seen or get_origin(type_) is Literal:
        return False
    seen.append(type_)  # an alias made by the statement `type` may contain itself
    inside = getattr(type_, "__value__", getattr(type_, "__supertype__", None))
    if any(_contains(part, base, seen) for part in (*get_args(type_), get_origin(type_), inside)):
        return True
    # Dataclasses of pydantic have no common base class. msgspec would decode them without their validators.
    return isinstance(type_, type) and (issubclass(type_, base) or hasattr(type_, "__pydantic_validator__"))


def _parts(type_: Any) -> Iterator[tuple[str, Any]]:
    """Yield the path and the type of each part of a type. An annotation that cannot be evaluated yields its error."""
    type_ = getattr(type_, "__value__", getattr(type_, "__supertype__", type_))
    origin, args = get_origin(type_), get_args(type_)
    cls: Any = origin or type_
    is_class = isinstance(cls, type) and cls is not UnionType
    own = is_class and not is_builtin(cls)
    if origin not in {Literal, Callable}:
        for arg in args[:1] if origin is Annotated else args:
            yield "[...]" if is_class and not own else "", arg
    if not own:
        return
    for base in reversed(cls.__mro__):
        names = vars(sys.modules.get(base.__module__, inspect))
        for name, annotation in inspect.get_annotations(base).items():
            probe = type("Probe", (), {"__annotations__": {name: annotation}})
            try:
                hint = get_type_hints(probe, names, dict(vars(base)), include_extras=True)[name]
            except Exception as error:  # noqa: BLE001  # of the expression in the annotation
                hint = error.with_traceback(None)
            if get_origin(hint) is not ClassVar:
                yield f".{name}", hint


def is_builtin(cls: Any) -> bool:
    """Whether a class or a function belongs to Python's standard library."""
    return cls.__module__.partition(".")[0] in sys.stdlib_module_names


def classes_in(type_: Any, path: str, seen: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the path and the class of each class in a type, except classes of Python's standard library."""
    if type_ in seen:
        return
    seen.append(type_)
    cls: Any = get_origin(type_) or type_
    if isinstance(cls, type) and not is_builtin(cls):
        yield path, cls
    for step, part in _parts(type_):
        yield from classes_in(part, path + step, seen)


def explain(type_: Any, error: Exception) -> tuple[str, str]:
    """Return the path of the part because of which a type has no schema, and what helps."""
    path, seen = "$", [type_]
    while not has_model(type_):
        for step, part in _parts(type_):
            if isinstance(part, Exception):
                cure = "a type has to be defined in the module of the class, outside of functions and TYPE_CHECKING"
                return path + step, f"{part}; {cure}"
            if part is not ... and part not in seen and (fault := _error_of(part)) is not None:
                seen.append(part)
                type_, error, path = part, fault, path + step
                break
        else:
            break
    return path, cure_of(type_, error)


def _error_of(type_: Any) -> Exception | None:
    try:
        msgspec.json.schema_components((type_,))
    except Exception as error:  # noqa: BLE001  # see `_msgspec_schema`
        return error.with_traceback(None)
    return None


def cure_of(type_: Any, error: Exception) -> str:
    """Return what is wrong with a type that has no schema by itself, and what helps."""
    shown = getattr(type_, "__name__", None) or repr(type_)[:80]
    problem = str(error).split("\n", 1)[0]
    kind = type(type_).__name__
    if has_model(type_):
        return f"{shown} is a model of pydantic inside a class of another kind; use one of the two throughout"
    if isinstance(type_, (str, ForwardRef)):
        name = type_ if isinstance(type_, str) else type_.__forward_arg__
        return f"the name {name!r} is not resolved; pass the class itself"
    if isinstance(error, RecursionError):
        return f"{shown} contains itself; make it a class, which may do so"
    if isinstance(error, KeyError):
        return f"two classes have the name {problem}; rename one"
    if problem.startswith(("Generating JSON schema", "Type '")):
        cls = get_origin(type_) or type_
        if isinstance(type_, (list, tuple, set, dict)):
            return f"{shown} is an instance of {kind}, not a type; write {kind}[...], such as list[int]"
        if inspect.isroutine(type_) or cls is Callable:
            return f"{shown} is a function, not a type; pass the type of the result"
        if isinstance(cls, type) and not is_builtin(cls):
            return f"{shown} is a class without declared fields; make it a Struct or a dataclass"
        if isinstance(cls, type) or type(cls).__module__ == "typing":
            return f"{shown} has no form in JSON; use a list, a dict, a Struct or a dataclass"
        return f"{shown} is an instance of {kind}, not a type; pass {kind} itself"
    if "unions may not contain" in problem:
        return f"{problem}; leave one of them out, or make each a Struct with a tag"
    return problem
