"""`python -m raceday_dagster.simulator`: serve a racing day until stopped; the first line is the base URL."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from datetime import date, datetime

from raceday_dagster.simulator.day import PROGRAMME
from raceday_dagster.simulator.server import serve


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m raceday_dagster.simulator", description=serve.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--racing-day", type=date.fromisoformat, help="YYYY-MM-DD")
    parser.add_argument("--first-start", type=datetime.fromisoformat, help="ISO, with a zone")
    parser.add_argument("--now", type=datetime.fromisoformat, help="ISO, with a zone")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--meetings", type=int, default=len(PROGRAMME))
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input ends")
    options = vars(parser.parse_args())
    if options.pop("stop_with_stdin"):
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
    try:
        serve(announce=_announce, **options)
    except (OSError, ValueError) as error:
        parser.exit(2, f"cannot serve: {error}\n")


def _announce(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def _stop_with_stdin() -> None:
    """Whoever started this holds the other end: when it dies, standard input ends."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
