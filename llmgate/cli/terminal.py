"""A terminal that is drawn on again and again: the other screen, keys without an echo, and signals as events.

On every way out the terminal is as it was before, also while the program is stopped by Ctrl-Z. Signals do nothing but
wake who waits, so that nothing is ever cut off in the middle of a look or of a line.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.live import Live

KEY_S = 0.05
"""Seconds within which the rest of a key's sequence comes after its Esc, also through ssh."""

ENDS = frozenset(b"qQ\x1b\x03")
"""Keys that end the program: q, Esc, and Ctrl-C where it makes no signal."""

SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|O.|[^\x1b\[O])")
"""What arrows and the like send, and a key together with Alt."""

ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
WATCHED = (*ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class Event(Enum):
    """What ended a wait."""

    TIME = auto()
    REDRAW = auto()
    END = auto()


class Terminal:
    """The terminal while it is ours, as a context manager.

    A dumb one has no second screen and no cursor to move: there each drawing follows the one before.
    """

    def __init__(self) -> None:
        dumb = os.environ.get("TERM") in ("dumb", "", None)
        plain = dumb or bool(os.environ.get("NO_COLOR"))
        self.console = Console(
            file=sys.stdout,
            force_terminal=not dumb,
            color_system=None if plain else "standard",
            markup=False,
            emoji=False,
            highlight=False,
            legacy_windows=False,
        )
        self.is_dumb = dumb
        self._live: Live | None = None
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._modes: list[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Terminal:
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wakes, False)
        self._wakeup_before = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _noted) for number in WATCHED}
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._woken)
            os.close(self._wakes)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now: those of the environment may be of another terminal."""
        with suppress(OSError):
            found = os.get_terminal_size(sys.stdout.fileno())
            if found.columns and found.lines:
                return found.columns, found.lines
        return 80, 24

    @property
    def is_ascii(self) -> bool:
        """Whether it can't show more than ASCII."""
        return not (sys.stdout.encoding or "").lower().startswith("utf")

    def show(self, drawing: RenderableType) -> None:
        columns, lines = self.size
        self.console.size = ConsoleDimensions(columns, lines)
        if self._live is None:
            self.console.print(drawing, end="\n\n")
        else:
            self._live.update(drawing, refresh=True)

    def wait(self, seconds: float) -> Event:
        """Until a key or a signal means something, or the time is over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            watched = [self._woken] if self._keys is None else [self._woken, self._keys]
            ready = select.select(watched, [], [], left)[0]
            event = self._signalled() if self._woken in ready else self._typed() if ready else None
            if event is not None:
                return event
        return Event.TIME

    def _signalled(self) -> Event:
        numbers = os.read(self._woken, 1024)
        if signal.SIGTSTP in numbers:
            self._stop()
        elif signal.SIGCONT in numbers:
            self._give_back()
            self._take()
        return Event.REDRAW if ENDING.isdisjoint(numbers) else Event.END

    def _typed(self) -> Event | None:
        assert self._keys is not None
        try:
            keys = os.read(self._keys, 1024)
            if keys == b"\x1b" and select.select([self._keys], [], [], KEY_S)[0]:
                keys += os.read(self._keys, 1024)
        except OSError:
            keys = b""
        pressed = SEQUENCE.sub(b"", keys)
        return Event.END if not keys or not ENDS.isdisjoint(pressed) else None

    def _stop(self) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, until it lets us go on."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _noted)
        self._take()

    def _take(self) -> None:
        if self._keys is not None:
            self._modes = termios.tcgetattr(self._keys)
            _uninterrupted(tty.setcbreak, self._keys, termios.TCSADRAIN)
        if not self.is_dumb:
            self._live = Live(
                console=self.console,
                screen=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _give_back(self) -> None:
        """Nothing to restore is left over, also where the terminal is gone and can't be told."""
        live, self._live = self._live, None
        if live is not None:
            with suppress(OSError):
                live.stop()
        modes, self._modes = self._modes, None
        if modes is not None and self._keys is not None:
            with suppress(OSError, termios.error):
                _uninterrupted(termios.tcsetattr, self._keys, termios.TCSADRAIN, modes)


def _noted(*_: object) -> None:
    """The wakeup descriptor has told of it."""


def _uninterrupted(change: Callable[..., Any], *args: Any) -> None:
    """Change the terminal's modes: who does that in the background is stopped, and woken by a signal."""
    while True:
        try:
            change(*args)
        except termios.error as error:
            if error.args[0] != errno.EINTR:
                raise
        else:
            return
