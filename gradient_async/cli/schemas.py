"""The value of ``--schema``: a file with a JSON schema, or the name of a type."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path
from typing import Any, cast

import msgspec

from ..errors import InvalidRequestError
from ..output import Answer


def answer_of(text: str) -> Answer[Any] | dict[str, Any]:
    """Turn the value of ``--schema`` into a value of ``response_format``.

    Args:
        text: ``module:Type``, for a type in a module of the working directory or of the Python environment; or the path of a
            file with a JSON schema, alone or inside a whole ``response_format``.

    Raises:
        argparse.ArgumentTypeError: If there is no such file or type, or if it has no schema.
    """
    path = Path(text)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text) and not path.exists():
        return _answer_of_type(*text.split(":"))
    try:
        schema = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a file with a JSON schema nor a type such as module:Type ({error.strerror})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise argparse.ArgumentTypeError(f"{text} is JSON, but no schema: a schema is a JSON object")
    return _response_format(cast("dict[str, Any]", schema), path)


def _answer_of_type(module: str, name: str) -> Answer[Any]:
    # Unlike `python -m`, an installed command does not search for modules in the working directory.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # noqa: BLE001  # the module is the user's, and may raise anything
        raise argparse.ArgumentTypeError(
            f"{module}:{name} can't be imported: {type(error).__name__}: {error}"
        ) from None
    if isinstance(found, Answer):
        return cast("Answer[Any]", found)
    try:
        return Answer(found)
    except InvalidRequestError as error:
        raise argparse.ArgumentTypeError(f"{module}:{name} can't be an answer: {error}") from None


def _response_format(schema: dict[str, Any], path: Path) -> dict[str, Any]:
    if isinstance(schema.get("json_schema"), dict) or schema.get("type") == "json_object":
        return schema
    if isinstance(schema.get("schema"), dict) and isinstance(schema.get("name"), str):
        return {"type": "json_schema", "json_schema": schema}
    name = re.sub("[^A-Za-z0-9_-]+", "_", path.stem).strip("_")[:64] or "answer"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
