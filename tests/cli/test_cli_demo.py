"""``gradient-async demo``."""

from __future__ import annotations

import asyncio

import pytest

from gradient_async import AsyncGradient
from gradient_async.cli import main
from gradient_async.cli.demo import _await_one, _parse, _run
from gradient_async.testing import chunk, completion, reply_json, reply_sse, serve


@pytest.mark.parametrize("terminal", [False, True])
def test_the_demo_shows_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    def on_terminal(stream: object) -> bool:
        return terminal

    monkeypatch.setattr("gradient_async.cli.demo.on_terminal", on_terminal)
    if terminal:
        monkeypatch.setattr("gradient_async.cli.demo._TERMINAL_DELAY", 0.0)
    assert main(["demo"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "create(...)",
        "tokens, 1 request",
        "get_weather",
        "-> 18 degrees in Tokyo",
        "[2 requests, ",
        "Forecast(city='",
        "%]",
        "-- choice 2",
        "first token after",
    ):
        assert part in printed
    assert "2 stopped" in printed
    assert "40 completions" in printed
    assert ("\033[1m" in printed) == terminal


def test_the_demo_survives_a_server_that_tells_little(capsys: pytest.CaptureFixture[str]) -> None:
    async def bare() -> None:
        silent = reply_sse(chunk(finish_reason="stop"))
        refusal = reply_json(completion(None, refusal="no", usage=None))
        async with (
            serve(reply_json(completion(None, usage=None)), silent, refusal) as running,
            AsyncGradient(inference_endpoint=running.url, model_access_key="k") as client,
        ):
            await _await_one(client)
            await _run(client)
            await _parse(client)

    asyncio.run(bare())
    printed = capsys.readouterr().out
    assert "[stop, 0 tokens" in printed and "[1 requests, 0 tokens]" in printed and "  None" in printed
