"""The value of ``--schema``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gradient_async import Answer
from gradient_async.cli.schemas import answer_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
MODULE = """
from dataclasses import dataclass

from gradient_async import Answer

@dataclass
class Invoice:
    total: float

class Page:
    class Line:
        pass
    ROW = list[Invoice]

ANSWER = Answer(Invoice, name="bill")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module of types in it."""
    (tmp_path / "schema_types.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "schema_types", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("schema_types:Invoice", "Invoice"),
        ("schema_types:Page.ROW", "list_Invoice"),
        ("schema_types:ANSWER", "bill"),
    ],
)
def test_a_type_in_a_module_of_the_working_directory(folder: Path, text: str, name: str) -> None:
    del folder
    for _ in range(2):
        answer = answer_of(text)
        assert isinstance(answer, Answer)
        assert name == answer.name


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (SCHEMA, {"type": "json_schema", "json_schema": {"name": "my_bill", "schema": SCHEMA}}),
        (
            {"name": "a", "strict": True, "schema": SCHEMA},
            {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}},
        ),
        *[
            (whole, whole)
            for whole in (
                {"type": "json_object"},
                {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
            )
        ],
    ],
)
def test_a_file_with_a_schema_alone_or_in_what_the_api_takes(
    tmp_path: Path, content: Any, expected: Any
) -> None:
    path = tmp_path / "my bill!.json"
    path.write_text(json.dumps(content))
    assert expected == answer_of(str(path))


def test_a_name_with_no_usable_character(tmp_path: Path) -> None:
    path = tmp_path / "über.json"
    path.write_text("{}")
    assert answer_of(str(path)) == {"type": "json_schema", "json_schema": {"name": "ber", "schema": {}}}
    path = path.rename(tmp_path / "表.json")
    assert answer_of(str(path)) == {"type": "json_schema", "json_schema": {"name": "answer", "schema": {}}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "nowhere.json",
            "'nowhere.json' is neither a file with a JSON schema nor a type such as module:Type",
        ),
        (".", "'.' is neither a file with"),
        ("text.json", "text.json is not JSON: "),
        ("list.json", "list.json is JSON, but no schema"),
        (
            "no_such_module:Type",
            "no_such_module:Type can't be imported: ModuleNotFoundError: No module named",
        ),
        ("schema_types:Nothing", "can't be imported: AttributeError: "),
        ("bad_types:Type", "bad_types:Type can't be imported: ZeroDivisionError: "),
        ("schema_types:Page.Line", "schema_types:Page.Line can't be an answer: "),
    ],
)
def test_what_is_neither_is_refused_with_the_reason(folder: Path, text: str, problem: str) -> None:
    (folder / "text.json").write_text("Invoice")
    (folder / "list.json").write_text("[]")
    (folder / "bad_types.py").write_text("1 / 0")
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        answer_of(text)
    assert problem in str(caught.value)
