"""Makes values that fit a JSON schema from the words of a prompt, and chooses the tools to call with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

_MAX_DEPTH = 12
"""Levels of nesting to follow; a schema may refer to itself."""

_MAX_CALLS = 4
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


# A schema comes from a client, so its keywords may have values of any type. A value of the wrong type counts as absent.
def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()


def _integer(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def fill_schema(schema: object, prompt: str) -> Any:
    """Make a value that fits a schema: the same value for the same schema and prompt.

    Strings name the subject of the prompt, or the member of an enum that the prompt mentions; a number is
    taken from the prompt if the prompt has one in range. Unknown keywords of the schema are ignored.
    """
    return _Filler(_mapping(schema), prompt).fill(_mapping(schema), 0)


class _Filler:
    """Fills the parts of one schema; references start from its root."""

    def __init__(self, root: Mapping[str, Any], prompt: str) -> None:
        self._root = root
        self._prompt = prompt

    def fill(self, schema: Mapping[str, Any], depth: int) -> Any:
        if depth > _MAX_DEPTH:
            return None
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        if "$ref" in schema:
            return self.fill(self._resolve(str(schema["$ref"])), depth + 1)
        if options := _list(schema.get("enum")):
            mentioned = [option for option in options if str(option).lower() in self._prompt.lower()]
            return (mentioned or options)[0]
        for name in ("anyOf", "oneOf", "allOf"):
            if options := [_mapping(option) for option in _list(schema.get(name))]:
                others = [option for option in options if option.get("type") != "null"]
                return self.fill((others or options)[0], depth + 1)
        match _type_of(schema):
            case "object":
                properties = _mapping(schema.get("properties"))
                names = _list(schema.get("required")) if "required" in schema else tuple(properties)
                return {str(name): self.fill(_mapping(properties.get(name)), depth + 1) for name in names}
            case "array":
                item = self.fill(_mapping(schema.get("items")), depth + 1)
                return [item] * max(1, _integer(schema.get("minItems"), 1))
            case "integer" | "number" as kind:
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self._string(schema)

    def _resolve(self, reference: str) -> Mapping[str, Any]:
        found = self._root
        for step in filter(None, reference.removeprefix("#").split("/")):
            found = _mapping(found.get(step))
        return found

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low: float = schema.get("minimum", schema.get("exclusiveMinimum", float("-inf")))
        high: float = schema.get("maximum", schema.get("exclusiveMaximum", float("inf")))
        for text in re.findall(r"(?<![\w.])-?\d{1,12}(?:\.\d{1,6})?(?![\w])", self._prompt):
            number = float(text)
            if low <= number <= high and not (whole and number % 1):
                return int(number) if number % 1 == 0 else number
        smallest = max(low, min(1, high))
        return smallest + 1 if smallest == schema.get("exclusiveMinimum") else smallest

    def _string(self, schema: Mapping[str, Any]) -> str:
        text = _FORMATS.get(str(schema.get("format")), subject(self._prompt))
        text = text.ljust(_integer(schema.get("minLength"), 0), ".")
        return text[: _integer(schema.get("maxLength"), len(text))]


def _type_of(schema: Mapping[str, Any]) -> str:
    declared = cast("object", schema.get("type"))
    if isinstance(declared, str):
        return declared
    if names := _list(declared):
        return next((str(name) for name in names if name != "null"), "null")
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def subject(prompt: str) -> str:
    """Return the subject of a prompt: its last run of capitalised words after the first word, else its last word."""
    words: list[str] = re.findall(r"[\w'-]+", prompt)
    names: list[str] = re.findall(r"(?<=[^.?!\s]\s)[^\W\d_a-z][\w'-]*(?: [^\W\d_a-z][\w'-]*)*", prompt)
    return [*(words or ["nothing"]), *names][-1]


def choose_calls(
    tools: Sequence[Mapping[str, Any]], prompt: str, *, named: str | None, parallel: bool
) -> list[tuple[str, Any]]:
    """Choose which of the tools to call; return names and arguments.

    The words of the prompt decide, unless only the tool ``named`` may be called. If several calls are allowed,
    each part of the prompt between "and"s becomes a call.
    """
    functions = [_mapping(tool.get("function")) for tool in tools]
    if named is not None:
        functions = [function for function in functions if function.get("name") == named]
    overall = max(functions, key=lambda function: _score(function, prompt))
    calls: list[tuple[str, Any]] = []
    for part in re.split(r"\s+and\s+", prompt)[:_MAX_CALLS] if parallel else [prompt]:
        best = max(functions, key=lambda function: _score(function, part))
        # In "The weather in Paris and Berlin?" the part "Berlin" suits no tool, so it goes to the whole prompt's tool.
        function = best if _score(best, part) else overall
        schema = {"type": "object", **_mapping(function.get("parameters"))}
        calls.append((str(function["name"]), fill_schema(schema, part)))
    return calls


def _score(function: Mapping[str, Any], text: str) -> int:
    """Count the words that a text shares with a tool's name, which count three times, and its description."""
    words = set(re.findall(r"[a-z0-9]{3,}", text.lower()))
    name = set(re.findall(r"[a-z0-9]{3,}", str(function.get("name")).lower()))
    about = set(re.findall(r"[a-z0-9]{4,}", str(function.get("description")).lower()))
    return 3 * len(words & name) + len(words & about)
