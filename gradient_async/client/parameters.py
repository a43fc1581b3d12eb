"""Signatures and docstrings that show every parameter of a method which takes ``**params: Unpack[...]``.

Type checkers and editors read the TypedDict. At run time the method only has ``**params``, so `help`, `inspect.signature` and
Jupyter would show no parameter. `spelled_out` makes both from the same TypedDict: names and types are its annotations, and
descriptions are the strings below its fields. Python drops these strings, so they are read from the source. Where there is no
source, as in a frozen program, the parameters have no descriptions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import Parameter, signature, unwrap
from itertools import pairwise
from linecache import getlines
from types import ModuleType
from typing import Any, TypeVar

from ..types import NOT_GIVEN, params
from . import options

F = TypeVar("F", bound=Callable[..., Any])


def _read(*modules: ModuleType) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the descriptions of the fields of each class, and what each alias of a type means.

    This runs at import, so the text is only split; `ast` would take ten times as long. Every field of a class that a method
    unpacks has a description, a string in triple quotes below the field.
    """
    descriptions: dict[str, dict[str, str]] = {}
    aliases: dict[str, str] = {}
    for module in modules:
        source = "".join(getlines(module.__file__ or "", vars(module)))
        for text in source.split("\nclass ")[1:]:
            head, _, body = text.partition("):\n")
            name, _, bases = head.partition("(")
            fields = descriptions[name] = {}
            for base in bases.split(", "):
                fields |= descriptions.get(base, {})
            parts = body.split('"""')
            for code, string in zip(parts[::2], parts[1::2], strict=False):
                fields[code.partition(":")[0].strip()] = string
        for before, after in pairwise(source.split(": TypeAlias = ")):
            meaning = after.partition("\n")[0]
            if meaning != "(":  # a union that is written over several lines is shown by its name
                aliases[before.rsplit(None, 1)[-1]] = meaning
    return descriptions, aliases


_DESCRIPTIONS, _ALIASES = _read(params, options)


@cache
def _type(annotation: str) -> str:
    """Return a type as a reader writes it."""
    if annotation.startswith("Required["):
        annotation = annotation[len("Required[") : -1]
    while "Annotated[" in annotation:  # has the limits of the value, which are also in its description
        before, _, rest = annotation.rpartition("Annotated[")  # finds the innermost `Annotated`
        kind, _, rest = rest.partition(", Meta(")
        annotation = before + kind + rest.partition(")]")[2]
    name, space, rest = annotation.partition(" ")
    return _ALIASES.get(name, name) + space + rest


def described(kind: Any) -> list[tuple[str, str, str]]:
    """Return name, type and description of each field of a TypedDict."""
    descriptions = _DESCRIPTIONS.get(kind.__name__, {})
    return [
        (name, _type(annotation.__forward_arg__), descriptions.get(name, ""))
        for name, annotation in kind.__annotations__.items()
    ]


@cache  # most parameters are the same in all methods
def _parameter(name: str, annotation: str, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@cache  # both clients, with asyncio and without, have the same methods
def _spell_out(
    kinds: tuple[Any, ...], method: Callable[..., Any] | None
) -> tuple[list[Parameter], list[Parameter], str]:
    """Return the parameters of some TypedDicts that are required, the others, and the entries of all for a docstring."""
    defaults: dict[str, Any] = {} if method is None else unwrap(method).__kwdefaults__
    required: list[Parameter] = []
    others: list[Parameter] = []
    entries: list[str] = []
    for kind in kinds:
        for name, annotation, description in described(kind):
            if kind.__annotations__[name].__forward_arg__.startswith("Required"):
                required.append(_parameter(name, annotation, Parameter.empty))
            else:
                others.append(_parameter(name, annotation, defaults.get(name, NOT_GIVEN)))
            entries.append(f"{name} ({annotation}): {description}")
    return required, others, "\n".join(entries)


def spelled_out(*kinds: Any, defaults: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Give a method the signature and the docstring that it would have if each parameter were an argument of its own.

    Args:
        *kinds: The TypedDicts of its keyword arguments.
        defaults: A function whose keyword arguments have the defaults. What it does not have is left out of the request by
            default.
    """
    required, others, entries = _spell_out(kinds, defaults)

    def decorate(method: F) -> F:
        own = signature(method)
        *arguments, _ = own.parameters.values()
        options = [argument for argument in arguments if argument.kind is Parameter.KEYWORD_ONLY]
        first = arguments[: len(arguments) - len(options)]
        parameters = [*first, *required, *options, *others]
        method.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        if method.__doc__:  # None with `python -OO`
            method.__doc__ = _with_entries(method.__doc__, entries)
        return method

    return decorate


def _with_entries(docstring: str, entries: str) -> str:
    """Put the entries into the section ``Args`` of a docstring, in the place of that of ``**params``."""
    if "\n" not in docstring:
        docstring += "\n\n    Args:\n        **\n"
    start = docstring.index("**")
    before, after = docstring[:start], docstring[docstring.index("\n", start) :]
    # Python 3.13 removes the indentation of docstrings, so it is copied from the line before.
    return before + entries.replace("\n", before[before.rindex("\n") :]) + after
