"""The base of all messages that a server sends, and their conversion to plain data."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeAlias, cast

import msgspec

from .nesting import decode_json

# Fields that the session sets are encoded under names with this prefix, so that no server can set them.
_SESSION_PREFIX = "@"

IncEx: TypeAlias = (
    AbstractSet[str] | AbstractSet[int] | Mapping[str, Any] | Mapping[int, Any] | list[str] | tuple[str, ...]
)


class Convertible:
    """Conversion of a Struct to dictionaries and JSON text."""

    __slots__ = ()

    # msgspec sets these attributes of each Struct.
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
        include: IncEx | None = None,
        exclude: IncEx | None = None,
        context: Any = None,
        by_alias: bool | None = None,
        exclude_unset: bool = False,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
        exclude_computed_fields: bool = False,
        round_trip: bool = False,
        warnings: bool | str = True,
        fallback: Callable[[Any], Any] | None = None,
        serialize_as_any: bool = False,
        polymorphic_serialization: bool | None = None,
    ) -> dict[str, Any]:
        """Return all fields as plain data, with the signature of pydantic's method.

        Parameters that are not described change nothing: every value is plain JSON already, and every field has one name.

        Args:
            mode: Accepted for compatibility; the result holds JSON types in every mode.
            include: Fields to keep: a set of names, or a dictionary from a name to True or to the same form for the value of
                the field. Items of a list are named by their index, which may be negative, and all fields or items by
                ``__all__``. For example ``{"choices": {"__all__": {"message": {"content"}}}}``.
            exclude: Fields to leave out, in the form of ``include``.
            context: Accepted for compatibility; changes nothing.
            by_alias: Accepted for compatibility; changes nothing.
            exclude_unset: Leave out fields that are None; a field that was not sent is None.
            exclude_defaults: Leave out fields that are None, the default of every optional field of the API.
            exclude_none: Leave out fields that are None.
            exclude_computed_fields: Accepted for compatibility; changes nothing.
            round_trip: Accepted for compatibility; changes nothing.
            warnings: Accepted for compatibility; changes nothing.
            fallback: Accepted for compatibility; changes nothing.
            serialize_as_any: Accepted for compatibility; changes nothing.
            polymorphic_serialization: Accepted for compatibility; changes nothing.

        Raises:
            TypeError: If ``include`` or ``exclude`` is of another form.
        """
        del mode, context, by_alias, exclude_computed_fields, round_trip, warnings
        del fallback, serialize_as_any, polymorphic_serialization
        data = _plain_struct(self, keep_none=not (exclude_none or exclude_unset or exclude_defaults))
        if include is None and exclude is None:
            return data
        selected: dict[str, Any] = _select(data, include, exclude)
        return selected

    def model_dump_json(
        self, *, indent: int | None = None, ensure_ascii: bool = False, **options: Any
    ) -> str:
        """Return the result of `model_dump` as JSON text.

        Args:
            indent: Spaces for each level; None writes one line.
            ensure_ascii: Escape all characters that are not ASCII.
            **options: Arguments of `model_dump`.
        """
        data = self.model_dump(**options)
        if ensure_ascii:
            return json.dumps(data, indent=indent, separators=None if indent else (",", ":"))
        return _dump(data, indent)


class Hint:
    """An attribute of other clients' objects, which is absent here; its AttributeError says what to write.

    A descriptor costs nothing where other attributes are read, while a class with ``__getattr__`` slows all of them.

    Args:
        sentence: What to write.
    """

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__} has no {self._name!r}: {self.sentence}")


class Model(Convertible, msgspec.Struct, gc=False, repr_omit_defaults=True):
    """Base of all messages that a server sends."""

    if not TYPE_CHECKING:  # type checkers report these mistakes without this code
        get = Hint("read its attributes; to_dict() gives a dictionary")
        model_extra = Hint("fields without names are in completion.body")
        model_fields_set = Hint("what the server sent is in completion.body")

        def __getitem__(self, _key: object) -> NoReturn:
            raise TypeError(
                f"{type(self).__name__} is not subscriptable: read its attributes; to_dict() gives a dictionary"
            )

    @classmethod
    def model_validate(
        cls,
        obj: Any,
        *,
        strict: bool | None = None,
        extra: str | None = None,
        from_attributes: bool | None = None,
        context: Any = None,
        by_alias: bool | None = None,
        by_name: bool | None = None,
    ) -> Self:
        """Make a message from plain data in the documented shape, for tests.

        Fields without names are ignored, as in the reply of a server, and are in ``body``, if the message has one. Shapes
        that only some servers send are not repaired: that takes a reply of `gradient_async.testing.serve`.

        Args:
            obj: A mapping, which may contain messages; or a message of this class, which is returned.
            strict: Whether to refuse values that need a conversion, such as ``"5"`` for a number.
            extra: ``"forbid"`` refuses fields without names, at any depth.
            from_attributes: Accepted for compatibility.
            context: Accepted for compatibility.
            by_alias: Accepted for compatibility.
            by_name: Accepted for compatibility.

        Raises:
            ValueError: If a value has the wrong type, or the field ``choices``, ``message`` or ``delta`` is missing; the
                message says what and where.
        """
        del from_attributes, context, by_alias, by_name
        if isinstance(obj, cls):
            return obj
        if not isinstance(obj, Mapping):
            text = isinstance(obj, (str, bytes, bytearray))
            advice = "; for JSON text write model_validate_json" if text else ""
            raise ValueError(  # noqa: TRY004  # as pydantic does
                f"{cls.__name__}: expected a dict, not {type(obj).__name__}{advice}"
            )
        fields = cast("Mapping[Any, Any]", obj)
        problem: str
        try:
            # Fields that only the session sets are ignored, as they are in the reply of a server.
            message = msgspec.convert(
                {name: each for name, each in fields.items() if not str(name).startswith(_SESSION_PREFIX)},
                cls,
                strict=bool(strict),
            )
        except msgspec.ValidationError as error:
            problem = str(error)
        else:
            _check_names(message, fields, cls.__name__, forbid=extra == "forbid")
            message.normalize()
            # Replies and chunks have the method `receive`. It makes the data their body.
            receive = getattr(message, "receive", None)
            if receive is not None:
                receive(obj)
            return message
        # msgspec says "Expected `str`, got `int` - at `$.choices[0].message.content`".
        what, _, place = problem.partition(" - at `$")
        where = f" at {place[1:-1]}" if place else ""
        raise ValueError(f"{cls.__name__}{where}: {what[:1].lower()}{what[1:]}")

    def normalize(self) -> None:
        """Convert the messages in this message to their documented shape, as the decoder does."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            for item in cast("list[Any]", value) if isinstance(value, list) else (value,):
                if isinstance(item, Model):
                    item.normalize()

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Make a message from JSON text, for tests.

        Args:
            json_data: The JSON.
            **options: Arguments of `model_validate`.

        Raises:
            ValueError: If the text is not JSON, or for the reasons of `model_validate`.
        """
        problem: str
        text = cast("object", json_data)
        if not isinstance(text, (str, bytes, bytearray)):
            advice = "; for a dict write model_validate" if isinstance(text, Mapping) else ""
            raise ValueError(  # noqa: TRY004  # as pydantic does
                f"{cls.__name__}: expected JSON text, not {type(json_data).__name__}{advice}"
            )
        try:
            obj = decode_json(json_data if isinstance(json_data, str) else bytes(json_data))
        except ValueError as error:
            problem = str(error)
        else:
            return cls.model_validate(obj, **options)
        raise ValueError(f"{cls.__name__}: not JSON: {problem}")

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Make a message from fields that are not checked.

        Args:
            _fields_set: Accepted for compatibility.
            **values: The fields.

        Raises:
            TypeError: If there is no such field.
        """
        return cls(**values)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy.

        Args:
            update: Fields to set in the copy; their values are not checked.
            deep: Whether to copy the values of the fields, too.

        Raises:
            AttributeError: If there is no such field.
        """
        copied = copy.deepcopy(self) if deep else copy.copy(self)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied


# Without these fields a message would be empty. If one of them is missing, its name is probably misspelt.
_REQUIRED = ("choices", "message", "delta")


def _check_names(message: Model, fields: Mapping[Any, Any], place: str, *, forbid: bool) -> None:
    """Check the names of the fields from which a message was made, and those of the messages in it.

    Args:
        message: The message.
        fields: The fields.
        place: Where the message is.
        forbid: Whether to refuse fields without names.

    Raises:
        ValueError: If a field is missing, or refused.
    """
    names = dict(zip(message.__struct_encode_fields__, message.__struct_fields__, strict=True))
    for name in _REQUIRED:
        if name in names and name not in fields:
            raise ValueError(f"{place}: the field {name} is missing")
    for name, value in fields.items():
        if name not in names or name.startswith(_SESSION_PREFIX):
            if forbid:
                raise ValueError(
                    f"{place}: there is no field {name!r}; leave it out, or leave extra='forbid' out"
                )
            continue
        made = getattr(message, names[name])
        where = f"{place}.{name}" if " at " in place else f"{place} at {name}"
        pairs: list[tuple[str, Any, Any]] = [(where, made, value)]
        if isinstance(made, list):
            items = zip(cast("list[Any]", made), value, strict=True)
            pairs = [(f"{where}[{index}]", *pair) for index, pair in enumerate(items)]
        for inner, item, source in pairs:
            if isinstance(item, Model) and isinstance(source, Mapping):
                _check_names(item, cast("Mapping[Any, Any]", source), inner, forbid=forbid)


def build_tables(*types: Any) -> None:
    """Make msgspec build its tables of types. Modules call this function when they are imported.

    msgspec builds the table of a type at the first use of the type, and other threads see the table before it is
    complete. If two threads use a type for the first time at the same moment, the process may crash. During an import,
    the import lock keeps other threads away. A `msgspec.json.Decoder` that is made during the import has the same effect.
    """
    for type_ in types:
        msgspec.json.Decoder(type_)


def _dump(data: dict[str, Any], indent: int | None) -> str:
    encoded = msgspec.json.encode(data, enc_hook=_shown)
    return (encoded if indent is None else msgspec.json.format(encoded, indent=indent)).decode()


def _shown(value: Any) -> Any:
    """Return a JSON form of a value that has none, such as a model of pydantic among the arguments of a tool."""
    kind: type[Any] = value.__class__
    dump = getattr(kind, "model_dump", None)
    return repr(value) if dump is None else dump(value, mode="json")


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


# The selection of `model_dump`

_FORMS = (Mapping, AbstractSet, list, tuple)


def _select(data: Any, include: Any, exclude: Any) -> Any:
    """Return the part of plain data that ``include`` and ``exclude`` leave; None stands for a selection that was not given."""
    if isinstance(data, list):
        items = cast("list[Any]", data)
        fields: dict[Any, Any] = dict(enumerate(items))
        return list(_select_fields(fields, include, exclude, len(items)).values())
    if isinstance(data, dict):
        return _select_fields(cast("dict[Any, Any]", data), include, exclude)
    return data


def _select_fields(fields: dict[Any, Any], include: Any, exclude: Any, size: int = 0) -> dict[Any, Any]:
    """Select fields of an object, or items of a list of this size by their index."""
    selected: dict[Any, Any] = {}
    for name, value in fields.items():
        names = (name, name - size) if size else (name,)
        kept = True if include is None else _selection("include", include, names)
        dropped = None if exclude is None else _selection("exclude", exclude, names)
        if kept is not None and dropped is not True:
            selected[name] = _select(value, None if kept is True else kept, dropped)
    return selected


def _selection(option: str, chosen: Any, names: tuple[Any, ...]) -> Any:
    """Return what is chosen of a field: None for nothing, True for all, or the selection in it.

    Args:
        option: Name of the argument that has the selection.
        chosen: The selection of fields.
        names: The names of the field.
    """
    if not isinstance(chosen, _FORMS):
        raise TypeError(f"{option}: expected a set of names, or a dict, not {type(chosen).__name__}")
    found: Any = None
    for name in ("__all__", *names):
        if name in chosen:
            found = _merge(found, chosen[name] if isinstance(chosen, Mapping) else True)
    return found


def _merge(general: Any, special: Any) -> Any:
    """Combine the selection for all fields with the selection for one field, which counts where they differ."""
    if special is ...:
        return True
    if not (isinstance(general, _FORMS) and isinstance(special, _FORMS)):
        return special
    both = _by_name(general)
    for name, selection in _by_name(special).items():
        both[name] = _merge(both.get(name), selection)
    return both


def _by_name(chosen: Any) -> dict[Any, Any]:
    return {name: chosen[name] if isinstance(chosen, Mapping) else True for name in chosen}
