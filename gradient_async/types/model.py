"""What every message has in common: conversion to plain data, absent values, headers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, final, overload

import msgspec

T = TypeVar("T")

_SESSION_PREFIX = "@"  # encoded names no server sends: fields that the session sets


@final
class NotGiven:
    """The type of `NOT_GIVEN` and `omit`: an argument that is left out of the request."""

    __slots__ = ()

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"

    def __reduce__(self) -> str:
        return "NOT_GIVEN"


# Typed Any, so that `temperature=NOT_GIVEN` passes a type checker for every parameter.
NOT_GIVEN: Any = NotGiven()
omit: Any = NOT_GIVEN


class Model(msgspec.Struct, gc=False, repr_omit_defaults=True):
    """Base of all reply messages: conversion to dictionaries and JSON text."""

    def to_dict(
        self,
        *,
        mode: str = "python",
        use_api_names: bool = True,
        exclude_unset: bool = True,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
        warnings: bool = True,
    ) -> dict[str, Any]:
        """Return plain data as JSON would carry it, without what the server left out.

        Args:
            mode: Taken for compatibility; the result holds JSON types in every mode.
            use_api_names: Taken for compatibility; fields are called as on the wire.
            exclude_unset: Leave out fields that are None: what was not sent is None.
            exclude_defaults: The same as ``exclude_unset``.
            exclude_none: The same as ``exclude_unset``.
            warnings: Taken for compatibility.
        """
        del mode, use_api_names, warnings
        return _plain_struct(self, keep_none=not (exclude_unset or exclude_defaults or exclude_none))

    def to_json(self, *, indent: int | None = 2, **options: Any) -> str:
        """Return `to_dict` as JSON text.

        Args:
            indent: Spaces a level; None puts everything on one line.
            **options: Those of `to_dict`.
        """
        return _dump(self.to_dict(**options), indent)

    def model_dump(
        self,
        *,
        mode: str = "python",
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        by_alias: bool | None = None,
        exclude_unset: bool = False,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
        round_trip: bool = False,
        warnings: bool = True,
    ) -> dict[str, Any]:
        """Return plain data with all fields, as users of pydantic models know it.

        Args:
            mode: Taken for compatibility; the result holds JSON types in every mode.
            include: Top-level fields to keep; None keeps all.
            exclude: Top-level fields to leave out.
            by_alias: Taken for compatibility; fields are called as on the wire.
            exclude_unset: Leave out fields that are None: what was not sent is None.
            exclude_defaults: The same as ``exclude_unset``.
            exclude_none: Leave out fields that are None.
            round_trip: Taken for compatibility.
            warnings: Taken for compatibility.
        """
        del mode, by_alias, round_trip, warnings
        data = _plain_struct(self, keep_none=not (exclude_none or exclude_unset or exclude_defaults))
        kept = set(data) if include is None else set(include)
        kept -= set(exclude or ())
        return {name: value for name, value in data.items() if name in kept}

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """Return `model_dump` as JSON text.

        Args:
            indent: Spaces a level; None puts everything on one line.
            **options: Those of `model_dump`.
        """
        return _dump(self.model_dump(**options), indent)


def _dump(data: dict[str, Any], indent: int | None) -> str:
    encoded = msgspec.json.encode(data)
    return (encoded if indent is None else msgspec.json.format(encoded, indent=indent)).decode()


def _plain_struct(struct: msgspec.Struct, *, keep_none: bool) -> dict[str, Any]:
    return {
        encoded: _plain(value, keep_none=keep_none)
        for name, encoded in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
        if ((value := getattr(struct, name)) is not None or keep_none)
        and not encoded.startswith(_SESSION_PREFIX)
        and not name.startswith("_")
    }


def _plain(value: Any, *, keep_none: bool) -> Any:
    # Only Structs are walked: JSON that is passed through as it came keeps its nulls.
    if isinstance(value, msgspec.Struct):
        return _plain_struct(value, keep_none=keep_none)
    if isinstance(value, list):
        return [_plain(item, keep_none=keep_none) for item in value]  # pyright: ignore[reportUnknownVariableType]  # of any type
    return value


class Headers(Mapping[str, str]):
    """Reply headers: names are compared without case; the last of equal names counts.

    Args:
        items: Pairs of name and value.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = {name.lower(): value for name, value in items}

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()]

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str) -> str: ...
    @overload
    def get(self, name: str, /, default: T) -> str | T: ...
    def get(self, name: str, /, default: object = None) -> object:
        """Return a value, or the default: without an exception on the way, since most are asked for in vain."""
        return self._items.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({self._items!r})"

    def __reduce__(self) -> tuple[type[Headers], tuple[list[tuple[str, str]]]]:
        return Headers, (list(self._items.items()),)
