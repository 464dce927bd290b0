"""Whether a code server works: Dagster's own client asks it."""

from pathlib import Path

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient


def answers(socket: Path, within_s: int) -> bool:
    """Whether the code server on a Unix socket answers a request, and is not only listening."""
    try:
        DagsterGrpcClient(socket=str(socket)).get_server_id(timeout=within_s)
    except DagsterUserCodeUnreachableError:
        return False
    return True
