"""`policy.pace`: rates, quotas and concurrency, in virtual time."""

from __future__ import annotations

import heapq
import random
from typing import Any

import pytest

from gradient_async.policy.pace import Concurrency, EvenRate, Quota, Schedule, count_characters
from gradient_async.types import ChatCompletionMessage, CompletionUsage, RateLimit, RateLimits

WALL = 1_800_000_000.0  # Unix time at which the loop's clock reads 0
PARAMS: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 396}]}


def usage(total: int) -> CompletionUsage:
    return CompletionUsage(prompt_tokens=total // 2, completion_tokens=total - total // 2, total_tokens=total)


class TestEvenRate:
    @pytest.mark.parametrize("rate", [1, 7, 60, 600, 12_000])
    def test_no_minute_sees_more_than_the_rate_and_little_is_lost(self, rate: int) -> None:
        """Whenever amounts are spent. Spent without pauses they pass at nearly the rate."""
        dice = random.Random(rate)
        even = EvenRate(rate)
        now = 0.0
        passed: list[float] = []
        while now < 400:
            if delay := even.delay(now):
                now += delay
            even.spend(now)
            passed.append(now)
            if dice.random() < 0.01:
                now += dice.random() * 20
        for index, start in enumerate(passed):
            assert index + rate >= len(passed) or passed[index + rate] > start + 60 - 1e-6
        steady = EvenRate(rate)
        now = 0.0
        for _ in range(rate * 5):
            now += steady.delay(now)
            steady.spend(now)
        assert now < 300 * 1.03

    def test_estimates_are_corrected(self) -> None:
        even = EvenRate(600)
        even.spend(0.0, 100)
        before = even.delay(0.0)
        even.correct(100)
        assert 10 <= round(even.delay(0.0) - before, 1) <= 10.2
        even.correct(-200)
        assert 0 == even.delay(0.0)


def respond(quota: Quota, remaining: int | None, reset: float | None, *, sent: float, now: float) -> None:
    reported = RateLimit(limit=200, remaining=remaining, reset=reset)
    quota.on_response(reported, sent=sent, now=now, wall=WALL + now)


class TestQuota:
    def test_waits_for_the_reset_once_nothing_remains(self) -> None:
        quota = Quota(60.0)
        assert 0 == quota.delay(0.0, 10_000, 0.5)
        respond(quota, 3, WALL + 5, sent=10, now=1.0)
        assert 0 == quota.delay(1.0, 12, 0.5)
        assert 4.25 <= quota.delay(1.0, 13, 0.0) <= 4.5
        assert 4.5 == quota.delay(1.0, 13, 1.0)
        assert 0 == quota.delay(5.3, 13, 0.0)  # after the reset the whole limit may be sent again
        assert 0 == quota.delay(5.3, 212, 0.0)

    def test_replies_out_of_order_leave_the_smallest_bound(self) -> None:
        quota = Quota(60.0)
        respond(quota, 8, WALL + 5, sent=2, now=0.1)
        respond(quota, 3, WALL + 5, sent=6, now=0.2)
        respond(quota, 7, WALL + 5, sent=4, now=0.3)
        assert 0 == quota.delay(0.3, 8, 0.0)
        assert quota.delay(0.3, 9, 0.0) > 0

    def test_an_older_reset_is_ignored(self) -> None:
        quota = Quota(60.0)
        respond(quota, 50, WALL + 10, sent=1, now=5.0)
        respond(quota, 0, WALL + 4, sent=2, now=5.1)
        assert 0 == quota.delay(5.1, 20, 0.0)

    def test_a_later_reset_sets_a_new_bound(self) -> None:
        quota = Quota(60.0)
        respond(quota, 0, WALL + 1, sent=1, now=0.0)
        respond(quota, 9, WALL + 2, sent=2, now=0.5)
        assert 0 == quota.delay(0.5, 9, 0.0)

    @pytest.mark.parametrize(("remaining", "reset"), [(None, WALL + 5), (0, None), (0, 0.0)])
    def test_without_a_time_nothing_waits(self, remaining: int | None, reset: float | None) -> None:
        quota = Quota(60.0)
        respond(quota, remaining, reset, sent=1, now=0.0)
        assert 0 == quota.delay(0.0, 10, 0.0)

    def test_a_reset_cut_to_whole_seconds(self) -> None:
        """A reset in the past, by DigitalOcean's rule, is a wait of a second at least."""
        quota = Quota(60.0)
        respond(quota, 0, WALL + 5, sent=1, now=5.4)
        assert 1.25 <= quota.delay(5.4, 1, 0.0) <= 1.5

    def test_a_wait_that_is_too_long_is_not_waited(self) -> None:
        quota = Quota(60.0)
        quota.on_response(RateLimit(remaining=0, reset=WALL + 7200), sent=1, now=0.0, wall=WALL)
        assert 0 == quota.delay(0.0, 1, 0.0)
        assert 0 == quota.delay(0.0, 1_000_000, 0.0)


class TestConcurrency:
    def test_a_fixed_limit_stays(self) -> None:
        fixed = Concurrency(40, adaptive=False)
        fixed.overloaded(1, 1)
        fixed.succeeded(1)
        assert (40, None) == (fixed.allowed(0.0), fixed.next_step(0.0))

    def test_a_high_limit_begins_with_a_ramp(self) -> None:
        """64 requests go at once, then one more for each step and each reply."""
        many = Concurrency(500, adaptive=False)
        assert 64 == many.allowed(10.0)
        assert 66 == many.allowed(10.0101)
        assert 0 < (many.next_step(10.0101) or 0) <= 0.005
        many.succeeded(1)
        assert 67 == many.allowed(10.0101)
        assert 500 == many.allowed(20.0)
        assert many.next_step(20.0) is None

    def test_after_a_wait_one_request_goes_ahead(self) -> None:
        fixed = Concurrency(8, adaptive=False)
        fixed.restart(5.0, sent=20)
        fixed.succeeded(20)  # sent before the wait
        assert 1 == fixed.allowed(5.0)
        fixed.succeeded(21)
        assert 2 == fixed.allowed(5.0)
        assert 3 == fixed.allowed(5.0251)
        assert 8 == fixed.allowed(6.0)

    def test_an_adaptive_limit_grows_and_halves(self) -> None:
        found = Concurrency(100, adaptive=True)
        assert 8 == found.allowed(0.0)
        for number in range(1, 9):
            found.succeeded(number)
        assert 16 == found.allowed(0.0)  # doubles with each round until the first overload
        found.overloaded(9, 24)
        assert 8 == found.allowed(0.0)
        found.overloaded(24, 24)  # sent before the cut
        assert 8 == found.allowed(0.0)
        for number in range(25, 34):
            found.succeeded(number)
        assert 9 == found.allowed(0.0)  # one more for each round
        for number in range(40, 50):
            found.overloaded(number * 100, number * 100)
        assert 1 == found.allowed(0.0)


class TestSchedule:
    def test_rates_and_tokens(self) -> None:
        schedule = Schedule(max_concurrency=10, requests_per_minute=60, tokens_per_minute=6000)
        admission = schedule.admit(0.0, {**PARAMS, "max_tokens": 500})
        assert 600 == admission.tokens
        assert (
            5.0 <= (schedule.delay(0.0, 0.0) or 0) <= 5.2
        )  # 600 tokens are 6 s of the rate, less a burst of 1 s
        schedule.finish(admission, succeeded=True, usage=usage(100))
        assert 0.0 <= (schedule.delay(0.0, 0.0) or 0) <= 0.1
        guessed = schedule.admit(10.0, PARAMS)
        assert 150 == guessed.tokens  # 100 of the prompt, and the mean completion
        schedule.finish(guessed, succeeded=True, usage=usage(200))
        assert 0 == schedule.in_flight
        assert 10 == schedule.limit

    def test_a_quota_of_tokens(self) -> None:
        schedule = Schedule(max_concurrency=10)
        admission = schedule.admit(0.0, PARAMS)
        schedule.finish(admission, succeeded=True, usage=usage(100))
        for remaining in (250, 150):
            admission = schedule.admit(0.0, PARAMS)
            limits = RateLimits(tokens_per_minute=RateLimit(limit=1000, remaining=remaining, reset=WALL + 30))
            schedule.on_response(
                admission, rate_limits=limits, wait=None, overloaded=False, now=0.0, wall=WALL
            )
        assert 0 == schedule.delay(0.0, 0.0)
        schedule.admit(0.0, PARAMS)
        assert 0 == schedule.delay(0.0, 0.0)
        schedule.admit(0.0, PARAMS)
        assert 30 <= (schedule.delay(0.0, 0.0) or 0) <= 31

    def test_no_more_than_allowed_are_in_flight(self) -> None:
        schedule = Schedule(max_concurrency=2)
        first = schedule.admit(0.0, PARAMS)
        schedule.admit(0.0, PARAMS)
        assert schedule.delay(0.0, 0.0) is None
        schedule.suspend(first)
        schedule.suspend(first)
        assert (0.0, 1) == (schedule.delay(0.0, 0.0), schedule.in_flight)
        assert schedule.readmit(first, 0.0) is first
        assert (3, 2) == (first.number, schedule.in_flight)
        schedule.overloaded(first)
        schedule.finish(first, succeeded=False, usage=None)
        assert 1 == schedule.in_flight

    def test_ready_agrees_with_delay(self) -> None:
        """`ready` is True where `delay` is 0; with a rate it is always False."""
        schedule = Schedule(max_concurrency=2)
        assert (True, 0.0) == (schedule.ready(0.0), schedule.delay(0.0, 0.0))
        admission = schedule.admit(0.0, PARAMS)
        schedule.admit(0.0, PARAMS)
        assert (False, None) == (schedule.ready(0.0), schedule.delay(0.0, 0.0))
        schedule.finish(admission, succeeded=True, usage=None)
        assert schedule.ready(0.0)
        schedule.on_response(admission, rate_limits=None, wait=2.0, overloaded=True, now=0.0, wall=WALL)
        assert (False, 2.0) == (schedule.ready(0.0), schedule.delay(0.0, 0.0))
        for limits in (
            RateLimits(requests=RateLimit(limit=9, remaining=0, reset=WALL + 30)),
            RateLimits(tokens_per_minute=RateLimit(limit=9, remaining=0, reset=WALL + 30)),
        ):
            schedule = Schedule(max_concurrency=2)
            admission = schedule.admit(0.0, PARAMS)
            schedule.on_response(
                admission, rate_limits=limits, wait=None, overloaded=False, now=0.0, wall=WALL
            )
            assert not schedule.ready(0.0)
            assert 30 <= (schedule.delay(0.0, 0.0) or 0.0)
        for requests, tokens in ((60.0, None), (None, 6e6)):
            schedule = Schedule(max_concurrency=2, requests_per_minute=requests, tokens_per_minute=tokens)
            assert (False, 0.0) == (schedule.ready(0.0), schedule.delay(0.0, 0.0))

    def test_two_requests_that_race_share_one_place(self) -> None:
        """Both may be refused and sent again. A place counted twice would never become free."""
        schedule = Schedule(max_concurrency=1)
        shared = schedule.admit(0.0, PARAMS)
        schedule.suspend(shared)
        schedule.suspend(shared)
        schedule.readmit(shared, 0.0)
        schedule.readmit(shared, 0.0)
        assert 1 == schedule.in_flight
        schedule.finish(shared, succeeded=True, usage=None)
        assert (0, 0.0) == (schedule.in_flight, schedule.delay(0.0, 0.0))

    @pytest.mark.parametrize(("wait", "held"), [(2.0, True), (61.0, False), (0.0, False), (None, False)])
    def test_a_wait_that_a_server_asks_for(self, wait: float | None, held: bool) -> None:
        schedule = Schedule(max_concurrency=2, requests_per_minute=6000)
        admission = schedule.admit(0.0, PARAMS)
        schedule.on_response(admission, rate_limits=None, wait=wait, overloaded=True, now=0.0, wall=WALL)
        assert (wait if held else 0.0) == schedule.delay(0.0, 0.0)
        schedule.readmit(admission, 0.0)


def simulate(*, most: int, adaptive: bool, latency: float, seed: int) -> tuple[int, int, float]:
    """Send 500 requests to a server that allows 200 in 5 s; return how many were answered 200 and 429, and the time."""
    dice = random.Random(seed)
    schedule = Schedule(max_concurrency=most, adaptive=adaptive)
    now = dice.random()
    start: float | None = None
    count = 0
    waiting, fine, refused = 500, 0, 0
    events: list[tuple[float, int, Any]] = []
    serial = 0
    delay: float | None = None
    while fine < 500:
        while waiting and (delay := schedule.delay(now, dice.random())) == 0:
            admission = schedule.admit(now, PARAMS)
            waiting -= 1
            if start is None or now >= start + 5:
                start, count = now, 0
            count += 1
            limit = RateLimit(limit=200, remaining=max(0, 200 - count), reset=float(int(WALL + start + 5)))
            serial += 1
            took = latency * (0.5 + dice.random()) if count <= 200 else 0.001
            heapq.heappush(events, (now + took, serial, (admission, limit, count <= 200)))
        if waiting and delay:
            serial += 1
            heapq.heappush(events, (now + delay, serial, None))
        now, _, event = heapq.heappop(events)
        if event is None:
            continue
        admission, limit, good = event
        limits = RateLimits(requests=limit)
        wait = None if good else max(1.0, (limit.reset or 0) - WALL - now) + 0.25 + 0.25 * dice.random()
        schedule.on_response(
            admission, rate_limits=limits, wait=wait, overloaded=not good, now=now, wall=WALL + now
        )
        schedule.finish(admission, succeeded=good, usage=usage(30) if good else None)
        if good:
            fine += 1
        else:
            refused += 1
            waiting += 1
    return fine, refused, now


@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("latency", [0.005, 0.3, 3.0])
@pytest.mark.parametrize("most", [16, 64, 500])
def test_a_server_that_allows_200_in_5_seconds_refuses_few(most: int, latency: float, adaptive: bool) -> None:
    """At most one answer of twenty is a 429, though resets are in whole seconds and windows begin at any fraction."""
    for seed in range(2):
        fine, refused, _ = simulate(most=most, adaptive=adaptive, latency=latency, seed=seed)
        assert refused <= 0.05 * (fine + refused), (seed, refused)


def test_characters_of_all_text_count() -> None:
    parts = [{"type": "text", "text": "ab"}, ("cd", 1, None)]
    assert 4 == count_characters(parts) - len("text")
    assert len("assistant") + 2 == count_characters([ChatCompletionMessage(content="hi")])


def test_a_quota_without_a_limit_is_open_after_the_reset() -> None:
    quota = Quota(60.0)
    quota.on_response(RateLimit(remaining=0, reset=WALL + 5), sent=1, now=0.0, wall=WALL)
    assert quota.delay(0.0, 1, 0.0) > 0
    assert 0 == quota.delay(5.3, 1, 0.0)
    assert 0 == quota.delay(5.3, 1_000_000, 0.0)


def test_a_step_of_the_ramp_is_never_too_short_for_a_clock() -> None:
    """Rounding may put the next step nearly 0 seconds ahead: a timer set for that would fire without end."""
    ramp = Concurrency(500, adaptive=False)
    ramp.restart(0.0, sent=0)
    steps = [ramp.next_step(millis / 1000) for millis in range(10_000)]
    assert 1e-4 == min(step for step in steps if step is not None)
