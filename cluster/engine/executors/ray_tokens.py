"""Whether a Ray cluster lets this process in: it asks for a token unless it was told not to. Knows no work.

Ray takes its token along for a cluster that it finds by itself. For an address in RAY_ADDRESS it does so only where
RAY_AUTH_MODE=token says it; otherwise it knocks for 20 seconds and then says that nobody answers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

HOST_AND_PORT = re.compile(r"\[?([^/\]]+?)\]?:(\d+)")
PATIENCE = 15.0
REFUSED = 3
ASK = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit({REFUSED})
"""
"""In a process of its own: it may wait for long, it writes to standard error, and it reads the environment once."""


class NotLetIn(ConnectionError):
    """A cluster asks for a token that was not given to it; the message is one line, and says what to set."""


def check_admission(address: str) -> None:
    """Raises NotLetIn for a cluster at host:port that refuses this process; nothing where it cannot be asked."""
    if not HOST_AND_PORT.fullmatch(address):
        return
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASK, address], capture_output=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # joining it says what is wrong
        return
    if asked.returncode == REFUSED:
        raise NotLetIn(what_to_set(address))


def what_to_set(address: str) -> str:
    """The line for a cluster that asks for a token and was given none, or another."""
    token = "RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head node"
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return f"the Ray cluster at {address} refuses the token, or there is none: set {token}"
    return f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token, and {token}"
