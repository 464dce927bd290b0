"""The supervisor's decisions, with processes and a clock that are made up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raceday_dagster.errors import ServiceError
from raceday_dagster.service.restarts import choose_restart_delay_s
from raceday_dagster.service.supervisor import READY_WITHIN_S, Mailbox, Part, Stop, Supervisor, describe_exit


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def read(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class FakeChild:
    """Lives until ended or killed; a stubborn one until killed, and leaves ``leftovers`` in its group until then."""

    name: str
    diary: list[str]
    pid: int
    stubborn: bool = False
    leftovers: bool = False
    code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def is_gone(self) -> bool:
        return self.code is not None and not self.leftovers

    def end(self) -> None:
        self.diary.append(f"end {self.name}")
        if not self.stubborn:
            self.code = 0

    def kill(self) -> None:
        if not self.is_gone():
            self.diary.append(f"kill {self.name}")
        self.code, self.leftovers = (-9 if self.code is None else self.code), False


@dataclass
class Stage:
    """A code server, a daemon and a web UI, and what was done to them."""

    clock: FakeClock = field(default_factory=FakeClock)
    mailbox: Mailbox = field(default_factory=Mailbox)
    diary: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    children: dict[str, FakeChild] = field(default_factory=dict)
    ready: set[str] = field(default_factory=lambda: {"code", "daemon", "web"})
    stubborn: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        parts = [self._build("code", 6.0, opens_the_way=True), self._build("daemon", 2.0), self._build("web", 2.0)]
        self.supervisor = Supervisor(
            parts,
            self.mailbox,
            self.said.append,
            on_ready=lambda: self.diary.append("ready"),
            monotonic=self.clock.read,
            sleep=self.clock.sleep,
        )

    def look_after(self, *, rounds: int = 1, apart_s: float = 0.0) -> None:
        for _ in range(rounds):
            self.supervisor.look_after()
            self.clock.sleep(apart_s)

    def _build(self, name: str, stop_within_s: float, *, opens_the_way: bool = False) -> Part:
        def start() -> FakeChild:
            self.diary.append(f"start {name}")
            pid = 100 + len(self.diary)
            leftovers = name in self.leaving
            child = FakeChild(name, self.diary, pid, stubborn=name in self.stubborn, leftovers=leftovers)
            self.children[name] = child
            return child

        return Part(
            name=name,
            log_file=Path(f"logs/{name}.log"),
            start=start,
            is_ready=lambda: name in self.ready,
            stop_within_s=stop_within_s,
            before_restart=lambda: self.diary.append(f"clear {name}"),
            opens_the_way=opens_the_way,
        )


def test_the_daemon_and_the_ui_start_once_the_code_server_is_ready() -> None:
    stage = Stage(ready={"daemon", "web"})
    stage.look_after(rounds=3)
    assert stage.diary == ["start code"]
    stage.ready.add("code")
    stage.look_after()
    assert stage.diary == ["start code", "start daemon", "start web", "ready"]


def test_ready_is_said_once_and_only_when_all_are() -> None:
    stage = Stage(ready={"code", "daemon"})
    stage.look_after(rounds=3)
    assert "ready" not in stage.diary
    stage.ready.add("web")
    stage.look_after(rounds=3)
    assert stage.diary.count("ready") == 1


def test_what_needs_the_code_server_ends_before_it() -> None:
    stage = Stage()
    stage.look_after()
    stage.supervisor.end_all()
    assert stage.diary[-3:] == ["end web", "end daemon", "end code"]
    assert stage.supervisor.read_pids() == {}


def test_what_does_not_end_is_killed_and_the_budget_of_ten_seconds_holds() -> None:
    stage = Stage(stubborn=frozenset({"code", "daemon", "web"}))
    stage.look_after()
    began_s = stage.clock.now_s
    stage.supervisor.end_all()
    assert stage.diary[-6:] == ["end web", "end daemon", "kill web", "kill daemon", "end code", "kill code"]
    assert stage.clock.now_s - began_s == pytest.approx(8.0, abs=0.1)


def test_what_a_part_leaves_in_its_group_is_killed_too() -> None:
    stage = Stage(leaving=frozenset({"code"}))
    stage.look_after()
    stage.supervisor.end_all()
    assert stage.diary[-2:] == ["end code", "kill code"]


def test_what_a_dead_part_left_goes_on_until_the_end() -> None:
    stage = Stage(leaving=frozenset({"code"}))
    stage.look_after()
    first = stage.children["code"]
    first.code = -9
    stage.look_after(rounds=3, apart_s=0.5)
    assert stage.children["code"] is not first
    assert first.leftovers, "its runs may end by themselves"
    stage.supervisor.end_all()
    assert stage.diary.count("kill code") == 2
    assert not first.leftovers


def test_what_a_dead_part_left_and_is_gone_is_never_killed() -> None:
    stage = Stage(leaving=frozenset({"code"}))
    stage.look_after()
    first = stage.children["code"]
    first.code = -9
    stage.look_after()
    first.leftovers = False
    stage.look_after()
    first.leftovers = True  # a stranger that got the number
    stage.supervisor.end_all()
    assert first.leftovers


def test_a_part_that_dies_is_cleared_and_started_again_after_a_pause() -> None:
    stage = Stage()
    stage.look_after()
    stage.children["daemon"].code = -9
    stage.look_after()
    assert stage.said == ["daemon died with SIGKILL; starting it again in 0.5 s"]
    assert stage.diary.count("start daemon") == 1
    stage.clock.sleep(0.5)
    stage.look_after()
    assert stage.diary[-2:] == ["clear daemon", "start daemon"]


def test_the_others_are_looked_after_while_the_code_server_is_away() -> None:
    stage = Stage()
    stage.look_after()
    stage.ready.discard("code")
    stage.children["code"].code = 1
    stage.children["web"].code = 1
    stage.look_after(rounds=3, apart_s=0.5)
    assert stage.diary.count("start code") == 2
    assert stage.diary.count("start web") == 2


def test_five_deaths_within_a_minute_end_everything_and_name_the_log() -> None:
    stage = Stage()
    stage.look_after()
    for _ in range(4):
        stage.children["web"].code = 3
        stage.look_after(rounds=2, apart_s=5)
    stage.children["web"].code = 3
    with pytest.raises(ServiceError, match=r"web died 5 times within a minute.*exit code 3.*logs/web\.log"):
        stage.look_after()
    assert stage.diary.count("start web") == 5


def test_deaths_that_lie_a_minute_back_are_forgiven() -> None:
    stage = Stage()
    stage.look_after()
    for _ in range(8):
        stage.children["web"].code = 3
        stage.look_after(rounds=2, apart_s=10)
    assert stage.diary.count("start web") == 9


def test_a_stop_returns_and_leaves_nothing_running() -> None:
    stage = Stage()
    stage.look_after()
    stage.mailbox.put(Stop())
    stage.mailbox.put(Stop())
    stage.supervisor.run()
    assert stage.supervisor.read_pids() == {}
    assert stage.said == ["stopping"]


def test_being_told_to_stop_before_the_first_start_starts_nothing() -> None:
    stage = Stage()
    stage.mailbox.put(Stop())
    stage.supervisor.run()
    assert stage.diary == []


def test_a_lost_lock_ends_everything_with_its_reason() -> None:
    stage = Stage()
    stage.look_after()
    stage.mailbox.put(Stop(error="somebody else has it"))
    with pytest.raises(ServiceError, match="somebody else has it"):
        stage.supervisor.run()
    assert stage.supervisor.read_pids() == {}


def test_a_part_that_never_becomes_ready_ends_everything() -> None:
    stage = Stage(ready={"code", "daemon"})
    stage.supervisor = Supervisor(
        stage.supervisor._parts,
        stage.mailbox,
        stage.said.append,
        monotonic=lambda: stage.clock.sleep(READY_WITHIN_S / 5) or stage.clock.read(),
        sleep=stage.clock.sleep,
    )
    with pytest.raises(ServiceError, match=r"web was not ready \(its log is logs/web\.log\) within 90 s"):
        stage.supervisor.run()
    assert "end code" in stage.diary


@pytest.mark.parametrize(
    ("deaths_s", "now_s", "delay_s"),
    [
        ([100], 100, 0.5),
        ([99, 100], 100, 1.0),
        ([98, 99, 100], 100, 2.0),
        ([97, 98, 99, 100], 100, 4.0),
        ([96, 97, 98, 99, 100], 100, None),
        ([40, 97, 98, 99, 100], 100, 4.0),
    ],
)
def test_the_pause_doubles_with_each_death_of_the_last_minute(
    deaths_s: Iterable[float], now_s: float, delay_s: float | None
) -> None:
    assert choose_restart_delay_s(list(deaths_s), now_s) == delay_s


@pytest.mark.parametrize(("code", "said"), [(3, "exit code 3"), (-15, "SIGTERM"), (-99, "signal 99")])
def test_an_exit_is_named_for_people(code: int, said: str) -> None:
    assert describe_exit(code) == said
