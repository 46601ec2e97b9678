"""What `hypermosaic` offers, as functions: cluster's own, with the command's defaults, and a picture as the result."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from cluster import api
from cluster.datasets.names import is_batch
from cluster.datasets.status import BatchStatus, read_batch_status
from cluster.engine.continuing import noted
from cluster.following.events import OnEvent, unheard
from cluster.following.status import Status
from cluster.results.mosaic import Mosaic
from cluster.spec.defaults import with_defaults
from cluster.spec.fields import ExecutorName, JobSpec
from cluster.spec.job_file import with_seed_drawn
from cluster.spec.keywords import SpecFields
from cluster.spec.paths import absolute
from hypermosaic.naming import in_arguments, speaks_python

if TYPE_CHECKING:
    from cluster.jobs.report import PlanReport
    from cluster.viewing import Serving

batch = speaks_python(api.batch)
export = speaks_python(api.export)
verify = speaks_python(api.verify)


@speaks_python
def generate(
    prompt: JobSpec | str | None = None,
    /,
    *,
    resume: bool = False,
    progress: bool | None = None,
    on_event: OnEvent = unheard,
    **fields: Unpack[SpecFields],
) -> Mosaic:
    """Make one picture; returns it when it is finished.

        hypermosaic.generate("archipelago", width=4096, height=4096)

    The fields of JobSpec are keyword arguments, the prompt may come first, and so may a whole JobSpec, whose fields the
    others override. Without width and height the picture has 2048 x 2048 pixels, without `out` its folder is
    out/PROMPT. With `resume`, a folder that already holds this job is gone on with.

    progress: None shows bars on a terminal and in notebooks with widgets, True writes lines elsewhere, too, and False
    shows nothing. on_event hears of every task, in this thread.

    Raises SpecError (a setting, or what the machine cannot hold), ModelError, FormatError (a folder of another job),
    NumericalError (NaN from the network), TaskFailed, OSError (a full disk), and Interrupted after Ctrl-C. Whatever is
    done then stays done, and `resume` goes on from there.
    """
    result = api.generate(
        _asked(prompt, fields), resume=resume, progress=progress, on_event=on_event, note=_noted_of_generate
    )
    return Mosaic(result.folder, result.before)


@speaks_python
def plan(
    prompt: JobSpec | str | None = None, /, *, calibrate: bool = False, **fields: Unpack[SpecFields]
) -> PlanReport:
    """What `generate` of the same arguments would cost: patches, files, bytes, memory, seconds. Writes nothing.

    With `calibrate`, the model is loaded and a few evaluations are timed here; otherwise the time is guessed, and its
    range (`seconds_range`) is wide. Raises SpecError and ModelError.
    """
    return api.plan(_asked(prompt, fields), calibrate=calibrate, note=_noted_of_generate)


@speaks_python
def resume(
    folder: Path | str,
    *,
    executor: ExecutorName | None = None,
    workers: int | None = None,
    thorough: bool = False,
    allow_pickle: bool = False,
    progress: bool | None = None,
    on_event: OnEvent = unheard,
) -> Mosaic:
    """Go on with the job of a folder, wherever it stopped; a finished one returns at once.

    thorough: read all that should be there first, and make again what is damaged. The rest as in `generate`; executor
    and workers may differ from before, and a job that was begun with allow_pickle needs it again.
    """
    result = api.resume(
        folder, executor=executor, workers=workers, thorough=thorough, allow_pickle=allow_pickle,
        progress=progress, on_event=on_event,
    )  # fmt: skip
    return Mosaic(result.folder, result.before)


@speaks_python
def status(folder: Path | str) -> Status | BatchStatus:
    """How far the job of a folder is, or the batch. Raises SpecError where it holds neither."""
    place = absolute(folder)
    return read_batch_status(place) if is_batch(place) else api.status(place)


@speaks_python
def open(folder: Path | str) -> Mosaic:
    """The finished picture of a folder, as `generate` gave it.

    Raises SpecError where its job is not finished, or where it is a batch; FileNotFoundError where it holds no picture.
    """
    return Mosaic.of(folder)


@speaks_python
def view(folder: Path | str, *, port: int = 0, open_browser: bool = True) -> Serving:
    """Serve the page of a picture, finished or not, of a batch, or of all of a folder, while the program goes on.

        hypermosaic.view("out/islands")                      in a notebook, whose cell goes on
        hypermosaic.view("out/islands").wait()               in a script: until Ctrl-C, as the command does
        with hypermosaic.view("out/islands") as serving:     until the end of the block
            print(serving.address)

    The server is a thread, and ends with the program or its close(). Port 0 takes a free one. Raises SpecError where
    there is nothing to show, OSError where the port is taken.
    """
    from cluster.viewing import serving

    server = serving(absolute(folder), port)
    if open_browser:
        webbrowser.open(server.address)
    return server


def _asked(prompt: JobSpec | str | None, fields: SpecFields) -> JobSpec:
    """The spec of the arguments of `generate`, with the command's defaults where no whole spec is given."""
    given: Any = with_seed_drawn(dict(fields))[0]
    words = given.get("prompt") if prompt is None else prompt
    settled: Any = with_defaults(words, given) if isinstance(words, str) else given
    return api.spec_of(prompt, settled)


def _noted_of_generate(line: str) -> None:
    """A line that is no error, logged."""
    noted(in_arguments(line, generate))
