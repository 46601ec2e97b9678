"""The console script `hypermosaic`. Knows signals and streams; which commands there are is in cluster/commands/app.py.

Importing the commands takes half a second, and Ctrl-C does not wait for it: it is heard before they are imported.
"""

from __future__ import annotations

import gc

from cluster.commands.session import Session, say, stoppable_session
from cluster.commands.streams import forgiving_streams


def main() -> None:
    """The console script: an exit code, and whatever happens no more than a line about it."""
    session = stoppable_session()
    assert session.stops is not None
    try:
        with forgiving_streams(), session.stops.installed(last=True):
            try:
                _run(session)
            except (Exception, KeyboardInterrupt):
                if session.stops.first is None:
                    raise
                say(session.farewell())
                raise SystemExit(session.interrupted()) from None
    finally:
        gc.freeze()  # the process ends: looking through what it imported once more takes up to a second


def _run(session: Session) -> None:
    from cluster.machine import ask_for_huge_pages, collect_rarely

    collect_rarely()
    ask_for_huge_pages()
    from cluster.commands.app import app

    session.raise_if_stopped()
    app(obj=session)


if __name__ == "__main__":
    main()
