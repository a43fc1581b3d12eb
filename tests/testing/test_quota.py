"""Quotas: buckets as functions of clock readings, and a server that holds them."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from peer import USER, Answer, ask, connect, request_bytes

from gradient_async.testing import Quota, Server, reply_json, serve
from gradient_async.testing.quota import Bucket, Meter

WALL = 1_800_000_000.25


def limits(answer: Answer) -> dict[str, str]:
    """Return what a reply tells about limits, without the beginning of the names."""
    return {
        name.removeprefix("x-ratelimit-"): value
        for name, value in answer.headers.items()
        if "ratelimit" in name or "retry" in name
    }


async def complete(server: Server, key: str = "k", **params: Any) -> Answer:
    body = {"model": "m", "messages": USER, **params}
    return await ask(server, body=body, authorization=f"Bearer {key}")


class TestQuota:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "needs requests and per_second, or tokens and tokens_per_second"),
            ({"requests": 1}, "requests and per_second are one bucket"),
            (
                {"requests": 1, "per_second": 1, "tokens_per_second": 1},
                "tokens and tokens_per_second are one",
            ),
            ({"requests": 0, "per_second": 1}, "requests=0: a bucket holds at least 1"),
            ({"tokens": 1, "tokens_per_second": 0}, "tokens_per_second=0: a bucket refills"),
            ({"requests": 1, "per_second": math.nan}, "per_second=nan"),
            ({"requests": 1, "per_second": math.inf}, "per_second=inf"),
            (
                {"requests": 1, "per_second": 1, "status": 500},
                "status=500: a quota refuses with 429, 503 or 529",
            ),
            ({"requests": 1, "per_second": 1, "wait": "never"}, "'reset', 'retry-after', 'unknown'"),
        ],
    )
    def test_bad_quota(self, options: dict[str, Any], message: str) -> None:
        """A quota that no server can hold raises an error that says why."""
        with pytest.raises(ValueError, match=re.escape(message)):
            Quota(**options)

    def test_quota_is_a_value(self) -> None:
        """Quotas are compared by value, and cannot be changed."""
        quota = Quota(requests=30, per_second=8)
        assert Quota(requests=30, per_second=8.0) == quota
        assert msgspec.structs.replace(quota, status=529) != quota
        with pytest.raises(AttributeError):
            quota.requests = 5  # type: ignore[misc]  # that is the point


class TestBucket:
    def test_refills_all_the_time(self) -> None:
        """A bucket is full at first, refills at its rate, and holds no more than its size."""
        bucket = Bucket(30, 8)
        assert 30 == bucket.level(100)
        bucket.take(30, 100)
        assert [0, 4, 8, 30] == [bucket.level(now) for now in (100, 100.5, 101, 200)]

    def test_wait(self) -> None:
        """The wait is the time until the amount is there."""
        bucket = Bucket(30, 8)
        bucket.take(29.5, 100)
        assert [0, 0.0625, 0.3125] == [bucket.wait(amount, 100) for amount in (0.5, 1, 3)]
        assert 0 == bucket.wait(1, 100.0625)

    def test_more_than_it_holds(self) -> None:
        """An amount above the size needs a full bucket, and leaves a debt."""
        bucket = Bucket(10, 2)
        bucket.take(1, 100)
        assert 0.5 == bucket.wait(25, 100)
        bucket.take(25, 100.5)
        assert -15 == bucket.level(100.5)
        assert 8 == bucket.wait(1, 100.5)

    def test_rounding_errors_do_not_refuse(self) -> None:
        """Who waits as long as asked is let through, although sums of fractions are not exact."""
        bucket = Bucket(1, 0.3)
        now = 1e6 + 0.1
        for _ in range(1000):
            bucket.take(1, now)
            wait = bucket.wait(1, now)
            assert 1 / 0.3 == pytest.approx(wait)
            now += wait
            assert 0 == bucket.wait(1, now)


class TestMeter:
    def test_requests(self) -> None:
        """`remaining` is the level after the request; a success has the reset 0, a refusal the time of the next."""
        meter = Meter(Quota(requests=2, per_second=0.5))
        told = [meter.admit(100, now=now, wall=WALL + now) for now in (0, 0, 0, 1.5, 2, 4)]
        assert [True, True, False, False, True, True] == [admitted for admitted, _ in told]
        assert {"2"} == {headers["x-ratelimit-limit-requests"] for _, headers in told}
        assert ["1", "0", "0", "0", "0", "0"] == [
            headers["x-ratelimit-remaining-requests"] for _, headers in told
        ]
        again = str(math.ceil(WALL + 2))
        assert ["0", "0", again, again, "0", "0"] == [
            headers["x-ratelimit-reset-requests"] for _, headers in told
        ]
        assert {3} == {len(headers) for _, headers in told}

    def test_tokens(self) -> None:
        """Tokens are a bucket of their own."""
        meter = Meter(Quota(tokens=100, tokens_per_second=10))
        assert (
            True,
            {
                "x-ratelimit-limit-tokens-per-minute": "100",
                "x-ratelimit-remaining-tokens-per-minute": "40",
                "x-ratelimit-reset-tokens-per-minute": "0",
            },
        ) == meter.admit(60, now=0, wall=WALL)
        admitted, headers = meter.admit(60, now=0, wall=WALL)
        assert (False, str(math.ceil(WALL + 2))) == (admitted, headers["x-ratelimit-reset-tokens-per-minute"])
        assert meter.admit(0, now=0, wall=WALL)[0]
        assert meter.admit(60, now=2, wall=WALL)[0]

    def test_a_refusal_takes_nothing(self) -> None:
        """If one bucket refuses, the other is left as it is, and has the reset 0."""
        meter = Meter(Quota(requests=2, per_second=1, tokens=100, tokens_per_second=10))
        assert meter.admit(90, now=0, wall=WALL)[0]
        for _ in range(5):
            admitted, headers = meter.admit(90, now=0, wall=WALL)
            assert not admitted
            assert ("1", "0") == (
                headers["x-ratelimit-remaining-requests"],
                headers["x-ratelimit-reset-requests"],
            )
            assert "10" == headers["x-ratelimit-remaining-tokens-per-minute"]
        assert meter.admit(10, now=0, wall=WALL)[0]

    def test_debt_is_told_as_zero(self) -> None:
        """`remaining` is never negative."""
        meter = Meter(Quota(tokens=100, tokens_per_second=10))
        admitted, headers = meter.admit(250, now=0, wall=WALL)
        assert (True, "0") == (admitted, headers["x-ratelimit-remaining-tokens-per-minute"])

    def test_retry_after(self) -> None:
        """A wait by Retry-After is the longest of all buckets; resets are 0."""
        meter = Meter(Quota(requests=1, per_second=1, tokens=100, tokens_per_second=10, wait="retry-after"))
        assert "retry-after" not in meter.admit(100, now=0, wall=WALL)[1]
        _, headers = meter.admit(91, now=0, wall=WALL)
        assert "10" == headers["retry-after"]
        assert ["0", "0"] == [value for name, value in headers.items() if "reset" in name]

    def test_unknown_wait(self) -> None:
        """A refusal may leave its wait unknown: the resets are 0."""
        meter = Meter(Quota(requests=1, per_second=1, wait="unknown"))
        meter.admit(0, now=0, wall=WALL)
        admitted, headers = meter.admit(0, now=0, wall=WALL)
        assert (False, "0", 3) == (admitted, headers["x-ratelimit-reset-requests"], len(headers))


class TestServe:
    async def test_no_limit_is_told_that_is_not_held(self) -> None:
        """Without a quota no reply has a rate limit header, an error with status 429 included."""
        async with serve() as server, connect(server) as peer:
            for target, body in (
                ("/health", None),
                ("/v1/models", None),
                ("/v2", None),
                ("/v1/chat/completions", {"model": "m", "messages": USER}),
                ("/v1/chat/completions", {"model": "m", "messages": USER, "stream": True}),
                ("/v1/chat/completions", {"model": "error-429", "messages": USER}),
            ):
                answer = await peer.ask(target, body)
                assert not [name for name in answer.headers if "ratelimit" in name]

    @pytest.mark.parametrize("stream", [True, False])
    async def test_requests(self, *, stream: bool) -> None:
        """Every reply tells the level, awaited or streamed; the request beyond it is refused, and says until when."""
        async with serve(rate_limit=Quota(requests=2, per_second=0.01)) as server:
            for left in ("1", "0"):
                answer = await complete(server, stream=stream)
                assert 200 == answer.status
                expected = {"limit-requests": "2", "remaining-requests": left, "reset-requests": "0"}
                assert expected == limits(answer)
            answer = await complete(server, stream=stream)
            assert (429, "too_many_requests") == (answer.status, answer.json["id"])
            assert answer.json["message"].endswith("its quota, Quota(requests=2, per_second=0.01)")
            assert 90 < float(limits(answer)["reset-requests"]) - time.time() <= 101

    async def test_tokens(self) -> None:
        """A reply takes the tokens of its usage, whether the stream tells it or not."""
        async with serve(rate_limit=Quota(tokens=10_000, tokens_per_second=0.01)) as server:
            used = (first := await complete(server)).json["usage"]["total_tokens"]
            assert str(10_000 - used) == limits(first)["remaining-tokens-per-minute"]
            second = await complete(server, stream=True)
            assert str(10_000 - 2 * used) == limits(second)["remaining-tokens-per-minute"]
            assert "limit-requests" not in limits(second)

    async def test_replies_without_usage(self) -> None:
        """A request that ends in an error takes one request and no tokens."""
        quota = Quota(requests=9, per_second=0.01, tokens=50, tokens_per_second=0.01)
        async with serve(rate_limit=quota, models=["m"]) as server:
            bodies: list[dict[str, Any]] = [{"n": 0}, {"model": "x"}, {"model": "error-503"}]
            for number, params in enumerate(bodies, 1):
                answer = await complete(server, **params)
                assert answer.status in (400, 404, 503)
                assert str(9 - number) == limits(answer)["remaining-requests"]
                assert "50" == limits(answer)["remaining-tokens-per-minute"]

    async def test_each_key_has_its_own(self) -> None:
        """Each key has a bucket, and so have requests without a key, together."""
        async with serve(rate_limit=Quota(requests=1, per_second=0.01)) as server:
            body = {"model": "m", "messages": USER}
            assert [200, 429] == [(await complete(server, key="a")).status for _ in range(2)]
            assert [200, 429] == [(await complete(server, key="b")).status for _ in range(2)]
            assert 429 == (await ask(server, body=body, authorization="bearer  a")).status
            assert [200, 429] == [(await ask(server, body=body)).status for _ in range(2)]

    async def test_what_takes_nothing(self) -> None:
        """Other paths, refused keys and scripted replies take nothing, and tell no limit."""
        quota = Quota(requests=1, per_second=0.01)
        async with serve(reply_json({}), keys="k", rate_limit=quota) as server:
            assert {} == limits(await complete(server))
            for answer in (
                await complete(server, key="wrong"),
                await ask(server, "/v1/models", authorization="Bearer k"),
                await ask(server, "/health"),
            ):
                assert {} == limits(answer)
            assert [200, 429] == [(await complete(server)).status for _ in range(2)]

    @pytest.mark.parametrize("status", [503, 529])
    async def test_other_refusals(self, status: Any) -> None:
        """A refusal may have another status, and name its wait by Retry-After."""
        quota = Quota(requests=1, per_second=0.1, status=status, wait="retry-after")
        async with serve(rate_limit=quota) as server:
            await complete(server)
            answer = await complete(server)
            assert (status, "server_error", "10") == (
                answer.status,
                answer.json["id"],
                answer.headers["retry-after"],
            )

    async def test_refills(self) -> None:
        """Whoever waits gets through again."""
        async with serve(rate_limit=Quota(requests=1, per_second=20)) as server:
            begin = time.monotonic()
            answered = 0
            while answered < 5:
                answered += (await complete(server)).status == 200
            assert time.monotonic() - begin >= 4 / 20

    async def test_recordings(self, tmp_path: Path) -> None:
        """A recording takes the largest usage in it, and nothing if it has none."""
        (tmp_path / "a.sse").write_bytes(b'data: {"total_tokens":7}\n\ndata: {"total_tokens": 40}\n\n')
        (tmp_path / "b.sse").write_bytes(b"data: [DONE]\n\n")
        quota = Quota(requests=9, per_second=0.01, tokens=100, tokens_per_second=0.01)
        async with serve(replay=tmp_path, rate_limit=quota) as server:
            told = [limits(await complete(server, model=model)) for model in "aba"]
            assert ["60", "60", "20"] == [told["remaining-tokens-per-minute"] for told in told]
            answer = await complete(server, model="a")
            assert (429, "6", "20") == (
                answer.status,
                limits(answer)["remaining-requests"],
                limits(answer)["remaining-tokens-per-minute"],
            )

    @pytest.mark.parametrize("stream", [True, False])
    async def test_latency(self, *, stream: bool) -> None:
        """`latency` delays replies, awaited or streamed."""
        async with serve(latency=0.1) as server:
            begin = time.monotonic()
            assert 200 == (await complete(server, stream=stream)).status
            assert time.monotonic() - begin >= 0.1

    async def test_what_latency_does_not_delay(self) -> None:
        """Refusals and scripted replies come at once."""
        quota = Quota(requests=1, per_second=0.01)
        async with serve(reply_json({}), latency=3600, rate_limit=quota) as server, connect(server) as peer:
            assert 200 == (await complete(server)).status
            body = {"model": "m", "messages": USER}
            await peer.send(request_bytes(body=body, authorization="Bearer k"))
            await server.wait_requests(2, timeout=30)
            assert 429 == (await complete(server)).status
