"""`policy.rates`: even rates, buckets and concurrency, each by itself, with clock readings that the tests choose."""

from __future__ import annotations

import random
from collections import deque

import pytest

from gradient_async.policy.rates import Bucket, Concurrency, EvenRate, Mark


def most_within(passed: list[tuple[float, float]], seconds: float) -> float:
    """Return the largest amount in any such time, its two ends included."""
    window: deque[tuple[float, float]] = deque()
    total = largest = 0.0
    for time, amount in passed:
        window.append((time, amount))
        total += amount
        while window[0][0] < time - seconds:
            total -= window.popleft()[1]
        largest = max(largest, total)
    return largest


class TestEvenRate:
    @pytest.mark.parametrize("rate", [0.5, 1, 1.5, 7, 59.5, 60, 120, 600, 12_000])
    def test_no_minute_has_more_than_the_rate(self, rate: float) -> None:
        """Whenever amounts are spent: after pauses, one by one and without pauses."""
        dice = random.Random(int(rate * 10))
        even = EvenRate(rate)
        now = 0.0
        passed: list[tuple[float, float]] = []
        while now < 400 or len(passed) < 5:
            now += even.delay(now)
            assert 0 == even.delay(now)
            even.spend(now)
            passed.append((now, 1.0))
            if dice.random() < 0.01:
                now += dice.random() * 20
        assert most_within(passed, 60.0) <= max(1, rate)

    def test_ten_seconds_of_600_a_minute_have_at_most_115(self) -> None:
        """One second's worth passes at once, also after a pause; the others are evenly spaced."""
        even = EvenRate(600)
        passed: list[tuple[float, float]] = []
        for start in (0.0, 100.0, 130.0):
            now = start
            for _ in range(250):
                now += even.delay(now)
                even.spend(now)
                passed.append((now, 1.0))
            assert 10 == sum(0 <= time - start < 1e-6 for time, _ in passed)
        assert 110 <= most_within(passed, 10.0) <= 115

    @pytest.mark.parametrize("rate", [60, 120, 600, 12_000])
    def test_little_is_lost(self, rate: int) -> None:
        """Spent without pauses, amounts pass at 97 % of the rate at least."""
        even = EvenRate(rate)
        now = 0.0
        for _ in range(rate * 5):
            now += even.delay(now)
            even.spend(now)
        assert now <= 300 / 0.97

    @pytest.mark.parametrize(
        "sizes", [(50, 150), (90, 110), (1, 1000), (400, 400), (2500, 3500), (5000, 5000), (50, 6000)]
    )
    def test_no_minute_has_more_tokens_than_the_rate(self, sizes: tuple[int, int]) -> None:
        """Nor where single amounts are far more than one second's worth, which is 100 here."""
        dice = random.Random(sizes[1])
        even = EvenRate(6000)
        now = 0.0
        passed: list[tuple[float, float]] = []
        while now < 1200:
            amount = float(dice.randint(*sizes))
            now += even.delay(now, amount)
            even.spend(now, amount)
            passed.append((now, amount))
        assert most_within(passed, 60.0) <= 6000
        if sizes[1] <= 1000:  # of larger ones too few fit into a minute
            assert sum(amount for _, amount in passed) >= 0.88 * 6000 * 20

    def test_an_amount_beyond_the_rate_passes_alone(self) -> None:
        even = EvenRate(600)
        even.spend(0.0, 10.0)
        assert 60 <= even.delay(0.0, 5000.0) <= 61
        even.spend(61.0, 5000.0)
        assert even.delay(61.0) > 499

    def test_estimates_are_corrected(self) -> None:
        even = EvenRate(600)
        even.spend(0.0, 100)
        before = even.delay(0.0)
        even.correct(100, 0.0)
        assert 10 <= round(even.delay(0.0) - before, 1) <= 10.4
        even.correct(-200, 0.0)
        assert 0 == even.delay(0.0)

    @pytest.mark.parametrize("lag", [0.5, 5.0, 30.0, 90.0])
    def test_corrections_that_come_late_do_no_harm(self, lag: float) -> None:
        """A correction counts for the moment at which the amount passed, not for the minute in which it comes."""
        dice = random.Random(int(lag))
        even = EvenRate(6000)
        now = 0.0
        passed: list[tuple[float, float]] = []
        corrections: deque[tuple[float, float, float]] = deque()
        while now < 1200:
            estimate = float(dice.randint(50, 5000))
            actual = float(dice.randint(10, int(estimate)))
            wait = even.delay(now, estimate)
            while corrections and corrections[0][0] <= now + wait:
                due, amount, at = corrections.popleft()
                now = max(now, due)
                even.correct(amount, at)
                wait = even.delay(now, estimate)
            now += wait
            even.spend(now, estimate)
            passed.append((now, actual))
            corrections.append((now + lag, actual - estimate, now))
        assert most_within(passed, 60.0) <= 6000


def told(bucket: Bucket) -> Bucket:
    bucket.reported = True
    return bucket


def spent(bucket: Bucket, count: int, now: float) -> Mark:
    """Spend so many requests; return the place of the last."""
    mark = Mark(now, 0.0, 0.0)
    for _ in range(count):
        mark = bucket.spend(1.0, now)
    return mark


def delay(bucket: Bucket, now: float, need: float = 1.0, max_wait: float = 60.0) -> float | None:
    return bucket.delay(need, now, jitter=0.0, max_wait=max_wait)


class TestBucket:
    def test_nothing_is_known_at_first(self) -> None:
        bucket = Bucket()
        assert bucket.is_enough(1e9)
        assert 0 == delay(bucket, 0.0, 1e9)

    def test_the_level_is_what_the_reply_shows_less_what_was_sent_since(self) -> None:
        """No first burst is larger than what the first reply allows."""
        bucket = told(Bucket())
        mark = spent(bucket, 1, 0.0)
        spent(bucket, 15, 0.0)
        bucket.read(29.0, mark, size=30.0, now=0.1)
        for _ in range(14):
            assert bucket.is_enough(1.0)
            assert 0 == delay(bucket, 0.1)
            bucket.spend(1.0, 0.1)
        assert not bucket.is_enough(1.0)
        assert delay(bucket, 0.1) != 0

    def test_two_readings_give_the_refill(self) -> None:
        bucket = told(Bucket())
        bucket.read(2.0, spent(bucket, 1, 0.0), size=30.0, now=0.0)
        bucket.read(1.0, spent(bucket, 1, 0.5), size=30.0, now=0.5)
        assert 0 == bucket.refill  # half a second says little
        bucket.read(8.0, spent(bucket, 9, 2.0), size=30.0, now=2.0)
        # 11 spent and 8 left. The lowest reading before: 2 spent and 1 left.
        assert 8 == bucket.refill

    def test_the_wait_is_for_the_refill(self) -> None:
        bucket = told(Bucket())
        bucket.read(2.0, spent(bucket, 1, 0.0), size=30.0, now=0.0)
        bucket.read(0.0, spent(bucket, 10, 1.0), size=30.0, now=1.0)
        assert 8 == bucket.refill
        assert 0.125 == delay(bucket, 1.0)
        assert 0.025 == pytest.approx(delay(bucket, 1.1))
        assert 0 == delay(bucket, 1.13)
        assert 0.25 == delay(bucket, 1.0, 2.0)

    def test_replies_that_overtake_each_other(self) -> None:
        """A low reading counts in full, a high one for a part, and one that is much older not at all."""
        bucket = told(Bucket())
        first, second, third = (bucket.spend(1.0, now) for now in (0.0, 2.0, 2.0))
        bucket.read(10.0, third, now=2.1)
        bucket.read(7.0, second, now=2.2)  # 2 + 7 in all
        assert bucket.is_enough(6.0)
        assert not bucket.is_enough(6.1)
        bucket.read(90.0, first, now=2.3)
        assert not bucket.is_enough(6.1)
        bucket.read(10.0, third, now=2.4)
        assert bucket.is_enough(8.0)
        assert not bucket.is_enough(8.1)

    def test_a_bucket_that_is_full_says_nothing_of_its_refill(self) -> None:
        bucket = told(Bucket())
        for now in (0.0, 10.0, 20.0):
            bucket.read(29.0, spent(bucket, 1, now), size=30.0, now=now)
        assert 0 == bucket.refill
        assert 0 == delay(bucket, 20.0, 28.0)

    def test_what_is_saved_up_is_bounded_by_the_size(self) -> None:
        bucket = told(Bucket())
        bucket.read(2.0, spent(bucket, 1, 0.0), size=30.0, now=0.0)
        bucket.read(0.0, spent(bucket, 10, 1.0), size=30.0, now=1.0)
        assert 0 == delay(bucket, 100.0, 30.0)
        spent(bucket, 30, 100.0)
        assert 0.125 == pytest.approx(delay(bucket, 100.0))

    def test_the_reset_of_a_window(self) -> None:
        """Nothing is refilled within a window: the wait is until the reset, and a margin for many clients."""
        bucket = told(Bucket())
        bucket.read(0.0, spent(bucket, 1, 0.0), reset=5.0, now=0.0)
        assert 5.25 == delay(bucket, 0.0)
        assert 4.25 == delay(bucket, 1.0)
        assert 5.5 == bucket.delay(1.0, 0.0, jitter=1.0, max_wait=60.0)

    def test_a_reset_that_was_rounded_down_is_a_second_off(self) -> None:
        bucket = told(Bucket())
        bucket.read(0.0, spent(bucket, 1, 5.4), reset=5.0, now=5.4)
        assert 1.25 == pytest.approx(delay(bucket, 5.4))

    def test_a_reset_beyond_the_longest_wait_does_not_count(self) -> None:
        """The request is sent, so that its caller gets the server's own refusal."""
        bucket = told(Bucket())
        bucket.read(0.0, spent(bucket, 1, 0.0), reset=7200.0, now=0.0)
        assert 0.25 == delay(bucket, 0.0)
        assert delay(bucket, 0.3) is None
        bucket.forget()
        assert 0 == delay(bucket, 0.3)

    def test_refused_requests_are_not_spent(self) -> None:
        bucket = told(Bucket())
        mark = bucket.spend(1.0, 0.0)
        later = bucket.spend(1.0, 0.1)
        bucket.refund(1.0)
        bucket.read(0.0, mark, now=0.2)
        assert 1 == bucket.spent
        bucket.read(3.0, later, now=0.3)
        assert bucket.is_enough(1.0)

    def test_refusals_alone_give_the_refill_and_successes_raise_it(self) -> None:
        """The bucket is empty at a refusal; what passed between two bursts of refusals is the refill."""
        bucket = Bucket()
        for burst in range(4):
            now = float(burst)
            mark = spent(bucket, 9, now)
            bucket.refund(1.0)
            bucket.read(0.0, mark, now=now)
        assert 6 < bucket.refill <= 8
        before = bucket.refill
        bucket.grow(4.0)
        assert before < bucket.refill < 1.01 * before

    def test_a_time_without_requests_says_nothing_of_the_refill(self) -> None:
        bucket = Bucket()
        for now in (0.0, 1.0, 2.0, 60.0, 61.0, 62.0):
            if now == 60.0:
                bucket.rest()
            mark = spent(bucket, 9, now)
            bucket.refund(1.0)
            bucket.read(0.0, mark, now=now)
        assert 7 < bucket.refill <= 8

    def test_where_refusals_are_all_that_is_known_a_request_is_sent_each_second(self) -> None:
        bucket = Bucket()
        for now in (0.0, 5.0, 10.0):
            mark = bucket.spend(1.0, now)
            bucket.refund(1.0)
            bucket.spend(1.0, now)
            bucket.read(0.0, mark, now=now)
        assert 0 < bucket.refill < 0.5
        assert delay(bucket, 10.0) == 1.0
        told_bucket = told(Bucket())
        told_bucket.grow(1.0)
        assert 0 == told_bucket.refill


class TestConcurrency:
    def test_a_new_server_gets_16_requests_and_one_more_for_each_step_and_two_replies(self) -> None:
        many = Concurrency(adaptive=False)
        assert many.next_step(10.0) is None
        assert 16 == many.allowed(10.0)
        assert 17 == many.allowed(10.0101)
        assert 0 < (many.next_step(10.0101) or 0) <= 0.01
        many.succeeded(1, 17)
        many.succeeded(2, 17)
        assert 18 == many.allowed(10.0101)

    def test_the_ramp_ends(self) -> None:
        many = Concurrency(adaptive=False)
        many.allowed(0.0)
        assert 100_000 == many.allowed(2000.0)
        assert many.next_step(2000.0) is None

    def test_after_a_wait_one_request_goes_ahead(self) -> None:
        many = Concurrency(adaptive=False)
        many.restart(5.0, sent=20)
        many.succeeded(20, 8)  # sent before the wait
        assert 1 == many.allowed(5.0)
        many.succeeded(21, 8)
        many.succeeded(22, 8)
        assert 2 == many.allowed(5.0)
        assert 3 == many.allowed(5.0251)

    def test_without_adaptation_an_overload_changes_nothing(self) -> None:
        many = Concurrency(adaptive=False)
        many.overloaded(1, 1, 1)
        assert 100_000 == many.limit

    def test_an_adaptive_limit_grows_and_halves(self) -> None:
        found = Concurrency(adaptive=True)
        assert 8 == found.allowed(0.0)
        assert found.next_step(0.0) is None
        for number in range(1, 9):
            found.succeeded(number, 8)
        assert 16 == found.allowed(0.0)  # doubles with each round until the first overload
        found.overloaded(9, 24, 16)
        assert 8 == found.limit
        found.overloaded(24, 24, 16)  # sent before the cut
        assert 8 == found.limit
        for number in range(25, 34):
            found.succeeded(number, 8)
        assert 9 == int(found.limit)  # one more for each round
        for number in range(40, 50):
            found.overloaded(number * 100, number * 100, 9)
        assert 1 == found.allowed(0.0)

    def test_a_success_while_few_are_in_flight_says_nothing(self) -> None:
        found = Concurrency(adaptive=True)
        for number in range(100):
            found.succeeded(number, 2)
        assert 8 == found.limit

    def test_a_step_of_the_ramp_is_never_too_short_for_a_clock(self) -> None:
        """Rounding may put the next step nearly 0 seconds ahead: a timer set for that would fire without end."""
        ramp = Concurrency(adaptive=False)
        ramp.restart(0.0, sent=0)
        steps = [step for millis in range(10_000) if (step := ramp.next_step(millis / 1000)) is not None]
        assert 1e-4 <= min(steps) < 1e-3
