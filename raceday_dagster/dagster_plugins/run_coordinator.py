"""Which runs wait in Dagster's queue: name `LiveLaneRunCoordinator` in `dagster.yaml`."""

import dagster as dg
from dagster._core.run_coordinator.base import SubmitRunContext

LANE_TAG = "raceday/lane"
LIVE = "live"
QUEUED = "queued"


class LiveLaneRunCoordinator(dg.QueuedRunCoordinator):
    """`QueuedRunCoordinator` past which runs tagged `LANE_TAG: LIVE` go straight to the launcher.

    Every other run goes to the queue, under the tag that the queue's limit counts. A live run that cannot be launched
    has failed, with the reason in its events, and the error is raised: it is not tried again, because the next poll of
    its races comes anyway. Config: that of `QueuedRunCoordinator`.
    """

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        run = context.dagster_run
        if run.status is not dg.DagsterRunStatus.NOT_STARTED:
            return super().submit_run(context)
        if run.tags.get(LANE_TAG) == LIVE:
            self._instance.launch_run(run.run_id, context.workspace)
            return self._instance.get_run_by_id(run.run_id) or run
        self._instance.add_run_tags(run.run_id, {LANE_TAG: QUEUED})
        return super().submit_run(context)
