"""``gradient-async models``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from terminal import Terminal

from gradient_async.cli import main
from gradient_async.cli.models import _day
from gradient_async.testing import ThreadedServer, reply_json, serve

MODELS: list[dict[str, Any]] = [
    {"id": "llama3.3-70b-instruct", "object": "model", "created": 1_736_294_400, "owned_by": "meta"},
    {"id": "evil\x9b\n\u202e", "object": "model", "created": 10**30, "owned_by": "a\tb"},
    {"id": "plain", "object": "model"},
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    """A server with three models."""
    with serve(reply_json({"object": "list", "data": MODELS}), repeat=True) as running:
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", running.url)
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "k-0123456789")
        monkeypatch.delenv("GRADIENT_BASE_URL", raising=False)
        yield running


@pytest.mark.usefixtures("server")
def test_in_a_pipe_one_name_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["models"])
    assert ["llama3.3-70b-instruct", "evil\\x9b\\n\\u202e", "plain"] == capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("server")
def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["models", "--json"])
    lines = capsys.readouterr().out.split("\n")
    assert [model["id"] for model in MODELS] == [json.loads(line)["id"] for line in lines[:-1]]
    assert MODELS[0] == json.loads(lines[0])


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("columns", "titles"),
    [(20, "model"), (30, "model                  owner"), (80, "model                  owner  since")],
)
def test_in_a_terminal_a_table_of_the_columns_that_fit(columns: int, titles: str) -> None:
    with Terminal("models", columns=columns) as terminal:
        assert 0 == terminal.end()
        lines = terminal.shown.splitlines()
    assert titles == lines[0]
    assert any(line.startswith("llama3.3-70b-instruct"[:columns]) for line in lines)
    assert ("2025-01-08" in terminal.shown) is ("since" in titles)
    assert ("meta" in terminal.shown) is ("owner" in titles)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "AuthenticationError: "),
        (
            ["--base-url", "ftp://x"],
            "ConfigurationError: the server (--base-url, GRADIENT_BASE_URL) can't be used",
        ),
    ],
)
def test_what_goes_wrong(
    server: ThreadedServer, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with serve(keys="another") as refuses, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIENT_INFERENCE_ENDPOINT", refuses.url)
        assert 1 == main(["models", *arguments])
    printed = capsys.readouterr()
    assert "" == printed.out
    assert printed.err.startswith(f"gradient-async: {message}")
    assert not server.requests


@pytest.mark.parametrize(
    ("created", "day"), [(1_736_294_400, "2025-01-08"), (0, ""), (10**30, ""), (-(10**12), "")]
)
def test_days(created: int, day: str) -> None:
    """A number that is no time of the calendar has none."""
    assert day == _day(created)


def test_a_simulated_server_has_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["models", "--local"])
    assert "simulated" in capsys.readouterr().out.splitlines()
