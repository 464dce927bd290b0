from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from raceday_dagster.bench.layers import Clock, sum_up, timing


def test_calls_of_all_threads_are_counted_and_the_functions_put_back() -> None:
    both_inside = threading.Barrier(2)
    place = SimpleNamespace(work=lambda: both_inside.wait(5))
    original = place.work

    with timing({"layer": [(place, "work")], "other": []}) as clocks:
        threads = [threading.Thread(target=place.work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert (clocks["layer"].calls, clocks["other"].calls) == (2, 0)
    assert clocks["layer"].wall_s > 0
    assert place.work is original


def test_call_within_a_call_of_the_same_layer_is_part_of_it() -> None:
    place = SimpleNamespace(inner=lambda: None)

    def call_inner() -> None:
        place.inner()

    place.outer = call_inner
    with timing({"layer": [(place, "inner"), (place, "outer")]}) as clocks:
        place.outer()
        place.inner()

    assert clocks["layer"].calls == 2


def test_function_that_raises_is_timed_and_put_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    place = SimpleNamespace(work=fail)
    with pytest.raises(ValueError, match="no"), timing({"layer": [(place, "work")]}) as clocks:
        place.work()

    assert clocks["layer"].calls == 1
    assert place.work is fail


def test_cost_of_a_layer_is_spread_over_the_batches() -> None:
    costs = sum_up([{"layer": Clock(calls=5, wall_s=0.01, cpu_s=0.004)}, {"layer": Clock(calls=5, wall_s=0.03)}])

    assert (costs["layer"].calls.p50, costs["layer"].wall_ms.max, costs["layer"].cpu_ms.max) == (5, 30, 4)
    assert sum_up([]) == {}
