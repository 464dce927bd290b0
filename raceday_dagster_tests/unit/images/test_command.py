"""What `raceday images` writes and shows."""

from __future__ import annotations

import io

from rich.console import Console

from raceday_dagster.images import Description, ImageResult, ImageSource
from raceday_dagster.images.command import show_table, write_csv
from raceday_dagster.images.records import ImageFacts, ImageTimings
from raceday_dagster.racing.outcomes import ItemError

FACTS = ImageFacts(
    content_hash="", bytes_before=50_000, bytes_after=9_000, size_before=(9, 9), size_after=(9, 9), preview=b""
)
DESCRIBED = ImageResult(
    source=ImageSource(name='odd, "name".jpg'),
    status="success",
    model="m",
    timings=ImageTimings(total_ms=1_234),
    facts=FACTS,
    description=Description(title="A [bold]title[/bold] of “something”", keywords=("one", "two"), category=4),
)
FAILED = ImageResult(
    source=ImageSource(name="broken\x1b[2J.jpg"),
    status="failed",
    model="m",
    error=ItemError(stage="compress", type="ImageError", message="not an image", retryable=False),
)


def test_the_csv_is_what_stock_sites_take_and_leaves_out_what_failed() -> None:
    file = io.StringIO(newline="")
    write_csv([DESCRIBED, FAILED], file)
    assert file.getvalue().splitlines() == [
        "Filename,Title,Keywords,Category,Releases",
        '"odd, ""name"".jpg",A [bold]title[/bold] of “something”,"one, two",4,',
    ]


def test_the_table_shows_each_image_and_no_text_commands_the_terminal() -> None:
    out = Console(file=io.StringIO(), width=120)
    show_table([FAILED, DESCRIBED], 5, out)
    shown = out.file.getvalue()
    assert "A [bold]title[/bold]" in shown
    assert "compress: not an image" in shown
    assert "50 → 9" in shown
    assert "\x1b" not in shown
    assert shown.splitlines()[-1] == "1 of 5 described, 1 failed, 3 not begun"
    assert shown.index("odd") < shown.index("broken")
