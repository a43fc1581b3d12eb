"""Values that fit a JSON schema, made from the words of a prompt; and the calls of tools that take them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .payloads import dump
from .tokens import Piece, digest

__all__ = ["Call", "call_pieces", "choose_calls", "fitting"]

_DEEPEST = 12
"""Levels of nesting to follow; a schema may refer to itself."""

_MOST_CALLS = 4
_ARGUMENT_PIECE = 6
"""Characters of one delta of arguments."""

_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _listing(value: object) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()


def fitting(schema: object, prompt: str) -> Any:
    """Make a value that fits a schema.

    Strings name what the prompt is about, or the member of an enum that the prompt mentions; numbers are
    taken from the prompt where it has one in range.

    Args:
        schema: A JSON schema; what is not understood of it is passed over.
        prompt: Where the words come from.

    Returns:
        The value: the same for the same schema and prompt.
    """
    return _fit(_mapping(schema), _mapping(schema), prompt, 0)


def _fit(schema: Mapping[str, Any], root: Mapping[str, Any], prompt: str, depth: int) -> Any:
    if depth > _DEEPEST:
        return None
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "$ref" in schema:
        return _fit(_resolve(str(schema["$ref"]), root), root, prompt, depth + 1)
    if options := _listing(schema.get("enum")):
        said = [option for option in options if str(option).lower() in prompt.lower()]
        return (said or options)[0]
    for name in ("anyOf", "oneOf", "allOf"):
        if options := [_mapping(option) for option in _listing(schema.get(name))]:
            real = [option for option in options if option.get("type") != "null"]
            return _fit((real or options)[0], root, prompt, depth + 1)
    return _of_type(_kind(schema), schema, root, prompt, depth)


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if kinds := _listing(kind):
        kind = next((name for name in kinds if name != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], prompt: str, depth: int) -> Any:
    match kind:
        case "object":
            properties = _mapping(schema.get("properties"))
            wanted = _listing(schema.get("required")) if "required" in schema else tuple(properties)
            return {
                str(name): _fit(_mapping(properties.get(name)), root, prompt, depth + 1) for name in wanted
            }
        case "array":
            item = _fit(_mapping(schema.get("items")), root, prompt, depth + 1)
            return [item] * max(1, _integer(schema.get("minItems"), 1))
        case "integer" | "number":
            return _number(schema, prompt, whole=kind == "integer")
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return _string(schema, prompt)


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            found = _mapping(found.get(step))
    return found


def _integer(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def _number(schema: Mapping[str, Any], prompt: str, *, whole: bool) -> float:
    low: float = schema.get("minimum", schema.get("exclusiveMinimum", float("-inf")))
    high: float = schema.get("maximum", schema.get("exclusiveMaximum", float("inf")))
    for text in re.findall(r"(?<![\w.])-?\d{1,12}(?:\.\d{1,6})?(?![\w])", prompt):
        number = float(text)
        if low <= number <= high and not (whole and number % 1):
            return int(number) if number % 1 == 0 else number
    smallest = max(low, min(1, high))
    return smallest + 1 if smallest == schema.get("exclusiveMinimum") else smallest


def _string(schema: Mapping[str, Any], prompt: str) -> str:
    text = _FORMATS.get(str(schema.get("format")), subject(prompt))
    text = text.ljust(_integer(schema.get("minLength"), 0), ".")
    return text[: _integer(schema.get("maxLength"), len(text))]


def subject(prompt: str) -> str:
    """Name what a prompt is about: its last run of capitalised words past the first word, else its last word."""
    words = re.findall(r"[\w'-]+", prompt)
    names = re.findall(r"(?<=[^.?!\s]\s)[^\W\d_a-z][\w'-]*(?: [^\W\d_a-z][\w'-]*)*", prompt)
    return names[-1] if names else words[-1] if words else "nothing"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: str
    id: str


def choose_calls(
    tools: Sequence[Mapping[str, Any]], prompt: str, *, named: str | None, parallel: bool, choice: int = 0
) -> list[Call]:
    """Decide which tools to call, and how.

    Args:
        tools: Definitions as in the request, at least one.
        prompt: What the user wrote. Parts joined by "and" become a call each.
        named: The only tool to call, by name; None leaves the choice to the words of the prompt.
        parallel: Whether there may be several calls.
        choice: Index of the choice; the ids differ between choices.
    """
    functions = [_mapping(tool.get("function")) for tool in tools]
    if named is not None:
        functions = [function for function in functions if function.get("name") == named]
    parts = re.split(r"\s+and\s+", prompt)[:_MOST_CALLS] if parallel else [prompt]
    # "Paris and Berlin?": a part without a word of a tool's own goes to the tool of the whole prompt.
    overall = max(functions, key=lambda function: _score(function, prompt))
    calls: list[Call] = []
    for number, part in enumerate(parts):
        best = max(functions, key=lambda function: _score(function, part))
        function = best if _score(best, part) else overall
        arguments = dump(fitting(function.get("parameters", {"type": "object"}), part)).decode()
        name = str(function["name"])
        calls.append(Call(name, arguments, f"call_{digest(prompt, number, name, choice):012x}"))
    return calls


def _score(function: Mapping[str, Any], text: str) -> int:
    said = set(re.findall(r"[a-z0-9]{3,}", text.lower()))
    name = set(re.findall(r"[a-z0-9]{3,}", str(function.get("name")).lower()))
    about = set(re.findall(r"[a-z0-9]{4,}", str(function.get("description")).lower()))
    return 3 * len(said & name) + len(said & about)


def call_pieces(calls: Sequence[Call]) -> list[Piece]:
    """Cut calls into deltas: first id and name, then the arguments in several pieces."""
    pieces: list[Piece] = []
    for index, call in enumerate(calls):
        start = {"name": call.name, "arguments": ""}
        pieces.append(_call_piece({"index": index, "id": call.id, "type": "function", "function": start}))
        for at in range(0, len(call.arguments), _ARGUMENT_PIECE):
            part = {"arguments": call.arguments[at : at + _ARGUMENT_PIECE]}
            pieces.append(_call_piece({"index": index, "function": part}))
    return pieces


def _call_piece(entry: dict[str, Any]) -> Piece:
    return Piece({"tool_calls": [entry]})
