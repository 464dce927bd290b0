"""The sensor that tells somebody: what is wrong now goes to the log, and to ALERT_WEBHOOK_URL if that is set.

It remembers in its cursor, which Dagster keeps, whom it has told of what.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import SecretStr, ValidationError

from raceday_dagster.dagster_plugins.machines import Machine, find_living, find_missed, read_machines
from raceday_dagster.defs.failures import refusing_plainly
from raceday_dagster.defs.jobs import JOBS, daily_baseline_job
from raceday_dagster.defs.webhook import send_webhook
from raceday_dagster.errors import DatabaseError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.alerts import (
    LONGEST_UNSENT,
    AlertEvent,
    AlertMemory,
    AlertMessage,
    Trouble,
    choose_messages,
)
from raceday_dagster.settings import Settings
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.queries import find_late_races, read_live_races, read_overdue_races
from raceday_dagster.store.race_store import RaceStore

EVERY_S = 30
FORGOTTEN_AFTER = timedelta(days=1)
"""A failed run of a job that has not run since is then nobody's trouble any more."""
STAYS = timedelta(seconds=2 * EVERY_S)
"""A run that failed is told of even when the next one succeeds, a moment later."""
LONGEST_BETWEEN_LOOKS = timedelta(seconds=3 * EVERY_S)
"""After more, the service was down, and its races have no answer yet for that alone."""
OF_RACES: tuple[AlertEvent, ...] = ("race_without_answer", "race_unfinished")

Send = Callable[[SecretStr, Mapping[str, object]], str | None]


class InstanceWatch:
    """Looks at the database of the races and at Dagster's."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self._instance = instance
        self._settings = settings

    def list_race_troubles(self, now: datetime) -> list[Trouble]:
        """Live races without an answer, and races that are not over. Raises ``DatabaseError``."""
        engine = build_engine(self._settings.require_database_url(), pool_max=1)
        chosen = {"countries": self._settings.race_countries, "categories": self._settings.race_categories}
        try:
            late = find_late_races(read_live_races(engine, now, **chosen), now)
            overdue = RaceStore(engine).read(read_overdue_races, now, **chosen)
        finally:
            engine.dispose()
        return [
            *(
                Trouble(
                    event="race_without_answer",
                    about=race.race_id,
                    text=f"{race.title}: no new answer "
                    + ("yet" if race.answered_at is None else f"since {race.answered_at:%H:%M:%S} UTC")
                    + (f" ({race.error})" if race.error else ""),
                    settles=True,
                )
                for race in late
            ),
            *(
                Trouble(
                    event="race_unfinished",
                    about=race.race_id,
                    text=f"{race.meeting_name} R{race.race_number}: still {race.status} two hours after its start",
                )
                for race in overdue
            ),
        ]

    def list_run_troubles(self, now: datetime) -> list[Trouble]:
        """Jobs whose newest run failed, or one of whose runs has just failed; machines of a cluster that died."""
        troubles = list(self._find_failed_jobs(now))
        if self._settings.broker_url is not None:
            troubles += find_machine_troubles(read_machines(self._instance), now)
        return troubles

    def _find_failed_jobs(self, now: datetime) -> Iterator[Trouble]:
        finished = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
        for job in JOBS:
            newest = self._instance.get_run_records(dg.RunsFilter(job_name=job.name, statuses=finished), limit=1)
            just_failed = self._instance.get_run_records(
                dg.RunsFilter(job_name=job.name, statuses=[dg.DagsterRunStatus.FAILURE], updated_after=now - STAYS),
                limit=1,
            )
            for record in (*just_failed, *newest)[:1]:
                ended_at = datetime.fromtimestamp(record.end_time or 0, UTC)
                if record.dagster_run.status is dg.DagsterRunStatus.FAILURE and now - ended_at < FORGOTTEN_AFTER:
                    is_load = job is daily_baseline_job
                    yield Trouble(
                        event="daily_initialization_failed" if is_load else "run_failed",
                        about=job.name,
                        text=f"run {record.dagster_run.run_id} of {job.name} failed at {ended_at:%H:%M:%S} UTC",
                    )


def find_machine_troubles(machines: Mapping[str, Machine], now: datetime) -> list[Trouble]:
    """What is wrong with the machines of a cluster."""
    troubles = [
        Trouble(
            event="machine_lost",
            about=name,
            text=f"machine {name} has given no sign of life since {machines[name].seen_at:%H:%M:%S} UTC; its runs have "
            "failed",
            settles=True,
        )
        for name in find_missed(machines, now)
    ]
    if not find_living(machines, now):
        text = "no machine takes runs, so no race is polled; start `raceday worker` on one"
        troubles.append(Trouble(event="no_machine", about="", text=text, settles=True))
    return troubles


def tell_troubles(
    watch: InstanceWatch, memory: AlertMemory, now: datetime, webhook: SecretStr | None, send: Send = send_webhook
) -> tuple[AlertMemory, str]:
    """Looks, logs and sends what is new; returns what to remember, and one line on this look."""
    troubles = watch.list_run_troubles(now)
    unknown: tuple[AlertEvent, ...] = ()
    try:
        troubles += watch.list_race_troubles(now)
    except DatabaseError as error:
        troubles.append(Trouble(event="database_unavailable", about="", text=str(error)))
        unknown = OF_RACES
    after_pause = memory.looked_at is None or now - memory.looked_at > LONGEST_BETWEEN_LOOKS
    told = choose_messages(troubles, memory.raised, now, unknown=unknown, after_pause=after_pause)
    for message in told.messages:
        log = get_logger()
        say = log.info if message.state == "cleared" else log.error
        say("alert", state=message.state, alert=message.event, about=message.about, text=message.text)
    unsent = (*memory.unsent, *told.messages)
    if webhook is None or not unsent:
        unsent = ()
    elif reason := send(webhook, build_body(unsent)):
        get_logger().warning("alert_webhook_failed", alerts=len(unsent), reason=reason)
    else:
        unsent = ()
    said = f"{len(told.raised)} troubles, {len(told.messages)} told now, {len(unsent)} not sent"
    return AlertMemory(raised=told.raised, unsent=unsent[-LONGEST_UNSENT:], looked_at=now), said


def build_body(messages: tuple[AlertMessage, ...]) -> dict[str, object]:
    """What is posted: the messages, and all of them as one text, which is what chat programs show."""
    return {
        "text": "\n".join(f"{message.state}: {message.event}: {message.text}" for message in messages),
        "alerts": [message.model_dump(mode="json") for message in messages],
    }


def read_memory(cursor: str | None) -> AlertMemory:
    """What the cursor holds; nothing where it is empty or of another release."""
    try:
        return AlertMemory.model_validate_json(cursor) if cursor else AlertMemory()
    except ValidationError:
        return AlertMemory()


@dg.sensor(
    minimum_interval_seconds=EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of failed runs, of races without answers and of races that are not over: in the log, and to "
    "ALERT_WEBHOOK_URL; once, again after an hour, and when it is over.",
)
def alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    with refusing_plainly():
        settings = Settings.from_environment()
        watch = InstanceWatch(context.instance, settings)
        memory, said = tell_troubles(watch, read_memory(context.cursor), datetime.now(UTC), settings.alert_webhook_url)
    return dg.SensorResult(skip_reason=said, cursor=memory.model_dump_json())
