"""The benchmarks run, measure what they say, and print what they found."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import growth
from benchmarks.data import text_stream, tool_stream
from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.types import ChatCompletion


def assembled(events: list[bytes]) -> ChatCompletion:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    assembler.extend(decoder.feed(b"".join(events)))
    assert decoder.done
    return assembler.completion


def test_data_is_the_same_in_every_run() -> None:
    """Seeded: two runs measure the same bytes."""
    assert text_stream(50, 3) == text_stream(50, 3)
    assert text_stream(50) != text_stream(51)


def test_data_are_streams_of_completions() -> None:
    completion = assembled(text_stream(40, 4))
    assert [0, 1, 2, 3] == [choice.index for choice in completion.choices]
    assert ["stop"] * 4 == [choice.finish_reason for choice in completion.choices]
    (call,) = assembled(tool_stream(3)).choices[0].message.tool_calls or []
    assert '{"text": "ab ab ab "}' == call.function.arguments


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SMALL", 20)
    monkeypatch.setattr(growth, "LARGE", 80)
    monkeypatch.setattr(growth, "CASES", {"decode, text": growth.CASES["decode, text"]})
    uncollected = "no library, logprobs kept, collector off"
    monkeypatch.setattr(growth, "YARDSTICKS", {uncollected: growth.YARDSTICKS[uncollected]})


def test_growth_measures_every_case_at_two_sizes(quick: None) -> None:
    rows = growth.run(2)
    assert [*growth.CASES, *growth.YARDSTICKS] == [row["case"] for row in rows]
    assert all(row["us_at_20"] > 0 and row["us_at_80"] > 0 and row["ratio"] > 0 for row in rows)


def test_results_come_as_a_table_or_as_json(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.main(["growth", "--rounds", "1"]) == 0
    assert "case=decode, text" in capsys.readouterr().out
    assert benchmarks.main(["growth", "--rounds", "1", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"growth"} == {line["benchmark"] for line in lines}


def test_an_unknown_benchmark_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmarks.main(["grwth"])
    assert re.search("no benchmark 'grwth'; there are .*growth", capsys.readouterr().err)
