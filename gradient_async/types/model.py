"""The base of all messages that a server sends, and their conversion to plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

# Fields that the session sets are encoded under names with this prefix, so that no server can set them.
_SESSION_PREFIX = "@"


class Convertible:
    """Conversion of a Struct to dictionaries and JSON text."""

    __slots__ = ()

    # Set by msgspec.
    __struct_fields__: ClassVar[tuple[str, ...]]
    __struct_encode_fields__: ClassVar[tuple[str, ...]]

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
        """Return the fields as plain data, without fields that the server did not send.

        Args:
            mode: Accepted for compatibility; the result holds JSON types in every mode.
            use_api_names: Accepted for compatibility; fields have the names of the API.
            exclude_unset: Leave out fields that are None; a field that was not sent is None.
            exclude_defaults: The same as ``exclude_unset``.
            exclude_none: The same as ``exclude_unset``.
            warnings: Accepted for compatibility.
        """
        del mode, use_api_names, warnings
        return _plain_struct(self, keep_none=not (exclude_unset or exclude_defaults or exclude_none))

    def to_json(self, *, indent: int | None = 2, **options: Any) -> str:
        """Return the result of `to_dict` as JSON text.

        Args:
            indent: Spaces for each level; None writes one line.
            **options: Arguments of `to_dict`.
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
        """Return all fields as plain data, with the signature of pydantic's method.

        Args:
            mode: Accepted for compatibility; the result holds JSON types in every mode.
            include: Top-level fields to keep; None keeps all.
            exclude: Top-level fields to leave out.
            by_alias: Accepted for compatibility; fields have the names of the API.
            exclude_unset: Leave out fields that are None; a field that was not sent is None.
            exclude_defaults: The same as ``exclude_unset``.
            exclude_none: Leave out fields that are None.
            round_trip: Accepted for compatibility.
            warnings: Accepted for compatibility.
        """
        del mode, by_alias, round_trip, warnings
        data = _plain_struct(self, keep_none=not (exclude_none or exclude_unset or exclude_defaults))
        kept = set(data) if include is None else set(include)
        kept -= set(exclude or ())
        return {name: value for name, value in data.items() if name in kept}

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """Return the result of `model_dump` as JSON text.

        Args:
            indent: Spaces for each level; None writes one line.
            **options: Arguments of `model_dump`.
        """
        return _dump(self.model_dump(**options), indent)


class Model(Convertible, msgspec.Struct, gc=False, repr_omit_defaults=True):
    """Base of all messages that a server sends."""


def build_tables(*types: Any) -> None:
    """Make msgspec build its tables of types. Modules call this function when they are imported.

    msgspec builds the table of a type at the first use of the type, and other threads see the table before it is
    complete. If two threads use a type for the first time at the same moment, the process may crash. During an import,
    the import lock keeps other threads away. A `msgspec.json.Decoder` that is made during the import has the same effect.
    """
    for type_ in types:
        msgspec.json.Decoder(type_)


def _dump(data: dict[str, Any], indent: int | None) -> str:
    encoded = msgspec.json.encode(data)
    return (encoded if indent is None else msgspec.json.format(encoded, indent=indent)).decode()


def _plain_struct(struct: Convertible, *, keep_none: bool) -> dict[str, Any]:
    return {
        encoded: _plain(value, keep_none=keep_none)
        for name, encoded in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
        if ((value := getattr(struct, name)) is not None or keep_none)
        and not encoded.startswith(_SESSION_PREFIX)
        and not name.startswith("_")
    }


def _plain(value: Any, *, keep_none: bool) -> Any:
    # Only Structs and lists of Structs are converted. All other values are JSON that is passed on unchanged, with its nulls.
    if isinstance(value, Convertible):
        return _plain_struct(value, keep_none=keep_none)
    if isinstance(value, list):
        return [
            _plain_struct(item, keep_none=keep_none) if isinstance(item, Convertible) else item
            for item in value  # pyright: ignore[reportUnknownVariableType]  # of any type
        ]
    return value
