"""The tables at the end of the demo: how long each poll took, and whose share of the money moved."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table

from raceday_dagster.store.queries import Mover, NextRace, PollLine

_SHADES = {"success": "green", "skipped": "yellow", "failed": "red"}


def build_polls_table(polls: Sequence[PollLine], races: Sequence[NextRace]) -> Table:
    """Per race and poll: the milliseconds of each stage and the rows written."""
    table = _start_table("Every poll of every race, in milliseconds")
    table.add_column("race", no_wrap=True)
    for heading in ("poll", "fetch", "transform", "write", "total", "rows", "quality"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for race in races:
        mine = [poll for poll in polls if poll.race_id == race.race_id]
        for number, poll in enumerate(mine, start=1):
            times = (poll.fetch_ms, poll.transform_ms, poll.write_ms, poll.total_ms, poll.rows)
            shade = _SHADES[poll.status]
            table.add_row(
                race.title if number == 1 else "",
                str(number),
                *map(str, times),
                "" if poll.quality_score is None else str(poll.quality_score),
                f"[{shade}]{poll.status}[/{shade}]",
                end_section=number == len(mine),
            )
    return table


def build_movers_table(movers: Sequence[Mover], races: Sequence[NextRace]) -> Table:
    """Per race: the runners whose share of the money moved most between the first and the last poll."""
    table = _start_table("Where the money moved: share of all money on the race, first poll to last")
    table.add_column("race", no_wrap=True)
    table.add_column("runner", no_wrap=True)
    for heading in ("before", "now", "moved", "win pool $", "price"):
        table.add_column(heading, justify="right", no_wrap=True)
    titles = {race.race_id: race.title for race in races}
    for race_id, group in groupby(movers, key=lambda mover: mover.race_id):
        runners = list(group)
        for number, mover in enumerate(runners, start=1):
            moved = mover.share_now - mover.share_before
            shade = "green" if moved > 0 else "red"
            table.add_row(
                titles[race_id] if number == 1 else "",
                f"{mover.runner_number} {mover.name}",
                f"{mover.share_before:.0f} %",
                f"{mover.share_now:.0f} %",
                f"[{shade}]{moved:+.0f}[/{shade}]",
                "" if mover.win_pool_cents is None else f"{mover.win_pool_cents / 100:,.0f}",
                "" if mover.fixed_win is None else f"{mover.fixed_win:.2f}",
                end_section=number == len(runners),
            )
    return table


def _start_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
