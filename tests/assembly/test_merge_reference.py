"""Random streams of fragments merge as the reference merges them; `merge_check.py` plays more of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import merge_check
import pytest
from merge_check import Report, check, smallest
from merge_reference import merge
from merge_streams import SERVERS, Stream, make_stream

from gradient_async.assembly import CompletionAssembler

STREAMS = 4000


def entry(
    index: int | None = None, name: str = "", arguments: Any = None, call_id: str = ""
) -> dict[str, Any]:
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


@pytest.fixture(scope="module")
def report() -> Report:
    return Report.run(STREAMS)


def test_the_library_merges_as_the_reference_does(report: Report) -> None:
    assert not report.kinds, "\n".join([f"differences: {report.kinds}", *report.shown])


def test_every_server_is_played(report: Report) -> None:
    """An open point decides few of the streams."""
    for name in [*SERVERS, "chance", "fragments"]:
        assert report.made[name] > STREAMS / 100
        assert report.played[name] > report.made[name] / 2, name
    assert report.played.total() == STREAMS
    assert report.made.total() < 1.25 * STREAMS


def test_a_seed_makes_the_same_stream_each_time() -> None:
    assert [make_stream(seed) for seed in range(50)] == [make_stream(seed) for seed in range(50)]
    assert make_stream(1) != make_stream(2)


def test_a_difference_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that reads `less` for `more` is found out, and shown with one event."""
    right = merge_check.play

    def misreading(stream: Stream) -> CompletionAssembler:
        events = json.loads(json.dumps(stream.events).replace("more", "less"))
        return right(replace(stream, events=events))

    streams = [stream for stream in map(make_stream, range(200)) if "more" in str(stream.events)]
    stream = next(s for s in streams if len(s.events) > 5 and not check(s, merge(s.events, done=s.done)))
    monkeypatch.setattr(merge_check, "play", misreading)
    assert [{"choices": [{"delta": {"content": "more"}}]}] == smallest(stream, "content").events


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param(
            [entry(0, "a", {"x": 1}), entry(0, "b", {"y": 2})],
            [("a", '{"x":1}'), ("b", '{"y":2}')],
            id="all at zero",
        ),
        pytest.param(
            [entry(0, "a", '{"x":1}', "c"), entry(0, "a", '{"y":', "c"), entry(0, "", "2}", "c")],
            [("a", '{"x":1}'), ("a", '{"y":2}')],
            id="of one name and id",
        ),
        pytest.param(
            [entry(0, "a", '{"x":1}'), entry(0, "a", '{ "x": 1 }'), entry(0, "", " "), entry(0, "a")],
            [("a", '{"x":1}')],
            id="restated",
        ),
        pytest.param(
            [entry(0, "a", '{"x":1}', "c"), entry(0, "a", '{"x":1}', "d")],
            [("a", '{"x":1}')] * 2,
            id="alike, but of another id",
        ),
        pytest.param(
            [entry(0, "a", '{"x":1}'), entry(0, "b", "{}"), entry(0, "a", '{"x":1}')],
            [("a", '{"x":1}'), ("b", "{}")],
            id="alike",
        ),
        pytest.param(
            [
                entry(0, "get_"),
                entry(0, "weather", '{"x":'),
                entry(0, "get", "1}"),
                entry(0, "get_weather_now"),
            ],
            [("get_weather_now", '{"x":1}')],
            id="names",
        ),
        pytest.param([entry(0, "a"), entry(0, "a")], [("a", "")], id="name restated before arguments"),
        pytest.param(
            [entry(0, "a", {}), entry(0, "", '{"x":'), entry(0, "", "1}")],
            [("a", '{"x":1}')],
            id="placeholder",
        ),
        pytest.param(
            [
                entry(None, "a", "1", "c"),
                entry(None, "b", "1", "d"),
                entry(None, "", "2", "c"),
                entry(None, "", "3"),
            ],
            [("a", "12"), ("b", "13")],
            id="without index",
        ),
        pytest.param(
            [entry(2, "c"), entry(1, "b"), entry(1, "", "1"), entry(None, "", "2"), entry(2, "", "3")],
            [("b", "12"), ("c", "3")],
            id="ordered by index",
        ),
        pytest.param(
            [entry(0, "a", "1", "c"), entry(0, "", "2", "d")],
            [("a", "1"), ("", "2")],
            id="new id behind a whole value",
        ),
        pytest.param(
            [entry(0, "a", "{", "c"), entry(0, "", "}", "d")],
            [("a", "{}")],
            id="new id in unfinished arguments",
        ),
    ],
)
def test_the_reference_itself(entries: list[dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    """The rule's own examples, worked out by hand."""
    events = [{"choices": [{"delta": {"tool_calls": [each]}}]} for each in entries]
    one_chunk = [{"choices": [{"delta": {"tool_calls": entries}}]}]
    for stream in (events, one_chunk):
        calls = merge(stream, done=True).choices[0].calls
        assert expected == [(call.name, call.arguments) for call in calls]
