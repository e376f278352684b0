"""How a run is stopped from outside."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 75  # exit status of a run that can be resumed: sysexits.h's EX_TEMPFAIL, "try again"
# Ctrl-C; what schedulers send before they kill; and what SLURM (`--signal=USR1@120`) and submitit (USR2) warn with.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Interrupted(BaseException):  # no Exception, which logging would take for an error of its own and go on
    """The run was told to stop, by the signal of this name or, where that is empty, by one to another process."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name or "a signal to another process")
        self.step = 0  # that it came to


class SignalHandler:
    """Listens for signals.

    While something is under way that must end first (``is_deferred``), a signal is only noted, but a second Ctrl-C ends
    it at once. Otherwise the first signal raises :class:`Interrupted` where the process is.
    """

    def __init__(self) -> None:
        self.noted = ""  # the name of the signal that was received
        self._noted_at = 0.0
        self.is_deferred = False
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take over the signals, from whoever has them."""
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            for number in SIGNALS:
                before = signal.signal(number, self._on_signal)
                self._before.setdefault(number, before)

    def stop_listening(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        now = time.monotonic()
        # Sooner than after a second it is the same Ctrl-C, from the terminal and passed on by a sweep.
        if self.is_deferred and name == self.noted == "SIGINT" and now > self._noted_at + 1:
            raise KeyboardInterrupt
        self.noted, self._noted_at = name, now
        if not self.is_deferred:
            self.is_deferred = True  # a second one, which is usual, mustn't disturb the end
            raise Interrupted(name)


def quit_on_signals() -> None:
    """Let a signal end this process with :data:`INTERRUPTED` until a run listens: nothing has begun yet."""
    for number in SIGNALS:
        signal.signal(number, _quit)


def _quit(number: int, frame: FrameType | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one says what all hear
        print(f"stopped by {signal.Signals(number).name}; the same command begins or goes on", file=sys.stderr)
    os._exit(INTERRUPTED)


@contextmanager
def handle_signals() -> Iterator[SignalHandler]:
    """Listen for signals meanwhile."""
    interruption = SignalHandler()
    interruption.listen()
    try:
        yield interruption
    finally:
        interruption.stop_listening()
