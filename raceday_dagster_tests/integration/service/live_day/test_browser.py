"""The real UI under ``raceday up`` in a headless Chromium: it shows the service, and no other page can use it.

The service is that of ``test_up``, which comes afterwards and breaks it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from benchmarks.live_day import LiveDay
from raceday_dagster_tests.integration.service.live_day.browser_fixture import Browser, open_browser
from raceday_dagster_tests.integration.service.live_day.web_fixture import (
    ANSWER_S,
    LAUNCHED_BY,
    LOCATION,
    Web,
    build_launch,
)
from raceday_dagster_tests.waiting import wait_for

pytestmark = pytest.mark.slow

RACES = 3
STAGES = ("fetch_race", "transform_race", "write_race")
AUTOMATIONS = (
    "due_races",
    "first_baseline",
    "alerts",
    "daily_baseline_schedule",
    "evening_backfill_schedule",
    "meeting_status_schedule",
    "maintenance_schedule",
)
POST_JSON = """
    const answer = await fetch(arguments_[0], {
        method: "POST", headers: {"Content-Type": "application/json"}, body: arguments_[1]
    });
    return await answer.text();
"""
SEND_SIMPLE = """
    const answer = await fetch(arguments_[0], {
        method: arguments_[1], mode: "no-cors", headers: {"Content-Type": "text/plain"}
    });
    return answer.type;
"""
OPEN_WEBSOCKET = """
    return await new Promise(resolve => {
        const opened = new WebSocket(arguments_[0], "graphql-ws");
        opened.onopen = () => { opened.close(); resolve("open"); };
        opened.onerror = () => resolve("refused");
    });
"""
# A row has two boxes: one to select it, and the switch.
READ_SWITCH = """
    const found = document.evaluate(
        `//*[text()='${arguments[0]}']/ancestor::*[count(.//input[@type='checkbox']) = 2][1]//input[@type='checkbox']`,
        document, null, XPathResult.ORDERED_NODE_SNAPSHOT_TYPE
    );
    return found.snapshotLength === 2 && found.snapshotItem(1).checked;
"""
READ_STEPS = """
    return [...document.querySelectorAll(".chart-element.box[data-tooltip]")].map(box => box.dataset.tooltip);
"""

# When this browser first showed each answer: seconds, by the instant at which the answer arrived, as the page has it.
WATCH_ANSWERS = """
    window.shownAt = {};
    new MutationObserver(() => {
        const answer = document.getElementById("main")?.dataset.polled;
        if (answer && !(answer in shownAt)) shownAt[answer] = Date.now() / 1000;
    }).observe(document.body, {childList: true});
"""
READ_GRID = """
    const heads = [...document.querySelectorAll("#scroll-grid thead tr:last-child th")].map(head => head.innerText);
    const lines = [...document.querySelectorAll("#scroll-grid tbody tr:not(.out-of-it)")];
    return lines.map(line => Object.fromEntries([...line.children].map((cell, index) => [
        index < 4 ? ["number", "name", "win", "place"][index] : heads[index], cell.innerText
    ])));
"""
SHOWN_WITHIN_S = 2.0


@dataclass(frozen=True)
class Ui:
    """The service with its UI, and a browser to look at it."""

    web: Web
    browser: Browser

    def open(self, path: str) -> None:
        """Go to a page of the UI as if its address had been typed."""
        self.browser.open(f"{self.web.url}{path}")

    def read_own_errors(self) -> list[str]:
        """Console errors that name the UI: what it lacks that the guard might have refused."""
        netloc = urlsplit(self.web.url).netloc
        return [message for message in self.browser.read_errors() if netloc in message]

    def read_json(self, path: str) -> Any:
        """What the pages' API answers."""
        answer = requests.get(f"{self.web.url}/races/api{path}", timeout=ANSWER_S)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def find_next_race(self) -> dict[str, Any]:
        """The race that starts next, polled every 15 s from five minutes before."""
        races = self.read_json("/races")["races"]
        return next(race for race in races if race["status"] == "open" and race["seconds_to_start"] > 0)

    def wait_for_success(self, **run_filter: object) -> str:
        """The id of a run that passes a ``RunsFilter`` and has succeeded."""
        wanted = {**run_filter, "statuses": ["SUCCESS"]}
        return wait_for(lambda: self.web.read_runs(**wanted), explain=self.web.read_runs)[0]["runId"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser in which every foreign name is this machine."""
    with open_browser(tmp_path_factory.mktemp("pictures"), "--host-resolver-rules=MAP *.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture(scope="module")
def ui(browser: Browser, live_day: LiveDay) -> Ui:
    """The browser, and the service with its racing day loaded. Without a browser no service is started."""
    ui = Ui(Web(f"http://127.0.0.1:{live_day.port}"), browser)
    ui.wait_for_success(pipelineName="daily_baseline")  # nobody launched it: the first start of the day did
    return ui


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[str]:
    """The address of somebody else's page, on this machine's address."""
    (tmp_path / "index.html").write_text("<!doctype html><link rel=icon href=data:,><title>foreign</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        serving.join()


def find_forbidden(messages: list[str]) -> list[str]:
    """The console errors about a status 403; a port may hold the same digits."""
    return [message for message in messages if re.search(r"\b403\b", message)]


def put_into_address(launch: dict[str, object]) -> str:
    """A launch as Dagster takes it from a query string."""
    return urlencode({"query": launch["query"], "variables": json.dumps(launch["variables"])})


def test_the_job_page_shows_the_graph(ui: Ui) -> None:
    ui.open(f"/locations/{LOCATION}/jobs/process_races")
    ui.browser.wait_for_text("process_races", "select_races", "process_race", "summarise_batch", "due_races")
    assert ui.read_own_errors() == []


def test_the_sensors_and_schedules_are_shown_switched_on(ui: Ui) -> None:
    ui.open("/automation")
    ui.browser.wait_for_text(*AUTOMATIONS)

    def find_switched_off() -> list[str]:
        return [name for name in AUTOMATIONS if not ui.browser.driver.execute_script(READ_SWITCH, name)]

    ui.browser.wait_until(lambda: not find_switched_off(), lambda: f"not on: {find_switched_off()}")
    assert ui.read_own_errors() == []


def test_the_partitions_page_offers_every_race_of_the_day(ui: Ui, live_day: LiveDay) -> None:
    registered = live_day.ask("SELECT partition FROM dynamic_partitions ORDER BY id", "DAGSTER_PG_URL")
    races = [row["partition"] for row in registered]
    assert len(races) > RACES
    ui.open(f"/locations/{LOCATION}/jobs/process_race/partitions")
    ui.browser.wait_for_text("Launch backfill", f"{len(races)}\nTotal partitions", races[0], races[-1])
    assert ui.read_own_errors() == []


def test_a_run_launched_by_the_ui_shows_its_steps(ui: Ui) -> None:
    races = [race["race_id"] for race in ui.read_json("/races")["races"]][:RACES]
    launch = build_launch("process_races", "the UI", {"ops": {"select_races": {"config": {"race_ids": races}}}})
    ui.open("/runs")
    ui.browser.wait_for_text("daily_baseline")
    launched = json.loads(ui.browser.run_script(POST_JSON, "/graphql", json.dumps(launch)))["data"]["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess"
    run_id = ui.wait_for_success(tags=[{"key": LAUNCHED_BY, "value": "the UI"}])
    assert run_id == launched["run"]["runId"]

    ui.open(f"/runs/{run_id}")
    ui.browser.wait_for_text("Success", f"Succeeded ({2 + len(STAGES) * RACES})", "RUN_SUCCESS")
    steps = [f"process_race.{stage}[{race.replace('-', '_')}]" for race in races for stage in STAGES]
    wanted = sorted(["select_races", "summarise_batch", *steps])

    def read_steps() -> list[str]:
        return sorted(ui.browser.driver.execute_script(READ_STEPS))

    ui.browser.wait_until(lambda: read_steps() == wanted, lambda: f"the chart has {read_steps()}")
    assert ui.read_own_errors() == []


@pytest.mark.parametrize("name", ["127.0.0.1", "evil.example"])
def test_a_page_of_another_origin_launches_nothing(ui: Ui, foreign: str, name: str) -> None:
    who = f"a page of {name}"
    launch = build_launch("meeting_status", who)
    graphql, address = f"{ui.web.url}/graphql", put_into_address(launch)
    ui.browser.open(foreign.replace("127.0.0.1", name))
    assert ui.read_own_errors() == []

    posted = ui.browser.run_script(POST_JSON, graphql, json.dumps(launch))
    assert posted == "TypeError: Failed to fetch"
    for method in ("GET", "POST"):
        assert ui.browser.run_script(SEND_SIMPLE, f"{graphql}?{address}", method) == "opaque"
    assert ui.browser.run_script(OPEN_WEBSOCKET, graphql.replace("http", "ws", 1)) == "refused"

    # The console tells what the page itself may not know: each of the four arrived, and what it was answered.
    refusals = ui.read_own_errors()
    assert len(find_forbidden(refusals)) == 3, refusals
    assert any("preflight" in message for message in refusals), refusals
    assert ui.web.read_runs(tags=[{"key": LAUNCHED_BY, "value": who}]) == []


def test_a_mutation_in_a_link_launches_nothing_but_a_link_to_a_page_opens_it(ui: Ui, foreign: str) -> None:
    launch = build_launch("meeting_status", "a link")
    ui.browser.open(foreign)
    ui.browser.driver.execute_script("location.href = arguments[0]", f"{ui.web.url}/graphql?{put_into_address(launch)}")
    ui.browser.wait_for_text("refused: ")
    assert find_forbidden(ui.read_own_errors())
    assert ui.web.read_runs(tags=[{"key": LAUNCHED_BY, "value": "a link"}]) == []

    ui.browser.open(foreign)
    ui.browser.driver.execute_script("location.href = arguments[0]", f"{ui.web.url}/runs")
    ui.browser.wait_for_text("daily_baseline")


def test_the_page_of_a_race_shows_an_answer_within_two_seconds_of_its_commit(ui: Ui) -> None:
    race_id = ui.find_next_race()["race_id"]
    ui.open(f"/races/{race_id}")
    ui.browser.wait_for_text("live,")
    ui.browser.driver.execute_script(WATCH_ANSWERS)

    def measure() -> list[float]:
        """Seconds from the commit of each answer to this browser's showing it, by the ledger and its own clock."""
        shown = ui.browser.driver.execute_script("return window.shownAt")
        polls = ui.read_json(f"/races/{race_id}")["polls"]
        committed = {
            datetime.fromisoformat(poll["polled_at"]).timestamp(): (poll["total_ms"] - poll["fetch_ms"]) / 1000
            for poll in polls
        }
        return [at - float(answer) - committed[float(answer)] for answer, at in shown.items()]

    ui.browser.wait_until(lambda: any(lag < SHOWN_WITHIN_S for lag in measure()), lambda: f"shown after {measure()} s")
    assert ui.read_own_errors() == []


@pytest.mark.parametrize(("view", "column"), [("win", "win_money"), ("place", "place_money")])
def test_the_grid_has_every_runner_and_bucket_as_the_views_say(ui: Ui, view: str, column: str) -> None:
    race_id = ui.find_next_race()["race_id"]
    ui.open(f"/races/{race_id}?view={view}")

    def compare() -> str | None:
        entrants = ui.read_json(f"/races/{race_id}/entrants")["entrants"]
        lines = {line["number"]: line for line in ui.browser.driver.execute_script(READ_GRID)}
        running = [entrant for entrant in entrants if entrant["is_runner"]]
        if [*lines] != [str(entrant["runner_number"]) for entrant in running]:
            return f"the runners are {[*lines]}"
        for entrant in running:
            line = lines[str(entrant["runner_number"])]
            for row in entrant["money"]:
                bucket = "60+" if row["time_interval"] == 60 else f"{row['time_interval']:g}"
                wanted = "" if row[column] is None else f"{row[column] / 100:.2f}"
                shown = line[bucket].replace(",", "").replace("\N{MINUS SIGN}", "-")
                if bool(wanted) != bool(shown) or (wanted and abs(float(wanted) - float(shown)) > 0.5):
                    return f"{line['name']}, {bucket}: {shown!r}, not {wanted!r}"
        return None

    ui.browser.wait_until(lambda: compare() is None, compare)
    every = {"60+", *map(str, range(55, 5, -5)), "5", "4", "3", "2", "1", "0"}
    assert every <= ui.browser.driver.execute_script(READ_GRID)[0].keys()


def test_the_pages_are_used_by_keyboard(ui: Ui) -> None:
    race = ui.find_next_race()
    ui.open(f"/races/{race['race_id']}")
    ui.browser.wait_for_text("live,")
    keys = ActionChains(ui.browser.driver)

    def press_tab_until(wanted: str) -> str:
        for _ in range(60):
            keys.send_keys(Keys.TAB).perform()
            # In one step: the page may be read anew between two, which keeps the focus on what stands in its place.
            text: str = ui.browser.driver.execute_script(
                "return document.activeElement.id || document.activeElement.innerText"
            )
            if text.startswith(wanted):
                return text
        raise AssertionError(f"no tab leads to {wanted}")

    press_tab_until("To the content")
    press_tab_until("Place")
    keys.send_keys(Keys.ENTER).perform()
    ui.browser.wait_for_text("Place money by interval")
    assert ui.browser.driver.current_url.endswith("?view=place")
    press_tab_until("scroll-grid")  # the grid itself, to be scrolled with the arrows


def test_the_pages_fit_every_width_in_light_and_dark(ui: Ui) -> None:
    race_id = ui.find_next_race()["race_id"]
    try:
        for width in (390, 1500):
            for is_dark in (False, True):
                ui.browser.show_as(width, is_dark=is_dark)
                for name, path in (("today", "/races"), ("race-page", f"/races/{race_id}"), ("unknown", "/races/none")):
                    ui.open(path)
                    ui.browser.wait_for_text("Races")
                    wide = ui.browser.driver.execute_script("return document.documentElement.scrollWidth")
                    assert wide <= width, f"{path} is {wide} wide"
                    ui.browser.take_picture(f"{name}-{width}-{'dark' if is_dark else 'light'}")
    finally:
        ui.browser.show_as(1500)
