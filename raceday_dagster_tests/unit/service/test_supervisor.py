"""The supervisor's decisions, with processes and a clock that are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import Mock

import pytest

from raceday_dagster.errors import ServiceError
from raceday_dagster.service.supervisor import (
    READY_WITHIN_S,
    Part,
    StopRequests,
    Supervisor,
    describe_exit,
)


@dataclass
class FakeClock:
    now_s: float = 1_000.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class FakeChild:
    """Lives until ended or killed; a stubborn one until killed."""

    name: str
    diary: list[str]
    pid: int
    stubborn: bool = False
    code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def has_ended(self) -> bool:
        return self.code is not None

    def end(self) -> None:
        self.diary.append(f"end {self.name}")
        if not self.stubborn:
            self.code = 0

    def kill(self) -> None:
        if self.code is None:
            self.diary.append(f"kill {self.name}")
            self.code = -9


@dataclass
class Stage:
    """A run server, a code server, a daemon and a web UI, and what was done to them."""

    clock: FakeClock = field(default_factory=FakeClock)
    stop_requests: StopRequests = field(default_factory=StopRequests)
    diary: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    children: dict[str, FakeChild] = field(default_factory=dict)
    ready: set[str] = field(default_factory=lambda: {"run", "code", "daemon", "web"})
    unknown: set[str] = field(default_factory=set)
    question_takes_s: float = 0.0
    stubborn: frozenset[str] = frozenset()
    on_round: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        needed = [self._build("run", 4.8, is_needed=True), self._build("code", 2.0, is_needed=True)]
        self.supervisor = self.supervise([*needed, self._build("daemon", 2.0), self._build("web", 2.0)])

    def supervise(self, parts: Sequence[Part], *, round_takes_s: float = 0.0) -> Supervisor:
        def read_clock() -> float:
            self.clock.sleep(round_takes_s)
            return self.clock.now_s

        return Supervisor(
            parts,
            self._start,
            Path("logs"),
            self.stop_requests,
            self.said.append,
            on_ready=lambda: self.diary.append("ready"),
            on_round=self._look_below,
            monotonic=read_clock,
            sleep=self.clock.sleep,
        )

    def look_after(self, *, rounds: int = 1, apart_s: float = 0.0) -> None:
        for _ in range(rounds):
            self.supervisor.look_after()
            self.clock.sleep(apart_s)

    def _look_below(self) -> None:
        self.on_round()

    def _start(self, part: Part) -> FakeChild:
        self.diary.append(f"start {part.name}")
        child = FakeChild(part.name, self.diary, 100 + len(self.diary), stubborn=part.name in self.stubborn)
        self.children[part.name] = child
        return child

    def _answer(self, name: str) -> bool | None:
        self.clock.sleep(self.question_takes_s)
        return None if name in self.unknown else name in self.ready

    def _build(self, name: str, stop_within_s: float, *, is_needed: bool = False) -> Part:
        return Part(
            name,
            (),
            works=lambda: self._answer(name),
            stop_within_s=stop_within_s,
            before_restart=lambda: self.diary.append(f"clear {name}"),
            is_needed=is_needed,
        )


@pytest.fixture
def stage() -> Stage:
    """All of them started and ready."""
    stage = Stage()
    stage.look_after()
    return stage


def test_the_daemon_and_the_ui_start_once_the_two_servers_are_ready_and_ready_is_said_once_all_are() -> None:
    stage = Stage(ready={"run", "daemon"})
    stage.look_after(rounds=3)
    assert stage.diary == ["start run", "start code"]
    stage.ready.add("code")
    stage.look_after(rounds=3)
    assert stage.diary == ["start run", "start code", "start daemon", "start web"]
    stage.ready.add("web")
    stage.look_after(rounds=3)
    assert stage.diary == ["start run", "start code", "start daemon", "start web", "ready"]


def test_what_needs_the_servers_ends_before_them(stage: Stage) -> None:
    stage.supervisor.end_all()
    assert stage.diary[-4:] == ["end web", "end daemon", "end code", "end run"]
    assert stage.supervisor.read_pids() == {}


def test_what_does_not_end_is_killed_after_its_own_time_and_all_within_seven_seconds() -> None:
    stage = Stage(stubborn=frozenset({"run", "code", "daemon", "web"}))
    stage.look_after()
    began_s = stage.clock.now_s
    stage.supervisor.end_all()
    pairs = [["end web", "end daemon", "kill web", "kill daemon"], ["end code", "end run", "kill code", "kill run"]]
    assert stage.diary[-8:] == pairs[0] + pairs[1]
    assert stage.clock.now_s - began_s == pytest.approx(6.8, abs=0.1)


def test_a_part_that_dies_is_cleared_and_started_again_after_a_pause(stage: Stage) -> None:
    stage.children["daemon"].code = -9
    stage.look_after()
    assert stage.said == ["daemon died with SIGKILL; starting it again in 0.5 s"]
    assert stage.diary.count("start daemon") == 1
    stage.clock.sleep(0.5)
    stage.look_after()
    assert stage.diary[-2:] == ["clear daemon", "start daemon"]


def test_the_others_are_looked_after_while_the_code_server_is_dead(stage: Stage) -> None:
    stage.ready.discard("code")
    stage.children["code"].code = 1
    stage.children["web"].code = 1
    stage.look_after(rounds=3, apart_s=0.5)
    assert stage.diary.count("start code") == 2
    assert stage.diary.count("start web") == 2


def test_a_part_that_hangs_is_killed_and_started_again(stage: Stage) -> None:
    stage.ready.discard("code")
    stage.look_after(rounds=9, apart_s=1)
    assert "kill code" not in stage.diary
    stage.look_after(rounds=6, apart_s=1)
    assert stage.said == [
        "code has not answered for 8 s: it is killed",
        "code died with SIGKILL; starting it again in 0.5 s",
    ]
    assert stage.diary.count("start code") == 2


def test_a_part_that_answers_now_and_then_is_left_alone(stage: Stage) -> None:
    for _ in range(6):
        stage.ready.discard("daemon")
        stage.look_after(rounds=7, apart_s=1)
        stage.ready.add("daemon")
        stage.look_after(rounds=4, apart_s=1)
    assert stage.said == []


def test_a_part_of_which_nobody_can_tell_is_left_alone(stage: Stage) -> None:
    stage.unknown.add("daemon")
    stage.look_after(rounds=30, apart_s=1)
    assert stage.said == []


def test_a_part_that_starts_again_has_its_time_to_come_up(stage: Stage) -> None:
    stage.ready.discard("daemon")
    stage.children["daemon"].code = 1
    stage.look_after(rounds=80, apart_s=1)
    assert stage.diary.count("start daemon") == 2
    stage.look_after(rounds=15, apart_s=1)
    assert stage.diary.count("start daemon") == 3


def test_nobody_is_to_blame_for_the_time_in_which_the_supervisor_itself_stood_still(stage: Stage) -> None:
    stage.clock.sleep(60)
    stage.ready.clear()
    stage.look_after(rounds=5, apart_s=0.1)
    assert stage.said == []


def test_parts_that_hang_all_at_once_are_all_replaced_however_long_each_question_takes(stage: Stage) -> None:
    stage.ready.clear()
    stage.question_takes_s = 1.2
    stage.look_after(rounds=40, apart_s=0.2)
    assert {f"kill {name}" for name in ("run", "code", "daemon", "web")} <= set(stage.diary)


def test_five_deaths_within_a_minute_end_everything_and_name_the_log(stage: Stage) -> None:
    for delay_s in ("0.5", "1", "2", "4"):
        stage.children["web"].code = 3
        stage.look_after(rounds=2, apart_s=5)
        assert stage.said[-1] == f"web died with exit code 3; starting it again in {delay_s} s"
    stage.children["web"].code = 3
    with pytest.raises(ServiceError, match=r"web died 5 times within a minute.*exit code 3.*logs/web\.log"):
        stage.look_after()
    assert stage.diary.count("start web") == 5


def test_deaths_that_lie_a_minute_back_are_forgiven(stage: Stage) -> None:
    for _ in range(8):
        stage.children["web"].code = 3
        stage.look_after(rounds=2, apart_s=10)
    assert stage.diary.count("start web") == 9


def test_a_stop_returns_and_leaves_nothing_running(stage: Stage) -> None:
    stage.stop_requests.put(15)
    stage.stop_requests.put(15)
    stage.supervisor.run()
    assert stage.supervisor.read_pids() == {}
    assert stage.said == ["stopping"]


def test_being_told_to_stop_before_the_first_start_starts_nothing() -> None:
    stage = Stage()
    stage.stop_requests.put(15)
    stage.supervisor.run()
    assert stage.diary == []


def test_a_stop_that_comes_while_a_part_is_about_to_start_again_waits_for_nothing_more(stage: Stage) -> None:
    stage.children["run"].code = -9
    stage.look_after()  # notes the death
    stage.clock.sleep(1)
    stage.on_round = lambda: stage.stop_requests.put(15)
    stage.supervisor.run()
    assert stage.diary.count("clear run") == 0, "what is done before a restart takes seconds"
    assert stage.supervisor.read_pids() == {}


def test_a_lost_lock_ends_everything_with_its_reason(stage: Stage) -> None:
    stage.on_round = Mock(side_effect=ServiceError("somebody else has it"))
    with pytest.raises(ServiceError, match="somebody else has it"):
        stage.supervisor.run()
    assert stage.supervisor.read_pids() == {}


def test_a_part_that_never_becomes_ready_ends_everything() -> None:
    stage = Stage(ready={"run", "code", "daemon"})
    stage.supervisor = stage.supervise(stage.supervisor._parts, round_takes_s=READY_WITHIN_S / 5)
    with pytest.raises(ServiceError, match=r"web was not ready \(its log is logs/web\.log\) within 90 s"):
        stage.supervisor.run()
    assert "end code" in stage.diary


@pytest.mark.parametrize(("code", "said"), [(3, "exit code 3"), (-15, "SIGTERM"), (-99, "signal 99")])
def test_an_exit_is_named_for_people(code: int, said: str) -> None:
    assert describe_exit(code) == said
