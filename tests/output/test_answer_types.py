"""Answers of all kinds of types: their schemas agree with their values, and follow the rules of the strict subset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from answer_types import TYPES

from gradient_async import Answer, InvalidRequestError
from gradient_async.types.nesting import is_deeper

LEFT_OUT = {
    "default", "title", "examples", "discriminator", "minLength", "maxLength", "uniqueItems", "contentEncoding",
    "minProperties", "maxProperties", "oneOf", "const", "allOf", "not", "if", "prefixItems", "propertyNames",
    "patternProperties",
}  # fmt: skip
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}


def schemas_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    yield schema
    inside = [
        *schema.get("properties", {}).values(),
        *schema.get("$defs", {}).values(),
        *schema.get("anyOf", []),
    ]
    if isinstance(schema.get("items"), dict):
        inside.append(schema["items"])
    for each in inside:
        yield from schemas_in(each)


def check_strict(root: dict[str, Any]) -> None:
    """Check each rule of the strict subset."""
    assert "object" == root["type"]
    assert not is_deeper(root)
    for schema in schemas_in(root):
        assert set() == LEFT_OUT & schema.keys()
        assert schema.get("format", "date") in FORMATS
        if "$ref" in schema:
            assert schema.keys() <= {"$ref", "description"}
            assert schema["$ref"].removeprefix("#/$defs/") in root["$defs"]
            continue
        assert {"type", "enum", "anyOf"} & schema.keys()
        if schema.get("type") == "object":
            assert list(schema["properties"]) == schema["required"]
            assert schema["additionalProperties"] is False
        if schema.get("type") == "array":
            assert "items" in schema


def check(type_: Any, value: Any, encoded: bytes) -> None:
    """Check both forms of the schema of a type, and that the value is read."""
    answer = Answer(type_)
    plain = msgspec.json.decode(encoded)
    sent = (
        {"value": plain}
        if Answer(type_, strict=False).schema.get("properties", {}).keys() == {"value"}
        else plain
    )
    assert value == answer.decode(json.dumps(sent))
    jsonschema = pytest.importorskip("jsonschema")
    for strict in (False, None):
        schema = Answer(type_, strict=strict).schema
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(sent, schema, cls=jsonschema.Draft202012Validator)
        definitions = {f"#/$defs/{name}" for name in schema.get("$defs", {})}
        referred = {each["$ref"] for each in schemas_in(schema) if "$ref" in each}
        assert referred <= definitions
    if answer.strict:
        check_strict(answer.schema)
        assert answer.schema == Answer(type_, strict=True).schema
    else:
        with pytest.raises(InvalidRequestError, match="strict=True cannot hold at") as refused:
            Answer(type_, strict=True)
        assert "response_format" == refused.value.param


def test_enough_types() -> None:
    assert len(TYPES) >= 40


@pytest.mark.parametrize(("type_", "value"), TYPES, ids=[str(type_) for type_, _ in TYPES])
def test_schema_and_value_agree(type_: Any, value: Any) -> None:
    """The encoded value fits both forms of the schema, and is read again."""
    check(type_, value, msgspec.json.encode(value))
