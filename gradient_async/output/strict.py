"""The subset of JSON Schema that servers can enforce, which OpenAI calls strict."""

from __future__ import annotations

from typing import Any, cast

from ..decoding.normalize import is_object

REF = "#/$defs/"
_KEPT = frozenset((
    "type", "enum", "description", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minItems", "maxItems",
))  # fmt: skip
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
_CANNOT = {
    "prefixItems": "an array with a type for each item, such as a tuple",
    **{
        word: f"the keyword {word}"
        for word in (
            "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties",
            "propertyNames", "unevaluatedProperties", "unevaluatedItems", "contains",
        )
    },
}  # fmt: skip
_MAX_LEVELS = 10
_MAX_PROPERTIES = 5000


class NoSchemaError(Exception):
    """A type has no JSON schema, or no strict schema. Users never see this error: `Answer` and `Tool` raise their own.

    Attributes:
        path: Path of the fault in the type, such as ``$.lines[...].price``.
        problem: A description of the fault, and what helps.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


def strict_form(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema in the form that servers can enforce.

    All properties are required, and no others allowed. Keywords that servers do not enforce are left out: the answer is
    checked against the type when it is decoded.

    Raises:
        NoSchemaError: If there is no such form.
    """
    return _StrictForm(schema).schema


class _StrictForm:
    """Makes the strict form of one schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._definitions: dict[str, Any] = schema.get("$defs", {})
        self._made: dict[str, Any] = {}
        self._levels: dict[str, int] = {}
        self._properties = 0
        self.schema = self._form(schema, "$")
        if self._made:
            self.schema["$defs"] = {name: self._made[name] for name in self._definitions}
        if self._properties > _MAX_PROPERTIES:
            raise NoSchemaError("$", f"more than {_MAX_PROPERTIES} properties")
        if self._levels_of(schema) > _MAX_LEVELS:
            raise NoSchemaError("$", f"objects nested deeper than {_MAX_LEVELS} levels")

    def _form(self, schema: Any, path: str) -> dict[str, Any]:
        if not is_object(schema):  # the schema True, which allows any value
            schema = dict[str, Any]()
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(REF)
            if name not in self._made:
                self._made[name] = None  # recursion ends here
                self._made[name] = self._form(self._definitions[name], path)
            return {key: schema[key] for key in ("$ref", "description") if key in schema}
        for word, problem in _CANNOT.items():
            if word in schema:
                raise NoSchemaError(path, problem)
        form: dict[str, Any] = {}
        for word, value in schema.items():
            if word in _KEPT or (word == "format" and value in _FORMATS):
                form[word] = value
            elif word == "properties":
                self._properties += len(value)
                form[word] = {name: self._form(item, f"{path}.{name}") for name, item in value.items()}
            elif word in {"anyOf", "oneOf"}:
                form["anyOf"] = [self._form(item, path) for item in value]
            elif word == "const":
                form["enum"] = [value]
            elif word == "items":
                form[word] = self._form(value, f"{path}[...]")
        kinds = form.get("type", ())
        if "properties" in form:
            form["required"] = list(form["properties"])
            form["additionalProperties"] = False
        if ("object" in kinds and "properties" not in form) or schema.get("additionalProperties"):
            raise NoSchemaError(path, "an object with any keys, such as a dict; list the keys in a Struct")
        if "array" in kinds and "items" not in form:
            raise NoSchemaError(f"{path}[...]", "a value of any type")
        if "enum" in form and not kinds:
            # Some servers refuse a schema without a type.
            types: set[type] = {type(value) for value in form["enum"]}
            if len(types) == 1 and (kind := _JSON_TYPES.get(types.pop())):
                form = {"type": kind, **form}
        if form.keys().isdisjoint({"type", "enum", "anyOf"}):
            raise NoSchemaError(path, "a value of any type")
        return form

    def _levels_of(self, schema: Any) -> int:
        """Return how many objects of a schema are inside each other; recursion counts once."""
        if isinstance(schema, list):
            return max(map(self._levels_of, cast("list[Any]", schema)), default=0)
        if not is_object(schema):
            return 0
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(REF)
            if name not in self._levels:
                self._levels[name] = 0
                self._levels[name] = self._levels_of(self._definitions[name])
            return self._levels[name]
        properties: dict[str, Any] = schema.get("properties", {})
        inside = [*properties.values(), *(schema.get(word) for word in ("items", "anyOf", "oneOf"))]
        return self._levels_of(inside) + ("properties" in schema)


_JSON_TYPES = {str: "string", int: "integer", bool: "boolean", type(None): "null"}


def references(value: Any) -> set[str]:
    """Return the references in a schema."""
    if isinstance(value, list):
        return set[str]().union(*map(references, cast("list[Any]", value)))
    if not is_object(value):
        return set()
    found = references(list(value.values()))
    return found | {value["$ref"]} if isinstance(value.get("$ref"), str) else found
