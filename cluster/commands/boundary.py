"""Where errors become one line and an exit code. Knows which errors are expected; knows no command.

0 done    1 failure    2 wrong use    130 interrupted, 143 by SIGTERM, 129 by SIGHUP
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from cluster.commands.helping import CommandGroup
from cluster.commands.session import Session, say, session_of
from cluster.machine import hush
from cluster.wording import LONGEST_OF_OURS, one_line
from generation.models.errors import shortened

FAILURE, USE = 1, 2
EXPECTED = (OSError, MemoryError, ArithmeticError)
EXPECTED_NAMES = {"TaskFailed", "OutOfMemoryError", "RayError"}
"""Errors of modules that the command line does not import before it must."""


class Boundary(CommandGroup):
    """A group whose commands may raise anything: what comes out is a line on standard error and an exit code."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Wrong flags of the program itself, as those of its commands; and a signal while they are read."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except TyperException as error:
            raise _told_in_a_line(error) from error
        except KeyboardInterrupt:
            session = extra.get("obj") or Session()
            say(session.farewell())
            raise typer.Exit(session.interrupted()) from None

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


def _told_in_a_line(error: TyperException) -> Exception:
    """The exit that ends a call with wrong flags; calls without any, which show the help, are as typer has them."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error
    message = shortened(" ".join(error.format_message().split()), LONGEST_OF_OURS).rstrip(".")
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
        return session.interrupted(), session.farewell()
    if session.debug:
        traceback.print_exception(error)
    if is_wrong_use(error) or (isinstance(error, ValueError) and not session.running):
        code = FAILURE if session.running else USE
        return code, f"error: {one_line(error, LONGEST_OF_OURS)}{session.then_resume()}"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, EXPECTED) or kinds & EXPECTED_NAMES:
        return FAILURE, f"error: {told(error)}{session.then_resume()}"
    where = "" if session.debug else f"; the whole of it is in {_log(error)} (or use --debug)"
    return (
        FAILURE,
        f"unexpected error: {type(error).__name__}: {one_line(error)}{where}{session.then_resume()}",
    )


def is_wrong_use(error: BaseException) -> bool:
    """Whether what was asked for cannot be; the modules that say so are imported no sooner than for an error."""
    from cluster.spec.fields import SpecError
    from generation.models.errors import ModelError
    from storage.fingerprint import FormatError

    return isinstance(error, SpecError | ModelError | FormatError)


def told(error: BaseException) -> str:
    """An expected failure and what to do about it."""
    if isinstance(error, OSError) and (error.errno == errno.ENOSPC or "No space left" in str(error)):
        return f"the disk is full ({one_line(error)}); nothing done is lost: free some space"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the port is taken; choose another with --port, or --port 0 for a free one"
    if isinstance(error, BlockingIOError) and error.strerror:  # a folder that is another process's
        return error.strerror
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's, of a GPU
        return "out of memory; use fewer --workers, a smaller --batch-size or --block"
    return one_line(error)


def _log(error: BaseException) -> Path:
    """A file with the traceback."""
    path = Path(tempfile.gettempdir()) / f"hypermosaic-{os.getpid()}.log"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return path
