"""Slow clients, over real sockets: one byte a second, in either direction, stops nobody else."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from storage.formats.ome_zarr import OmeZarr
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock
from viewer.page import Page, write_page
from viewer.server import HOST, MOST_CONNECTIONS, build_app, settings_of

LAYOUT = PyramidLayout(1024, 1024, tile=256, superblock=1024)
REGION = "/region.png?x=0&y=0&w=1024&h=1024"
SLOW = 60


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job's folder. Its picture is noise: a region of all of it is three megabytes."""
    folder = tmp_path_factory.mktemp("job")
    master = OmeZarr(folder, LAYOUT)
    master.create()
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    write_superblock([master], LAYOUT, LAYOUT.task(0, 0), pixels)
    write_page(folder, Page("noise", LAYOUT, deep_zoom=False))
    return folder


@pytest.fixture(scope="module")
def port(noise: Path) -> Iterator[int]:
    """A server on a free port."""
    with serving(noise) as number:
        yield number


@contextmanager
def serving(folder: Path, most_connections: int = MOST_CONNECTIONS) -> Iterator[int]:
    server = uvicorn.Server(settings_of(build_app(folder), most_connections))
    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def get(port: int, target: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=20)
    connection.request("GET", target)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def connected(port: int, stack: ExitStack, first: bytes) -> socket.socket:
    """A client that takes little and has sent something."""
    client = stack.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((HOST, port))
    client.sendall(first)
    return client


def dribble(clients: list[socket.socket], stop: threading.Event, *, writes: bool) -> None:
    """One byte a second of each."""
    while not stop.wait(1.0):
        for client in clients:
            if writes:
                client.sendall(b"x")
            else:
                client.recv(1)


@pytest.mark.parametrize("writes", [True, False])
def test_slow_clients_stop_nobody(port: int, writes: bool) -> None:
    first = (
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
        if writes
        else f"GET {REGION} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    )
    stop = threading.Event()
    with ExitStack() as stack:
        clients = [connected(port, stack, first) for _ in range(SLOW if writes else 3)]
        slow = threading.Thread(target=dribble, args=(clients, stop), kwargs={"writes": writes})
        slow.start()
        try:
            time.sleep(1.5)  # long enough for the slow ones' regions to be cut and to clog
            for target in ("/", "/viewer/page.js", "/tiles/10/1_2.jpg", "/thumbnail.jpg", REGION):
                began = time.perf_counter()
                status, content = get(port, target)
                assert (status, bool(content)) == (200, True)
                assert time.perf_counter() - began < 5.0
        finally:
            stop.set()
            slow.join(10)


def test_regions_that_nobody_reads_keep_no_place(port: int) -> None:
    """More of them than may be cut at once or wait: each is on disk once it is cut."""
    with ExitStack() as stack:
        request = f"GET {REGION} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        for _ in range(7):
            assert connected(port, stack, request).recv(12) == b"HTTP/1.1 200"
        status, content = get(port, REGION)
        assert status == 200
        with Image.open(BytesIO(content)) as image:
            assert image.size == (1024, 1024)


def test_a_header_without_end_is_refused(port: int) -> None:
    with ExitStack() as stack:
        client = connected(port, stack, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        client.settimeout(10)
        refused = b""
        try:
            for _ in range(64):
                client.sendall(b"x" * 4096)
            refused = client.recv(12)
        except (BrokenPipeError, ConnectionResetError):
            refused = b"HTTP/1.1 400"
        assert refused == b"HTTP/1.1 400"
    assert get(port, "/")[0] == 200


def test_nonsense_is_refused_and_forgotten(port: int) -> None:
    for nonsense in (
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01" * 9 + b"\r\n\r\n",  # the beginning of TLS
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ):
        with ExitStack() as stack:
            client = connected(port, stack, nonsense)
            client.settimeout(10)
            assert client.recv(12) == b"HTTP/1.1 400"
    assert get(port, "/")[0] == 200


UNASKED, UNENDED = b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


@pytest.mark.parametrize("first", [UNASKED, UNENDED], ids=["silent", "without an end"])
def test_idle_connections_lock_nobody_out(noise: Path, first: bytes) -> None:
    """Of more than there is room for, those idle longest go; who asks is answered, again and again."""
    with serving(noise, most_connections=10) as number, ExitStack() as stack:
        idle = [connected(number, stack, first) for _ in range(30)]
        kept = stack.enter_context(socket.create_connection((HOST, number)))
        for _ in range(3):
            assert get(number, "/")[0] == 200
        kept.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert kept.recv(12) == b"HTTP/1.1 200", "the youngest of the idle is still there"
        idle[0].settimeout(5)
        with suppress(ConnectionResetError):
            assert idle[0].recv(1) == b"", "the oldest was closed"


def test_those_who_are_being_answered_keep_their_place(noise: Path) -> None:
    with serving(noise, most_connections=6) as number, ExitStack() as stack:
        request = f"GET {REGION} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        reading = [connected(number, stack, request) for _ in range(3)]
        assert all(client.recv(12) == b"HTTP/1.1 200" for client in reading)
        for _ in range(12):
            connected(number, stack, UNASKED)
        assert get(number, "/")[0] == 200
        for client in reading:
            client.settimeout(10)
            assert len(client.recv(4096)) > 0
