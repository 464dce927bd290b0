"""One ``dagster job execute`` as a user would type it, followed by a progress bar."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from raceday_dagster.errors import SandboxError

END_WITHIN_S = 15.0


def build_command(job: str, config: Mapping[str, Any], folder: Path) -> list[str]:
    """The command line that runs a job of the code location once, in the foreground.

    ``dagster job execute`` reads its run config from files only: it is written to ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config_file = folder / f"{job}-{uuid4().hex[:8]}.yaml"
    config_file.write_text(json.dumps(config, indent=2), encoding="utf-8")  # JSON is YAML
    dagster = (sys.executable, "-m", "dagster", "job", "execute")
    return [*dagster, "-m", "raceday_dagster.definitions", "-j", job, "-c", str(config_file)]


def execute_job(
    console: Console,
    title: str,
    job: str,
    config: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path,
) -> str:
    """Runs a job of the code location in a process of its own and returns its Dagster run id.

    Its config and what the process prints go to files in ``folder``; its ``batch_progress`` lines drive the bar.

    Raises:
        SandboxError: The job failed; the message names the file.
    """
    command = build_command(job, config, folder)
    log_file = folder / f"{job}-{uuid4().hex[:8]}.log"
    run_id = ""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, log_file.open("w", encoding="utf-8") as log:
        bar = progress.add_task(title, total=None)
        with subprocess.Popen(
            command,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                for event in _read_events(process, log):
                    run_id = str(event.get("run_id") or run_id)
                    if event["event"] == "batch_start":
                        progress.update(bar, total=int(event["total"]))
                    elif event["event"] == "batch_progress":
                        progress.update(bar, completed=int(event["completed"]))
            except BaseException:
                end_job(process)
                raise
    if process.returncode != 0 or not run_id:
        raise SandboxError(f"{title}: the job {job} failed with exit code {process.returncode}; its log is {log_file}")
    return run_id


def end_job(process: subprocess.Popen[str]) -> None:
    """Asks a job to end and waits for it: what it needs is about to be taken away. Kills it if it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _read_events(process: subprocess.Popen[str], log: TextIO) -> Iterator[dict[str, Any]]:
    """Our own log lines, which are JSON objects; Dagster's are not, and only go to the log."""
    assert process.stdout is not None
    for line in process.stdout:
        log.write(line)
        if line.startswith('{"event"'):
            with suppress(ValueError):  # two processes wrote into one line
                yield json.loads(line)
