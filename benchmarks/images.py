"""``python -m benchmarks.images``: ten silks at 300 ms a call of the vision API, five at once or one after the other.

Interleaved in one run on one simulated API; prints a Markdown table with medians, ranges and the speed-up.
"""

import argparse
import os
import platform
import statistics
import sys
from datetime import UTC, datetime

from raceday_dagster.images import ImageSource, build_silk_source
from raceday_dagster.images.batch import open_stages, run_batch
from raceday_dagster.images.stages import ImageStages
from raceday_dagster.settings import Settings
from raceday_dagster.simulator.running import RunningSimulator, running_simulator

IMAGES = 10
LATENCY_MS = 300
CONTENDERS = (5, 1)


def main() -> None:
    """Runs the benchmark on a simulator of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each contender (default 7)")
    rounds = parser.parse_args().rounds
    with running_simulator(latency_ms=LATENCY_MS) as simulator:
        settings = Settings.from_environment({"VISION_API_URL": simulator.vision_url})
        with open_stages(settings) as stages:
            print_table(compare(stages, name_silks(simulator), rounds))


def name_silks(simulator: RunningSimulator) -> list[ImageSource]:
    """Ten silks of the simulator."""
    base = simulator.vision_url.removesuffix("/vision/v1")
    host = base.removeprefix("http://")
    named = ((f"{number}.png", f"{base}/silks/bench/{number}_128x128.png") for number in range(IMAGES))
    found = (build_silk_source(name, [url], private_host=host) for name, url in named)
    return [source for source in found if source is not None]


def compare(stages: ImageStages, silks: list[ImageSource], rounds: int) -> dict[int, list[int]]:
    """Milliseconds of each batch, by the number of images at once; one batch before them warms up."""
    run_batch(silks, stages)
    taken: dict[int, list[int]] = {at_once: [] for at_once in CONTENDERS}
    for _ in range(rounds):
        for at_once in CONTENDERS:
            batch = run_batch(silks, stages, max_concurrent=at_once)
            assert batch.successes == IMAGES, batch.errors
            taken[at_once].append(batch.batch_duration_ms)
    return taken


def print_table(taken: dict[int, list[int]]) -> None:
    """The Markdown of README.md."""
    print(
        f"\n{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {sys.platform}\n"
    )
    slow = statistics.median(taken[1])
    print("| images at once | runs | batch of ten, s: median (range) | against one after the other |")
    print("|--:|--:|--:|--:|")
    for at_once, runs_ms in taken.items():
        median = statistics.median(runs_ms)
        print(
            f"| {at_once} | {len(runs_ms)} | {median / 1000:.2f} ({min(runs_ms) / 1000:.2f} to "
            f"{max(runs_ms) / 1000:.2f}) | {slow / median:.2f} x |"
        )


if __name__ == "__main__":
    main()
