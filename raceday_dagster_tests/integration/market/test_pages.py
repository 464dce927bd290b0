"""The pages on a real database: they say what its views say, and in a clear line what they cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import InternalError
from starlette.testclient import TestClient

from raceday_dagster.errors import DatabaseError
from raceday_dagster.market.views import DAY_SIGNALS, MarketReader
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.market.market_fixture import (
    DAY,
    make_poll,
    move_to_now,
    open_client,
    read_line,
    read_tables,
    write_polled_race,
)
from raceday_dagster_tests.integration.store.lists import make_list
from raceday_dagster_tests.integration.store.store_fixture import make_finished, observe, write
from raceday_dagster_tests.write_snapshots import HOLDS, make_results, make_snapshot, name_entrant

HOSTILE = "<script>alert(1)</script>\"'&" + "x" * 1_000


def test_a_race_page_shows_every_runner_with_its_money_by_interval(store: RaceStore, client: TestClient) -> None:
    write_polled_race(store)
    page = client.get("/races/race-1").text
    heads = read_tables(page)[0][1]
    assert heads[4:21] == ["60+", *map(str, range(55, 5, -5)), "5", "4", "3", "2", "1", "0"]
    assert len(read_tables(page)[0]) == 2 + len(HOLDS) + 1
    line = read_line(page, "Runner 2")
    # 13 % of 8,000.00 less 13 % of 5,000.00; then 19 % of 9,151.38 less 13 % of 8,000.00.
    assert (line["10"], line["4"], line["3"], line["2"]) == ("", "390", "699", "")
    assert (line["Win pool, $"], line["Share, %"], line["Fixed win"]) == ("915", "19.00", "6.00")
    odds = read_line(client.get("/races/race-1?view=odds").text, "Runner 2")
    assert [odds[bucket].lstrip("▾") for bucket in ("10", "4", "3")] == ["9.00", "8.00", "6.00"]


def test_a_pool_has_its_total_and_what_came_in_during_five_minutes(store: RaceStore, client: TestClient) -> None:
    write_polled_race(store)
    pools = next(table for table in read_tables(client.get("/races/race-1").text) if table[0][0] == "Pool")
    assert next(row for row in pools if row[0] == "Win") == ["Win", "9,151", "4,151"]


def test_shares_and_prices_are_placed_by_the_same_start_though_it_was_put_off(
    store: RaceStore, client: TestClient, database_url: str
) -> None:
    write_polled_race(store)
    with observe(database_url) as run:
        run("UPDATE races SET start_time = start_time + interval '10 minutes'")
    first = client.get("/races/api/races/race-1/entrants").json()["entrants"][0]
    assert [row["seconds_to_start"] // 60 for row in first["shares"]] == [20, 14, 13]
    assert [row["seconds_to_start"] // 60 for row in first["prices"]] == [20, 14, 13]
    pools = client.get("/races/api/races/race-1").json()["pools"]
    assert [row["seconds_to_start"] // 60 for row in pools] == [20, 14, 13]


def test_every_cell_of_the_grid_is_what_the_view_says(store: RaceStore, client: TestClient, database_url: str) -> None:
    write_polled_race(store)
    for view, column in (("win", "win_money"), ("place", "place_money")):
        page = client.get(f"/races/race-1?view={view}").text
        with observe(database_url) as run:
            rows = run(f"SELECT name, time_interval, {column} FROM money_flow_timeline WHERE race_id = 'race-1'")
        shown = {row[1].rsplit(" A Rider")[0]: row for row in read_tables(page)[0][2:-1]}
        heads = read_tables(page)[0][1]
        assert len(rows) == 3 * len(HOLDS)
        for name, interval, cents in rows:
            cell = shown[name][heads.index(f"{interval:.0f}", 4)]
            assert cell.replace(",", "").replace("−", "-") == ("" if cents is None else f"{round(cents / 100)}")  # noqa: RUF001


def test_today_shows_what_is_next_and_a_day_its_meetings(
    store: RaceStore, client: TestClient, database_url: str
) -> None:
    store.write_racing_day(make_list(("race-1", "race-2", "race-3")))
    write(store, make_finished())
    page = client.get(f"/races/days/{DAY}").text
    assert "Thursday 17 July 2025" in page
    assert page.count('href="/races/race-') == 3
    assert "2</span>" in page  # the number of the runner that won
    assert "not polled" in page
    with observe(database_url) as run:
        run(
            "UPDATE races SET racing_day = %(today)s, start_time = now() + interval '4 min' WHERE race_id = 'race-2'",
            {"today": MarketReader(database_url).read_day().today},
        )
    today = client.get("/races").text
    assert "Next to go" in today
    assert "in 4 min 00 s" in today or "in 3 min 59 s" in today
    assert "1 race has had no new answer" in today


def test_a_day_without_races_says_whether_its_list_is_stored(
    store: RaceStore, client: TestClient, database_url: str
) -> None:
    empty = client.get("/races/days/2025-07-18")
    assert empty.status_code == 200
    assert "The list of 2025-07-18 is not stored" in empty.text
    with observe(database_url) as run:
        run("INSERT INTO racing_days VALUES (%(day)s, now())", {"day": DAY})
    assert "has no race of the countries" in client.get(f"/races/days/{DAY}").text


def test_a_race_that_nobody_polled_says_so(store: RaceStore, client: TestClient, database_url: str) -> None:
    store.write_racing_day(make_list(("race-1",)))
    page = client.get("/races/race-1")
    assert page.status_code == 200
    for line in ("Nobody has polled this race", "No runners are stored", "No pool is known", "not polled yet"):
        assert line in page.text
    with observe(database_url) as run:
        move_to_now(run, "race-1")
    assert "Nobody has polled this race yet." in client.get("/races/race-1").text


def test_a_race_with_one_poll_has_its_shares_and_no_movement(store: RaceStore, client: TestClient) -> None:
    write(store, make_poll("race-1", 10))
    page = client.get("/races/race-1").text
    line = read_line(page, "Runner 6")
    assert (line["Share, %"], line["10"]) == ("19.00", "")
    assert "Share of the money" in page
    assert "Nothing moved enough to tell." in page


def test_a_dead_heat_shows_both_runners_in_their_place(store: RaceStore, client: TestClient) -> None:
    placed = [(1, 2), (1, 5), (3, 1)]
    results = make_results("final").model_copy(
        update={"results": tuple({"position": place, "runner_number": number} for place, number in placed)}
    )
    write(store, make_poll("race-1", 0, race={"status": "final"}, results=results))
    page = client.get("/races/race-1").text
    (result,) = [table for table in read_tables(page) if table[0][0] == "Place" and table[0][1] == "No."]
    assert [row[:2] for row in result[1:]] == [["1=", "2"], ["1=", "5"], ["3", "1"]]
    assert "Pool Win" in page
    assert "data-events" not in page  # it is over: nothing is waited for
    assert "2–5–1" in client.get(f"/races/days/{DAY}").text  # noqa: RUF001


def test_an_abandoned_race_says_so_and_waits_for_nothing(store: RaceStore, client: TestClient) -> None:
    write(store, make_poll("race-1", 10, race={"status": "abandoned"}))
    page = client.get("/races/race-1").text
    assert '<span class="status abandoned">abandoned</span>' in page
    assert "data-events" not in page
    assert 'class="abandoned' in client.get(f"/races/days/{DAY}").text


def test_scratched_and_withdrawn_runners_stand_at_the_end_without_figures(store: RaceStore, client: TestClient) -> None:
    write(store, make_poll("race-1", 10))
    left = {number: hold for number, hold in HOLDS.items() if number != 3}
    write(store, make_poll("race-1", 4, holds=left), run_id="later")
    last = read_tables(client.get("/races/race-1").text)[0][-2]
    assert (last[0], last[1][:18], last[2]) == ("3", "Runner 3 withdrawn", "")


def test_hostile_names_are_shown_and_do_nothing(store: RaceStore, client: TestClient) -> None:
    race_id = "race/..?&#<b>"
    names = {"name": HOSTILE, "jockey": HOSTILE}
    write(store, make_poll(race_id, 10, race={"name": HOSTILE}, meeting={"meeting_name": HOSTILE}, entrant=names))
    day = client.get(f"/races/days/{DAY}").text
    page = client.get("/races/race%2F..%3F%26%23%3Cb%3E")
    assert page.status_code == 200
    for text in (day, page.text):
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;" in text
    assert "/races/race%2F..%3F%26%23%3Cb%3E" in day


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/races/no-such-race", "no race no-such-race is stored"),
        ("/races/%00", "is stored"),
        ("/races/days/2025-13-45", "2025-13-45 is no day"),
        ("/races/static/app.py", "there is no such file"),
        ("/races/a/b/c", "no race a/b/c is stored"),
    ],
)
def test_what_is_not_there_is_a_page_with_the_right_status(client: TestClient, path: str, line: str) -> None:
    page = client.get(path)
    assert page.status_code == 404
    assert line in page.text
    assert "Today's races" in page.text


def test_every_answer_carries_the_policy_and_its_files_are_our_own(store: RaceStore, client: TestClient) -> None:
    write_polled_race(store)
    for path in ("/races", "/races/race-1", "/races/nothing", "/races/api/health", "/races/static/page.js"):
        answer = client.get(path)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = client.get("/races/race-1").text
    assert "http" not in page.replace("http-equiv", "")
    assert " style=" not in page
    assert client.get("/races/", follow_redirects=False).headers["Location"] == "/races"
    assert client.post("/races").status_code == 405


def test_connections_that_are_all_in_use_are_said_to_be_those_of_the_pages(
    store: RaceStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = MarketReader(database_url)
    monkeypatch.setattr(market._engine.pool, "_timeout", 0.01)
    with market._engine.connect(), market._engine.connect(), pytest.raises(DatabaseError, match="of the pages"):
        market.read_day()
    market.close()


def test_a_database_that_is_down_is_one_line(client: TestClient) -> None:
    with open_client("postgresql://nobody@127.0.0.1:1/nothing") as away:
        page = away.get("/races")
        assert page.status_code == 503
        assert page.headers["Retry-After"]
        assert "cannot be reached" in page.text
        assert "cannot be reached" in away.get("/races/api/races").json()["error"]
    with open_client(None) as unset:
        assert unset.get("/races/x").status_code == 503
        assert "DATABASE_URL is not set" in unset.get("/races").text


def test_the_pages_cannot_write_and_never_hold_more_than_two_connections(database_url: str) -> None:
    market = MarketReader(database_url)
    with pytest.raises(InternalError, match="read-only"), market._engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM races")
    assert market._engine.pool.size() + market._engine.pool._max_overflow == 2  # type: ignore[attr-defined]
    market.close()


def test_a_page_is_one_moment(store: RaceStore, client: TestClient, database_url: str) -> None:
    write_polled_race(store)
    fired = []

    def delete_the_money(connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "race_grid" in statement:
            with observe(database_url) as run:
                run("DELETE FROM money_flow_history")
            fired.append(statement)

    with watch_reads(delete_the_money):
        page = client.get("/races/race-1").text
    assert len(fired) == 1
    assert read_line(page, "Runner 2")["3"] == "699"
    assert read_line(client.get("/races/race-1").text, "Runner 2")["3"] == ""


@contextmanager
def watch_reads(hook: object) -> Iterator[None]:
    event.listen(Engine, "before_cursor_execute", hook)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", hook)


def test_a_runner_that_a_protest_put_back_has_no_dividend_of_the_winner(store: RaceStore, client: TestClient) -> None:
    placed = ({"position": 1, "runner_number": 5}, {"position": 2, "runner_number": 2})
    dividends = tuple(
        {"product_name": "Pool Win", "status": status, "dividend": paid, "positions": [{"runner_number": number}]}
        for status, number, paid in (("Interim", 2, "6.60"), ("Final", 5, "3.10"))
    )
    results = make_results("final").model_copy(update={"results": placed, "dividends": dividends})
    write(store, make_snapshot(race={"status": "final"}, results=results))
    result = client.get("/races/api/races/race-1").json()["result"]
    assert [(row["runner_number"], row["win_dividend"]) for row in result] == [(5, 3.1), (2, None)]


def test_signals_are_listed_on_the_race_and_alerts_on_the_day(
    store: RaceStore, client: TestClient, database_url: str
) -> None:
    write_polled_race(store)
    with observe(database_url) as run:
        moves = ((2, "share", "4.00", True), (2, "share", "6.00", True), (6, "price", "-3.00", False))
        for number, kind, change, is_alert in moves:  # the second is the first as it last stood
            run(
                "INSERT INTO market_signals (race_id, entrant_id, kind, polling_timestamp, compared_with, racing_day,"
                " time_to_start_s, time_interval, value_before, value_now, change, tier, is_alert, is_strong,"
                " after_scratching, computed_from) VALUES ('race-1', %(entrant)s, %(kind)s, now(), now() - %(ago)s,"
                " %(day)s, 45, 0, 12, 18, %(change)s, '5-10', %(alert)s, true, true, '{}')",
                {
                    "entrant": name_entrant("race-1", number),
                    "kind": kind,
                    "ago": timedelta(seconds=30),
                    "day": DAY,
                    "change": change,
                    "alert": is_alert,
                },
            )
    for path, listed in (("/races/race-1", 2), (f"/races/days/{DAY}", 1)):
        page = client.get(path).text
        (signals,) = [table for table in read_tables(page) if "Tier" in table[0]]
        assert len(signals) == 1 + listed
        assert '▲</b> +6.00 <abbr title="percentage points">pp</abbr>' in page
        assert "18.00 %" in page
        assert ("$18.00" in page) is (listed == 2)  # a price
        assert "after a scratching" in page


def test_a_silk_is_our_own_copy_with_its_title_and_otherwise_its_colours_in_words(
    store: RaceStore, client: TestClient, database_url: str
) -> None:
    remote = "https://silks.example/1.png"
    worn = {"silk_colours": "Red, white sash", "silk_url_64x64": remote}
    write(store, make_poll("race-1", 10, holds={1: 60}, entrant=worn))
    address = f"/races/silks/{name_entrant('race-1', 1)}"
    page = client.get("/races/race-1").text
    assert "Red, white sash" in page
    assert "<img" not in page
    assert client.get(address).status_code == 404
    with observe(database_url) as run:
        run(
            "INSERT INTO image_descriptions (source, status, title, preview)"
            " VALUES (%(url)s, 'success', 'A sash', 'P')",
            {"url": remote},
        )
    page = client.get("/races/race-1").text
    assert f'src="{address}"' in page
    assert 'alt="A sash"' in page
    assert "silks.example" not in page
    picture = client.get(address)
    assert (picture.content, picture.headers["Content-Type"]) == (b"P", "image/webp")
    assert client.get("/races/silks/%00").status_code == 404
    (silk,) = MarketReader(database_url).read_silks("race-1").values()
    assert silk.title == "A sash"


def test_only_the_signals_that_are_shown_look_for_their_runners(database_url: str) -> None:
    with observe(database_url) as run:
        lines = [line for (line,) in run(f"EXPLAIN (COSTS OFF) {DAY_SIGNALS}", {"racing_day": DAY})]
    limited = next(number for number, line in enumerate(lines) if "Limit" in line)
    joined = next(number for number, line in enumerate(lines) if " Join" in line or "Nested Loop" in line)
    assert joined < limited, lines
