"""What a sweep keeps in its folder: who runs it, whether it shall stop, and how each job ended.

The jobs of a sweep may be started by processes that share nothing but this folder: joblib's workers, or SLURM's.
"""

import json
import os
import platform
import signal
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captioning.errors import UserError
from captioning.files import write_json
from captioning.runs.run_folder import read_mapping

RUNNING, FINISHED, FAILED, INTERRUPTED, NOT_STARTED = "running", "finished", "failed", "interrupted", "not started"


@dataclass
class JobRecord:
    """How far a job has come; ``job.json`` in its folder.

    Attributes:
        job: its number in the sweep.
        overrides: what was given on its command line.
        folder: its run folder.
        status: one of ``RUNNING``, ``FINISHED``, ``FAILED``, ``INTERRUPTED``, ``NOT_STARTED``.
        error: why it failed, where that is known.
        started: when it was last started, in ISO 8601.
        ended: when that ended; None while it runs.
        seconds: how long it took, earlier starts included; of one that runs, how long the earlier ones took.
        host: the machine that it runs on.
        pid: its process there.
        exit_status: of that process; below 0, the signal that ended it.
    """

    job: int
    overrides: list[str]
    folder: str
    status: str = RUNNING
    error: str | None = None
    started: str = field(default_factory=lambda: _now())
    ended: str | None = None
    seconds: float = 0.0
    host: str = field(default_factory=platform.node)
    pid: int | None = None
    exit_status: int | None = None

    def end(self, status: str, *, error: str | None = None, exit_status: int | None = None) -> "JobRecord":
        """The same, over."""
        self.status, self.error, self.exit_status = status, error, exit_status
        self.ended = _now()
        took = datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)
        self.seconds += took.total_seconds()
        return self


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def read_record(folder: Path) -> JobRecord | None:
    """A run folder's ``job.json``; None where there is none that can be read."""
    try:
        content = read_mapping(folder / "job.json")
        return JobRecord(**content) if content else None
    except (UserError, TypeError):
        return None


class SweepFolder:
    """A sweep's folder, as the sweep and its jobs see it.

    Args:
        path: the folder, ``hydra.sweep.dir``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path / ".sweep"
        self._lock = FileLock(self._state / "lock")

    def begin(self, *, command: Sequence[str], environment: Mapping[str, str], kill_jobs_on_exit: bool) -> None:
        """Take the folder for this process, until it ends.

        Args:
            command: what starts a job, without its overrides.
            environment: variables that jobs shall have as this process has them, whatever a launcher sets.
            kill_jobs_on_exit: whether jobs end when this process does.

        Raises:
            UserError: another process runs a sweep in this folder.
        """
        self._state.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"hydra.sweep.dir={self.path}: another process runs a sweep there; wait for its end, or take another "
                "folder"
            ) from error
        for path in (self._state / "stop", *self._state.glob("job-*.json")):
            path.unlink(missing_ok=True)
        content = {
            "id": uuid.uuid4().hex,
            "host": platform.node(),
            "pid": os.getpid(),
            "kill_jobs_on_exit": kill_jobs_on_exit,
        }
        write_json(self._state / "sweep.json", {**content, "command": list(command), "environment": dict(environment)})

    def end(self) -> None:
        """Let the folder go."""
        self._lock.release()

    def read(self) -> dict[str, Any]:
        """What :meth:`begin` was told, and ``id``, ``host`` and ``pid`` of the process.

        Raises:
            UserError: no sweep was begun here.
        """
        content = read_mapping(self._state / "sweep.json")
        if content is None:
            raise UserError(f"{self.path}: no sweep was begun here")
        return content

    def ask_to_stop(self, signum: int) -> None:
        """Have all jobs be sent a signal, and no other be started."""
        (self._state / "stop").write_text(str(int(signum)))

    def stop_asked(self, sweep: Mapping[str, Any]) -> int | None:
        """The signal that a job shall be sent now; None while it may go on.

        Args:
            sweep: what :meth:`read` gave when the job was started.
        """
        with suppress(OSError, ValueError):  # being written, or not there
            return int((self._state / "stop").read_text())
        return signal.SIGTERM if sweep["kill_jobs_on_exit"] and not self.is_run_by(sweep) else None

    def is_run_by(self, sweep: Mapping[str, Any]) -> bool:
        """Whether the process that began the sweep, when :meth:`read` gave this, is still at it."""
        return bool(self.read()["id"] == sweep["id"]) and is_running(sweep["host"], sweep["pid"])

    def tell(self, record: JobRecord, *, in_its_folder: bool = True) -> None:
        """Write how far a job has come."""
        if in_its_folder:
            write_json(Path(record.folder) / "job.json", asdict(record))
        write_json(self._state / f"job-{record.job}.json", asdict(record))

    def told(self) -> dict[int, JobRecord]:
        """How far each job has come that this sweep had to do with, by its number."""
        records = [JobRecord(**json.loads(path.read_text())) for path in self._state.glob("job-*.json")]
        return {record.job: record for record in sorted(records, key=lambda record: record.job)}


def is_running(host: str, pid: int | None, *, elsewhere: bool = True) -> bool:
    """Whether a process is there; of one on another machine, ``elsewhere``."""
    if pid is None:
        return False
    if host != platform.node():
        return elsewhere
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
