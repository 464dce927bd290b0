"""The jobs: the same three stages a race, begun in different ways."""

import dagster as dg

from raceday_dagster.defs.assets import check_data
from raceday_dagster.defs.concurrency import DAY_TAGS, day_executor, race_executor
from raceday_dagster.defs.ops.batch import select_race, select_races, summarise_batch
from raceday_dagster.defs.ops.day import (
    fetch_evening_meetings,
    fetch_meetings,
    report_day,
    select_unsettled_races,
    write_meetings,
)
from raceday_dagster.defs.ops.images import (
    WantedImage,
    clean_up_image,
    compress_image,
    describe_image,
    select_images,
    summarise_images,
)
from raceday_dagster.defs.ops.maintenance import maintenance_job
from raceday_dagster.defs.ops.meetings import fetch_meeting_status, report_overdue_races, update_meetings
from raceday_dagster.defs.ops.race import fetch_race, transform_race, write_race
from raceday_dagster.defs.partitions import race_partitions
from raceday_dagster.images import ImageBatch, ImageResult
from raceday_dagster.racing.outcomes import BatchOutcome, ProcessResult

# A live batch is worth nothing once its seconds have passed: the next poll is the retry.
NO_RUN_RETRY = {"dagster/max_retries": "0"}
# A backfill by hand puts hundreds of runs into the queue, which lets one through at a time: what the day needs goes
# before them, and maintenance, with half of this, behind the day's.
BEFORE_BACKFILLS = {"dagster/priority": "10"}
BEHIND_THE_DAY = {"dagster/priority": "5"}


@dg.graph(description="One poll of one race: fetch → transform → write.")
def process_race(race_id: str) -> ProcessResult:
    result: ProcessResult = write_race(transform_race(fetch_race(race_id)))
    return result


@dg.graph(description="Polls of several races at once, and their summary.")
def poll_races() -> BatchOutcome:
    selected = select_races()
    outcome: BatchOutcome = summarise_batch(selected.batch, selected.races.map(process_race).collect())
    return outcome


@dg.graph(description="One poll of the partition's race, and its summary.")
def poll_race() -> BatchOutcome:
    selected = select_race()
    outcome: BatchOutcome = summarise_batch(selected.batch, selected.races.map(process_race).collect())
    return outcome


@dg.graph(description="A racing day from its list: meetings, races, then every race once.")
def load_racing_day() -> BatchOutcome:
    written = write_meetings(fetch_meetings())
    races = written.races.map(process_race).collect()
    report_day.alias("report_daily_baseline")(written.load, races)
    outcome: BatchOutcome = summarise_batch(written.batch, races)
    return outcome


@dg.graph(description="What a racing day left open, asked once more.")
def complete_racing_day() -> BatchOutcome:
    # The day is chosen under one name in every job: ops, fetch_meetings, config, racing_day.
    selected = select_unsettled_races(fetch_evening_meetings.alias("fetch_meetings")())
    races = selected.races.map(process_race).collect()
    report_day.alias("report_evening_backfill")(selected.load, races)
    outcome: BatchOutcome = summarise_batch(selected.batch, races)
    return outcome


@dg.graph(description="The meetings of a racing day as they stand, and the races that are overdue.")
def follow_meetings() -> None:
    update_meetings(fetch_meeting_status.alias("fetch_meetings")())
    report_overdue_races()


@dg.graph(description="One image: compress → describe → clean up.")
def process_image(wanted: WantedImage) -> ImageResult:
    result: ImageResult = clean_up_image(describe_image(compress_image(wanted)))
    return result


@dg.graph(description="Several images at once, and their summary.")
def describe_images() -> ImageBatch:
    selected = select_images()
    outcome: ImageBatch = summarise_images(selected.batch, selected.images.map(process_image).collect())
    return outcome


process_races_job = poll_races.to_job(
    name="process_races",
    description="Polls the races asked for by id, or every race that is due, five in flight.",
    executor_def=race_executor,
    tags=NO_RUN_RETRY,
)

process_race_job = poll_race.to_job(
    name="process_race",
    description="Polls one race, the partition: by hand, as a replay, or as a backfill of many.",
    executor_def=race_executor,
    partitions_def=race_partitions,
    tags=NO_RUN_RETRY,
)

daily_baseline_job = load_racing_day.to_job(
    name="daily_baseline",
    description="Meetings, races, entrants and first odds of a racing day; registers its races as partitions. Reads "
    "yesterday's races that are not complete once more, and those of the last week that are not over.",
    executor_def=day_executor,
    tags={**NO_RUN_RETRY, **DAY_TAGS, **BEFORE_BACKFILLS},
)

evening_backfill_job = complete_racing_day.to_job(
    name="evening_backfill",
    description="Results, dividends and corrections of a racing day and the one before, and races that were missed. "
    "Safe to run again: complete races are left alone.",
    executor_def=day_executor,
    tags={**NO_RUN_RETRY, **DAY_TAGS, **BEFORE_BACKFILLS},
)

meeting_status_job = follow_meetings.to_job(
    name="meeting_status",
    description="Statuses, starts, track and weather from one list; raises the alert for races that are not over.",
    executor_def=dg.in_process_executor,
    tags={**NO_RUN_RETRY, **BEFORE_BACKFILLS},
)

process_images_job = describe_images.to_job(
    name="process_images",
    description="Has a vision API describe images, five in flight: those asked for, or the racing day's silks that "
    "were never described. Needs the extra `images` and VISION_API_URL.",
    executor_def=race_executor,
    tags={**NO_RUN_RETRY, **BEHIND_THE_DAY},
)

data_checks_job = dg.define_asset_job(
    "data_checks",
    selection=dg.AssetSelection.checks(check_data),
    description="Whether the stored data of the racing day keeps its rules.",
    executor_def=dg.in_process_executor,
    tags={**NO_RUN_RETRY, **BEHIND_THE_DAY},
)

JOBS = (
    process_races_job,
    process_race_job,
    daily_baseline_job,
    evening_backfill_job,
    meeting_status_job,
    process_images_job,
    maintenance_job,
    data_checks_job,
)
