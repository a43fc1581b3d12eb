"""How fast many requests go: rates, windows told by servers, concurrency, in virtual time."""

from __future__ import annotations

import heapq
import random
from typing import Any

import pytest

from gradient_async.policy.pace import Concurrency, Pace, Spacing, Window, characters
from gradient_async.types import ChatCompletionMessage, CompletionUsage, RateLimit, RateLimits

WALL = 1_800_000_000.0  # Unix time at which the loop's clock reads 0
PARAMS: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 396}]}


def usage(total: int) -> CompletionUsage:
    return CompletionUsage(prompt_tokens=total // 2, completion_tokens=total - total // 2, total_tokens=total)


class TestSpacing:
    @pytest.mark.parametrize("rate", [1, 7, 60, 600, 12_000])
    def test_no_minute_sees_more_and_little_is_lost(self, rate: int) -> None:
        """Whoever comes, at whatever times; and who comes at once is served at nearly the rate."""
        dice = random.Random(rate)
        spacing = Spacing(rate)
        now = 0.0
        passed: list[float] = []
        while now < 400:
            if delay := spacing.delay(now):
                now += delay
            spacing.spend(now)
            passed.append(now)
            if dice.random() < 0.01:
                now += dice.random() * 20
        for index, start in enumerate(passed):
            assert index + rate >= len(passed) or passed[index + rate] > start + 60 - 1e-6
        steady = Spacing(rate)
        now = 0.0
        for _ in range(rate * 5):
            now += steady.delay(now)
            steady.spend(now)
        assert now < 300 * 1.03

    def test_what_was_thought_too_little_is_put_right(self) -> None:
        spacing = Spacing(600)
        spacing.spend(0.0, 100)
        before = spacing.delay(0.0)
        spacing.correct(100)
        assert 10 <= round(spacing.delay(0.0) - before, 1) <= 10.2
        spacing.correct(-200)
        assert 0 == spacing.delay(0.0)


def told(window: Window, remaining: int | None, reset: float | None, *, sent: float, now: float) -> None:
    said = RateLimit(limit=200, remaining=remaining, reset=reset)
    window.told(said, sent=sent, now=now, wall=WALL + now)


class TestWindow:
    def test_holds_once_nothing_is_left(self) -> None:
        window = Window(60.0)
        assert 0 == window.delay(0.0, 10_000, 0.5)
        told(window, 3, WALL + 5, sent=10, now=1.0)
        assert 0 == window.delay(1.0, 12, 0.5)
        assert 4.25 <= window.delay(1.0, 13, 0.0) <= 4.5
        assert 4.5 == window.delay(1.0, 13, 1.0)
        assert 0 == window.delay(5.3, 13, 0.0)  # the next window, of as many
        assert 0 == window.delay(5.3, 212, 0.0)

    def test_replies_out_of_order_leave_the_least(self) -> None:
        window = Window(60.0)
        told(window, 8, WALL + 5, sent=2, now=0.1)
        told(window, 3, WALL + 5, sent=6, now=0.2)
        told(window, 7, WALL + 5, sent=4, now=0.3)
        assert 0 == window.delay(0.3, 8, 0.0)
        assert window.delay(0.3, 9, 0.0) > 0

    def test_an_older_window_is_past(self) -> None:
        window = Window(60.0)
        told(window, 50, WALL + 10, sent=1, now=5.0)
        told(window, 0, WALL + 4, sent=2, now=5.1)
        assert 0 == window.delay(5.1, 20, 0.0)

    def test_rolling_resets_count_anew(self) -> None:
        window = Window(60.0)
        told(window, 0, WALL + 1, sent=1, now=0.0)
        told(window, 9, WALL + 2, sent=2, now=0.5)
        assert 0 == window.delay(0.5, 9, 0.0)

    @pytest.mark.parametrize(("remaining", "reset"), [(None, WALL + 5), (0, None), (0, 0.0)])
    def test_what_tells_no_time_holds_nobody(self, remaining: int | None, reset: float | None) -> None:
        window = Window(60.0)
        told(window, remaining, reset, sent=1, now=0.0)
        assert 0 == window.delay(0.0, 10, 0.0)

    def test_a_reset_cut_to_whole_seconds_is_waited_out(self) -> None:
        """Told again when it is past: by DigitalOcean's rule a second at least."""
        window = Window(60.0)
        told(window, 0, WALL + 5, sent=1, now=5.4)
        assert 1.25 <= window.delay(5.4, 1, 0.0) <= 1.5

    def test_a_wait_that_is_too_long_is_left_to_fail(self) -> None:
        window = Window(60.0)
        window.told(RateLimit(remaining=0, reset=WALL + 7200), sent=1, now=0.0, wall=WALL)
        assert 0 == window.delay(0.0, 1, 0.0)
        assert 0 == window.delay(0.0, 1_000_000, 0.0)


class TestConcurrency:
    def test_a_fixed_one_stays(self) -> None:
        fixed = Concurrency(40, adaptive=False)
        fixed.trouble(1, 1)
        fixed.clean(1)
        assert (40, None) == (fixed.allowed(0.0), fixed.next_step(0.0))

    def test_very_many_begin_one_after_the_other(self) -> None:
        """Where nothing is known of a server, 64 go at once, then one for each step and reply."""
        many = Concurrency(500, adaptive=False)
        assert 64 == many.allowed(10.0)
        assert 66 == many.allowed(10.0101)
        assert 0 < (many.next_step(10.0101) or 0) <= 0.005
        many.clean(1)
        assert 67 == many.allowed(10.0101)
        assert 500 == many.allowed(20.0)
        assert many.next_step(20.0) is None

    def test_after_a_wait_one_goes_ahead(self) -> None:
        fixed = Concurrency(8, adaptive=False)
        fixed.waited(5.0, sent=20)
        fixed.clean(20)  # sent before the wait
        assert 1 == fixed.allowed(5.0)
        fixed.clean(21)
        assert 2 == fixed.allowed(5.0)
        assert 3 == fixed.allowed(5.0251)
        assert 8 == fixed.allowed(6.0)

    def test_an_adaptive_one_grows_and_halves(self) -> None:
        found = Concurrency(100, adaptive=True)
        assert 8 == found.allowed(0.0)
        for number in range(1, 9):
            found.clean(number)
        assert 16 == found.allowed(0.0)  # twice as many with each round, until there is trouble
        found.trouble(9, 24)
        assert 8 == found.allowed(0.0)
        found.trouble(24, 24)  # of the same round
        assert 8 == found.allowed(0.0)
        for number in range(25, 34):
            found.clean(number)
        assert 9 == found.allowed(0.0)  # one more with each round
        for number in range(40, 50):
            found.trouble(number * 100, number * 100)
        assert 1 == found.allowed(0.0)


class TestPace:
    def test_rates_and_tokens(self) -> None:
        pace = Pace(max_concurrency=10, requests_per_minute=60, tokens_per_minute=6000)
        ticket = pace.sent(0.0, {**PARAMS, "max_tokens": 500})
        assert 600 == ticket.tokens
        assert 5.0 <= (pace.delay(0.0, 0.0) or 0) <= 5.2  # 600 of 6000 in a minute, and a second ahead
        pace.ended(ticket, clean=True, usage=usage(100))
        assert 0.0 <= (pace.delay(0.0, 0.0) or 0) <= 0.1
        guessed = pace.sent(10.0, PARAMS)
        assert 150 == guessed.tokens  # 100 of the prompt, and completions as they were
        pace.ended(guessed, clean=True, usage=usage(200))
        assert 0 == pace.under_way
        assert 10 == pace.limit

    def test_a_window_of_tokens_counts_what_requests_take(self) -> None:
        pace = Pace(max_concurrency=10)
        ticket = pace.sent(0.0, PARAMS)
        pace.ended(ticket, clean=True, usage=usage(100))
        for remaining in (250, 150):
            ticket = pace.sent(0.0, PARAMS)
            limits = RateLimits(tokens_per_minute=RateLimit(limit=1000, remaining=remaining, reset=WALL + 30))
            pace.answered(ticket, rate_limits=limits, wait=None, overloaded=False, now=0.0, wall=WALL)
        assert 0 == pace.delay(0.0, 0.0)
        pace.sent(0.0, PARAMS)
        assert 0 == pace.delay(0.0, 0.0)
        pace.sent(0.0, PARAMS)
        assert 30 <= (pace.delay(0.0, 0.0) or 0) <= 31

    def test_no_more_than_allowed_are_under_way(self) -> None:
        pace = Pace(max_concurrency=2)
        first = pace.sent(0.0, PARAMS)
        pace.sent(0.0, PARAMS)
        assert pace.delay(0.0, 0.0) is None
        pace.parked(first)
        pace.parked(first)
        assert (0.0, 1) == (pace.delay(0.0, 0.0), pace.under_way)
        assert pace.sent_again(first, 0.0) is first
        assert (3, 2) == (first.number, pace.under_way)
        pace.stalled(first)
        pace.ended(first, clean=False, usage=None)
        assert 1 == pace.under_way

    def test_the_quick_answer_agrees_with_the_long_one(self) -> None:
        """Where nothing has to wait it says so; else, and where a rate was asked for, it leaves that to `delay`."""
        pace = Pace(max_concurrency=2)
        assert (True, 0.0) == (pace.ready(0.0), pace.delay(0.0, 0.0))
        ticket = pace.sent(0.0, PARAMS)
        pace.sent(0.0, PARAMS)
        assert (False, None) == (pace.ready(0.0), pace.delay(0.0, 0.0))
        pace.ended(ticket, clean=True, usage=None)
        assert pace.ready(0.0)
        pace.answered(ticket, rate_limits=None, wait=2.0, overloaded=True, now=0.0, wall=WALL)
        assert (False, 2.0) == (pace.ready(0.0), pace.delay(0.0, 0.0))
        for limits in (
            RateLimits(requests=RateLimit(limit=9, remaining=0, reset=WALL + 30)),
            RateLimits(tokens_per_minute=RateLimit(limit=9, remaining=0, reset=WALL + 30)),
        ):
            pace = Pace(max_concurrency=2)
            ticket = pace.sent(0.0, PARAMS)
            pace.answered(ticket, rate_limits=limits, wait=None, overloaded=False, now=0.0, wall=WALL)
            assert not pace.ready(0.0)
            assert 30 <= (pace.delay(0.0, 0.0) or 0.0)
        for requests, tokens in ((60.0, None), (None, 6e6)):
            pace = Pace(max_concurrency=2, requests_per_minute=requests, tokens_per_minute=tokens)
            assert (False, 0.0) == (pace.ready(0.0), pace.delay(0.0, 0.0))

    def test_two_that_race_share_one_place(self) -> None:
        """Both may be refused and sent again; a place that was counted twice would never be free."""
        pace = Pace(max_concurrency=1)
        shared = pace.sent(0.0, PARAMS)
        pace.parked(shared)
        pace.parked(shared)
        pace.sent_again(shared, 0.0)
        pace.sent_again(shared, 0.0)
        assert 1 == pace.under_way
        pace.ended(shared, clean=True, usage=None)
        assert (0, 0.0) == (pace.under_way, pace.delay(0.0, 0.0))

    @pytest.mark.parametrize(("wait", "held"), [(2.0, True), (61.0, False), (0.0, False), (None, False)])
    def test_a_wait_that_a_server_asks_for_holds_all(self, wait: float | None, held: bool) -> None:
        pace = Pace(max_concurrency=2, requests_per_minute=6000)
        ticket = pace.sent(0.0, PARAMS)
        pace.answered(ticket, rate_limits=None, wait=wait, overloaded=True, now=0.0, wall=WALL)
        assert (wait if held else 0.0) == pace.delay(0.0, 0.0)
        pace.sent_again(ticket, 0.0)


def simulate(*, most: int, adaptive: bool, latency: float, seed: int) -> tuple[int, int, float]:
    """Send 500 requests to a server that allows 200 in 5 s; return answers 200, answers 429, and the seconds."""
    dice = random.Random(seed)
    pace = Pace(max_concurrency=most, adaptive=adaptive)
    now = dice.random()
    start: float | None = None
    count = 0
    waiting, fine, refused = 500, 0, 0
    events: list[tuple[float, int, Any]] = []
    serial = 0
    delay: float | None = None
    while fine < 500:
        while waiting and (delay := pace.delay(now, dice.random())) == 0:
            ticket = pace.sent(now, PARAMS)
            waiting -= 1
            if start is None or now >= start + 5:
                start, count = now, 0
            count += 1
            limit = RateLimit(limit=200, remaining=max(0, 200 - count), reset=float(int(WALL + start + 5)))
            serial += 1
            took = latency * (0.5 + dice.random()) if count <= 200 else 0.001
            heapq.heappush(events, (now + took, serial, (ticket, limit, count <= 200)))
        if waiting and delay:
            serial += 1
            heapq.heappush(events, (now + delay, serial, None))
        now, _, event = heapq.heappop(events)
        if event is None:
            continue
        ticket, limit, good = event
        limits = RateLimits(requests=limit)
        wait = None if good else max(1.0, (limit.reset or 0) - WALL - now) + 0.25 + 0.25 * dice.random()
        pace.answered(ticket, rate_limits=limits, wait=wait, overloaded=not good, now=now, wall=WALL + now)
        pace.ended(ticket, clean=good, usage=usage(30) if good else None)
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
    """At most one answer of twenty is 429, with resets in whole seconds, whenever the windows begin."""
    for seed in range(2):
        fine, refused, _ = simulate(most=most, adaptive=adaptive, latency=latency, seed=seed)
        assert refused <= 0.05 * (fine + refused), (seed, refused)


def test_characters_of_all_text_count() -> None:
    parts = [{"type": "text", "text": "ab"}, ("cd", 1, None)]
    assert 4 == characters(parts) - len("text")
    assert len("assistant") + 2 == characters([ChatCompletionMessage(content="hi")])


def test_a_window_that_tells_no_limit_is_open_once_it_starts_anew() -> None:
    window = Window(60.0)
    window.told(RateLimit(remaining=0, reset=WALL + 5), sent=1, now=0.0, wall=WALL)
    assert window.delay(0.0, 1, 0.0) > 0
    assert 0 == window.delay(5.3, 1, 0.0)
    assert 0 == window.delay(5.3, 1_000_000, 0.0)


def test_a_step_is_never_too_short_for_a_clock_to_see() -> None:
    """Rounding may leave the next step nearly 0 seconds away; who asks then must not ask for ever."""
    ramp = Concurrency(500, adaptive=False)
    ramp.waited(0.0, sent=0)
    steps = [ramp.next_step(millis / 1000) for millis in range(10_000)]
    assert 1e-4 == min(step for step in steps if step is not None)
