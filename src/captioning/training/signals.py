"""How a run is stopped from outside. Until a run installs its handler, a signal does what the system does with it."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 75  # exit status of a run that can be resumed: sysexits.h's EX_TEMPFAIL, "try again"
# Ctrl-C; what schedulers send before they kill; and what SLURM (`--signal=USR1@120`) and submitit (USR2) warn with.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Interrupted(BaseException):  # no Exception, which logging would take for an error of its own and continue
    """The run was stopped by the signal of this name or, where that is empty, by one to another process."""

    def __init__(self, name: str = "", *, step: int = 0) -> None:
        super().__init__(name or "a signal to another process")
        self.step = step  # that it came to, where that is known


class SignalHandler:
    """Raises :class:`Interrupted` at the first signal.

    While ``deferred``, a signal is only ``received``; a second Ctrl-C ends the run at once.
    """

    def __init__(self) -> None:
        self.received = ""  # the name of the signal
        self.deferred = False
        self.step = 0  # that training has come to
        self._received_at = 0.0
        self._replaced: dict[int, object] = {}

    def install(self, action: signal.Handlers | None = None) -> None:
        """Take over the signals, from whoever has them; ``action`` is what they do instead."""
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            for number in SIGNALS:
                self._replaced.setdefault(number, signal.signal(number, self._receive if action is None else action))

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._replaced.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what it returned
        self._replaced.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        # Sooner than after a second it is the same Ctrl-C, from the terminal and passed on by a sweep.
        if self.deferred and name == self.received == "SIGINT" and now > self._received_at + 1:
            raise KeyboardInterrupt
        self.received, self._received_at = name, now
        if not self.deferred:
            self.deferred = True  # a second one, which is usual, mustn't disturb the end
            raise Interrupted(name, step=self.step)


@contextmanager
def handle_signals() -> Iterator[SignalHandler]:
    """Within, a signal raises :class:`Interrupted`."""
    handler = SignalHandler()
    handler.install()
    try:
        yield handler
    finally:
        handler.restore()


@contextmanager
def default_signals() -> Iterator[None]:
    """Within, a signal ends the process: Python's handlers don't run while a library waits for other processes."""
    handler = SignalHandler()
    handler.install(signal.SIG_DFL)
    try:
        yield
    finally:
        handler.restore()
