"""``raceday report``: a race or a day as one file. HTML from the pages' own templates, or the table behind them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from raceday_dagster.errors import ReportError
from raceday_dagster.market.pages import render_day, render_race
from raceday_dagster.market.views import DayView, MarketReader, RaceView
from raceday_dagster.settings import Settings
from raceday_dagster.store.images import Silk

Format = Literal["html", "csv", "parquet"]
_GRID = ("jockey", "barrier", "is_runner", "hold_percentage", "win_pool_amount", "place_pool_amount")


def write_report(
    wanted: str, database_url: SecretStr | str, *, output: Path | None = None, kind: Format | None = None
) -> Path:
    """Writes the report of a race (its id) or a racing day (``2026-01-31``); returns where it is.

    Args:
        wanted: A race id or a day.
        database_url: Where the races are stored.
        output: The file; ``race-….html`` or ``day-….html`` in the current folder if none is given.
        kind: The format; what the file's name ends with if none is given, else HTML.

    Raises:
        ReportError: There is no such race or day, or the file cannot be written.
        DatabaseError: The database cannot be read.
    """
    kind = kind or _read_kind(output)
    market = MarketReader(database_url, Settings.from_environment().far_interval_s)
    try:
        found = _read(market, wanted)
        silks = market.read_silks(found.race["race_id"]) if isinstance(found, RaceView) else {}
    finally:
        market.close()
    name = f"day-{found.racing_day}" if isinstance(found, DayView) else f"race-{found.race['race_id']}"
    path = output or Path(f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.{kind}")
    try:
        if kind == "html":
            path.write_text(_render(found, silks), encoding="utf-8")
        else:
            _write_table(found, path, kind)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}; name another with --output") from error
    return path


def _read_kind(output: Path | None) -> Format:
    endings: dict[str, Format] = {".csv": "csv", ".parquet": "parquet"}
    return endings.get(output.suffix.lower() if output else "", "html")


def _read(market: MarketReader, wanted: str) -> DayView | RaceView:
    try:
        racing_day = date.fromisoformat(wanted)
    except ValueError:
        race = market.read_race(wanted)
        if race is None:
            raise ReportError(f"{wanted[:100]} is neither a stored race's id nor a day like 2026-01-31") from None
        return race
    day = market.read_day(racing_day)
    if not day.races:
        raise ReportError(f"no race of {racing_day} is stored: `raceday run daily_baseline` loads a day")
    return day


def _render(found: DayView | RaceView, silks: Mapping[str, Silk]) -> str:
    if isinstance(found, DayView):
        return render_day(found, is_file=True)
    return render_race(found, is_file=True, silks=silks)


def _write_table(found: DayView | RaceView, path: Path, kind: Literal["csv", "parquet"]) -> None:
    """A day's races, or a race's money by runner and interval with what the grid says of the runner."""
    import duckdb
    import pandas as pd

    if isinstance(found, DayView):
        rows = found.races
    else:
        runners = {row["entrant_id"]: {f"runner_{name}": row[name] for name in _GRID} for row in found.runners}
        rows = [{**row, **runners[row["entrant_id"]]} for row in found.money]
        if not rows:
            raise ReportError(
                "nothing of this race's money is stored, so there is no table: --format html shows the rest"
            )
    frame = pd.DataFrame([{name: _simplify(value) for name, value in row.items()} for row in rows])
    if kind == "csv":
        frame.to_csv(path, index=False)
        return
    try:
        duckdb.from_df(frame).write_parquet(str(path))
    except duckdb.IOException as error:
        raise OSError(0, str(error).partition("\n")[0]) from error


def _simplify(value: Any) -> Any:
    """Numbers that both formats hold; a decimal column would be one of objects."""
    return float(value) if isinstance(value, Decimal) else value
