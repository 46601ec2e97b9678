"""Where errors become one line and an exit code. Knows which errors are expected; knows no command.

0 done    1 failure    2 wrong use    130 interrupted, 143 by SIGTERM, 129 by SIGHUP
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import signal
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

from cluster.commands.helping import Group
from cluster.machine import hush
from cluster.spec import SpecError
from cluster.stops import Stops, exit_code
from generation.models.errors import ModelError
from storage.fingerprint import FormatError

FAILURE, USE = 1, 2
USE_ERRORS = (SpecError, ModelError, FormatError)
EXPECTED = (OSError, MemoryError, ArithmeticError)
EXPECTED_NAMES = {"TaskFailed", "OutOfMemoryError", "RayError"}
"""Errors of modules that the command line does not import before it must."""
LONGEST_LINE = 600
SHOW_CURSOR = "\x1b[?25h"


@dataclass
class Session:
    """What the boundary knows of a call when it ends badly: whether to show tracebacks, and how to go on.

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


def stoppable_session() -> Session:
    """A session for a process of its own, with a handler of signals to install."""
    session = Session(announces=True)
    session.stops = Stops(lambda code: _leave(session, code))
    return session


def _leave(session: Session, code: int) -> None:
    """End this process as it is: somebody asked twice. What is done is on the disk; Ray ends by itself."""
    cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
    with suppress(OSError):
        os.write(2, f"{cursor}\n{_interrupted(session)}\n".encode())  # not sys.stderr, which may be in use
    os._exit(code)


def session_of(context: Any) -> Session:
    """The call's session; made when first asked for."""
    root: Any = context.find_root()
    if root.obj is None:
        root.obj = Session()
    session: Session = root.obj
    return session


class Boundary(Group):
    """A group whose commands may raise anything: what comes out is a line on standard error and an exit code."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Wrong flags of the program itself, as those of its commands."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except TyperException as error:
            raise _told_in_a_line(error) from error

    def invoke(self, ctx: Any) -> Any:
        hush()
        session = session_of(ctx)
        try:
            with warnings.catch_warnings():
                quieten(session)
                return super().invoke(ctx)
        except TyperException as error:  # wrong flags
            raise _told_in_a_line(error) from error
        except (typer.Exit, typer.Abort):  # --help, an exit asked for
            raise
        except (KeyboardInterrupt, Exception) as error:
            code, message = judged(error, session)
        say(message)
        raise typer.Exit(code)


def say(message: str) -> None:
    """A message on standard error, as it is."""
    Console(stderr=True, emoji=False, soft_wrap=True, highlight=False, markup=False).print(message)


def _told_in_a_line(error: TyperException) -> Exception:
    """The exit that ends a call with wrong flags; calls without any, which show the help, are as typer has them."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error
    message = shortened(" ".join(error.format_message().split())).rstrip(".")
    command = getattr(getattr(error, "ctx", None), "command_path", "hypermosaic")
    say(f"error: {message[:1].lower()}{message[1:]} (see {command} --help)")
    return typer.Exit(USE)


def quieten(session: Session) -> None:
    """Keep libraries' chatter from the terminal; ours is what is left."""
    if session.debug:
        logging.basicConfig(level=logging.INFO)
        return  # and Ray's processes are heard, too
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("diffusers", "transformers", "huggingface_hub", "ray", "py.warnings", "torch", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("pyvips", "tifffile"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they find wrong with a file is raised, too


def judged(error: BaseException, session: Session) -> tuple[int, str]:
    """Exit code and message of an error."""
    stopped = (
        session.stops is not None and session.stops.first is not None
    )  # imports turn it into errors of theirs
    if stopped or isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Interrupted":
        return session.interrupted(), _interrupted(session)
    if session.debug:
        traceback.print_exception(error)
    if isinstance(error, USE_ERRORS) or (isinstance(error, ValueError) and not session.running):
        return (FAILURE if session.running else USE), f"error: {one_line(error)}{_then_resume(session)}"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, EXPECTED) or kinds & EXPECTED_NAMES:
        return FAILURE, f"error: {told(error)}{_then_resume(session)}"
    where = "" if session.debug else f"; the whole of it is in {_log(error)} (or use --debug)"
    return (
        FAILURE,
        f"unexpected error: {type(error).__name__}: {one_line(error)}{where}{_then_resume(session)}",
    )


def told(error: BaseException) -> str:
    """An expected failure and what to do about it."""
    if isinstance(error, OSError) and (error.errno == errno.ENOSPC or "No space left" in str(error)):
        return f"the disk is full ({one_line(error)}); nothing done is lost: free some space"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the port is taken; choose another with --port, or --port 0 for a free one"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's, of a GPU
        return "out of memory; use fewer --workers, a smaller --batch-size or --block"
    return one_line(error)


def one_line(error: BaseException) -> str:
    """The first line of an error's message, shortened; its class where it has none."""
    return shortened((str(error).strip() or type(error).__name__).splitlines()[0])


def shortened(line: str) -> str:
    """A line without the middle of what somebody gave at length; its ends say what is wrong and what to change."""
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"


def _interrupted(session: Session) -> str:
    if not session.running:
        return "interrupted"
    return f"interrupted; nothing done is lost. Go on with:\n  {session.resume_command()}"


def _then_resume(session: Session) -> str:
    return f"; then go on with: {session.resume_command()}" if session.running else ""


def _log(error: BaseException) -> Path:
    """A file with the traceback."""
    path = Path(tempfile.gettempdir()) / f"hypermosaic-{os.getpid()}.log"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return path
