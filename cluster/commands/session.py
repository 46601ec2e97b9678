"""What is known of a call when it ends: how it was stopped, and how to go on. Knows no command; imports little."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.stops import Stops, exit_code

SHOW_CURSOR = "\x1b[?25h"


@dataclass
class Session:
    """What the boundary knows of a call when it ends badly: whether to show tracebacks, and how to go on.

    folder: a job's, which is begun or about to be; running: while there is something to go on with.
    command: what to call to go on, where that is not `resume` of the folder. stops: what hears of signals; announces:
    whether to say what is waited for. Only a process of its own has them: who calls the commands knows what was called.
    """

    debug: bool = False
    folder: Path | None = None
    running: bool = False
    command: str | None = None
    stops: Stops | None = None
    announces: bool = False

    def begin(self) -> None:
        """From here on there is something to go on with."""
        self.running = True

    def announce(self, line: str) -> None:
        """Say what begins now, or what the user waits for."""
        if self.announces:
            say(line)

    def resume_command(self) -> str:
        """What to type to go on."""
        return self.command or f"hypermosaic resume {shlex.quote(str(self.folder))}"

    def interrupted(self) -> int:
        """The exit code after a signal; Ctrl-C's where nobody heard which."""
        return exit_code((self.stops and self.stops.first) or signal.SIGINT)

    def raise_if_stopped(self) -> None:
        """Raises KeyboardInterrupt after a signal, which a library that was being imported may have kept for itself."""
        if self.stops is not None and self.stops.first is not None:
            raise KeyboardInterrupt

    def farewell(self) -> str:
        """What is said after a signal: how to go on, where there is something to go on with."""
        if not self.running:
            return "interrupted"
        return f"interrupted; nothing done is lost. Go on with:\n  {self.resume_command()}"

    def then_resume(self) -> str:
        """How to go on, as the end of an error's line."""
        return f"; then go on with: {self.resume_command()}" if self.running else ""


def stoppable_session() -> Session:
    """A session for a process of its own, with a handler of signals to install."""
    session = Session(announces=True)
    session.stops = Stops(lambda code: _leave(session, code))
    return session


def _leave(session: Session, code: int) -> None:
    """End this process as it is: somebody asked twice. What is done is on the disk; Ray ends by itself."""
    cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
    with suppress(OSError):
        os.write(2, f"{cursor}\n{session.farewell()}\n".encode())  # not sys.stderr, which may be in use
    os._exit(code)


def session_of(context: Any) -> Session:
    """The call's session; made when first asked for."""
    root: Any = context.find_root()
    if root.obj is None:
        root.obj = Session()
    session: Session = root.obj
    return session


def say(message: str) -> None:
    """A message on standard error, as it is."""
    print(message, file=sys.stderr, flush=True)
