"""A process that works for another: it is sent the other's signals, says why it fails, and doesn't outlive it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from captioning.config.messages import MISTAKES, explain
from captioning.files import write_text
from captioning.training.signals import SIGNALS

PARENT, REASON_FILE = "CAPTIONING_PARENT", "CAPTIONING_REASON_FILE"
POLL = 0.2  # seconds between looks at a process that works
GRACE = 10.0  # seconds that what a broken process leaves behind has for its own end


class Signals:
    """The signals that this process is sent, held for the process that works for it.

    Args:
        heard: called with each.
    """

    def __init__(self, heard: Callable[[int], None] | None = None) -> None:
        self.received: list[int] = []
        self.replaced: dict[int, Any] = {}  # the handlers that were there before
        self._heard = heard

    def hold(self) -> "Signals":
        """Hold them from now on; out of the main thread, which alone may, nothing is held."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self.replaced[number] = signal.signal(number, self._receive)
        return self

    def release(self) -> None:
        """Give them back to those who had them."""
        for number, handler in self.replaced.items():
            signal.signal(number, handler)
        self.replaced = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if self._heard:
            self._heard(number)


def run_process(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    output: IO[bytes] | None,
    signals: Signals,
    stop_asked: Callable[[], int | None],
    started: Callable[[int], None],
) -> int:
    """Run a process to its end, and answer for what it leaves behind. Returns its exit status.

    It is in a session of its own, so that a Ctrl-C reaches it once, through this process.

    Args:
        command: program and arguments.
        environment: all its variables.
        folder: where it runs.
        output: the file for what it says; None for where this process says it.
        signals: what this process was sent is sent on.
        stop_asked: gives a signal where it shall stop.
        started: called with its number.
    """
    process = subprocess.Popen(
        command,
        env={**environment, PARENT: str(os.getpid())},
        cwd=folder,
        stdin=subprocess.DEVNULL if output else None,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    started(process.pid)
    sent, is_told = 0, False
    while True:
        with suppress(subprocess.TimeoutExpired):
            status = process.wait(POLL)
            break
        for number in signals.received[sent:]:
            sent, is_told = sent + 1, True
            process.send_signal(number)
        if not is_told and (asked := stop_asked()) is not None:
            is_told = True
            process.send_signal(asked)
    if status:
        _end_group(process.pid)
    return status


def _end_group(group: int) -> None:
    """End the other processes of a run whose first is gone: they would wait for it, and hold its GPUs."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        try:
            if number:
                os.killpg(group, number)
            deadline = time.monotonic() + GRACE
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(POLL)
        except (ProcessLookupError, PermissionError):  # the latter is macOS's word for a group of none but zombies
            return


@contextmanager
def supervised() -> Iterator[None]:
    """Within, this process ends with the one that started it by :func:`run_process`, and notes why it failed."""
    # Taken out of the environment: the further processes of a run have this one for their parent.
    parent, file = os.environ.pop(PARENT, None), os.environ.pop(REASON_FILE, None)
    if parent:
        threading.Thread(target=_end_without, args=(int(parent),), daemon=True).start()
    try:
        yield
    except Exception as error:
        if file:
            said = " ".join(str(error).split())
            line = explain(error) if isinstance(error, MISTAKES) else f"{type(error).__name__}: {said}"
            with suppress(OSError):
                write_text(Path(file), line[:1000])
        raise


def _end_without(parent: int) -> None:
    while os.getppid() == parent:  # it becomes another's when the parent dies, however it dies
        time.sleep(1)
    print(f"process {parent}, which this one works for, is gone: stopping", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
