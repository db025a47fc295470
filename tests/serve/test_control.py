"""The control socket."""

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import MountFailedError, MountpointError
from ovfuse.serve import control
from ovfuse.serve.control import ControlServer, ask, runtime_directory, socket_path
from tests.support.users import open_directory

MOUNTPOINT = Path("/nowhere/models")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: a socket's path has 107 bytes, and pytest's grow with its runs."""
    with open_directory() as directory:
        yield directory


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "ovfuse"
    monkeypatch.setattr(control, "runtime_directory", lambda: directory)
    return directory


@pytest.fixture
def path(runtime: Path) -> Path:
    return socket_path(MOUNTPOINT, runtime)


@pytest.fixture
def server(path: Path) -> Iterator[Path]:
    with ControlServer(MOUNTPOINT, lambda: {"models": ["\udcff"]}):
        yield path


def test_status_is_answered_with_the_pid_of_the_daemon(server: Path) -> None:
    assert ask(server, os.getuid()) == {"models": ["\udcff"], "pid": os.getpid()}


def test_socket_and_directory_are_private(server: Path) -> None:
    assert stat.S_IMODE(server.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.parent.stat().st_mode) == 0o700


def test_nothing_is_left_at_the_end(path: Path) -> None:
    before = threading.active_count()
    with ControlServer(MOUNTPOINT, dict):
        assert path.exists()

    assert not path.exists()
    assert threading.active_count() == before


def test_socket_of_a_dead_daemon_is_replaced(path: Path, runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))

    assert ask(path, os.getuid()) is None
    with ControlServer(MOUNTPOINT, dict):
        assert ask(path, os.getuid()) is not None


def test_second_daemon_for_a_mountpoint_is_refused(server: Path) -> None:
    with (
        pytest.raises(MountpointError, match="another ovfuse is mounting"),
        ControlServer(MOUNTPOINT, dict),
    ):
        pass

    assert ask(server, os.getuid()) is not None


def test_daemon_whose_mount_is_gone_is_replaced(path: Path) -> None:
    with (
        ControlServer(MOUNTPOINT, lambda: {"ready": True, "who": "first"}),
        ControlServer(MOUNTPOINT, lambda: {"ready": True, "who": "second"}),
    ):
        answer = ask(path, os.getuid())

        assert answer is not None
        assert answer["who"] == "second"
    assert not path.exists()


def test_end_of_a_replaced_daemon_leaves_the_socket_of_the_next(path: Path) -> None:
    with ExitStack() as first:
        first.enter_context(ControlServer(MOUNTPOINT, lambda: {"ready": True}))
        with ControlServer(MOUNTPOINT, dict):
            first.close()

            assert ask(path, os.getuid()) is not None


def test_daemon_of_another_account_is_not_believed(server: Path) -> None:
    assert ask(server, os.getuid() + 1) is None


def test_client_of_another_account_gets_no_answer(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = os.getuid()
    peers = iter([(1, me, 0), (2, me + 7, 0)])
    monkeypatch.setattr(control, "_peer", lambda _: next(peers))

    assert ask(server, me) is None


@pytest.mark.parametrize(
    "request_line",
    [b'{"command":"stop"}\n', b"[]\n", b"1\n", b"{}\n"],
)
def test_unknown_requests_are_answered_with_an_error(
    server: Path, request_line: bytes
) -> None:
    assert "error" in exchange(server, request_line)


@pytest.mark.parametrize(
    "request_line", [b"\n", b"{\n", b"\xff\n", b"x" * 5000, b'"' + b"x" * 5000 + b"\n"]
)
def test_malformed_requests_end_the_connection(
    server: Path, request_line: bytes
) -> None:
    with connection(server) as client:
        client.sendall(request_line)
        client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""
    assert ask(server, os.getuid()) is not None


def test_silent_clients_do_not_hold_up_others(server: Path) -> None:
    with ExitStack() as silent:
        for _ in range(5):
            silent.enter_context(connection(server))

        assert ask(server, os.getuid()) is not None


def test_too_many_clients_are_turned_away_and_later_served(server: Path) -> None:
    with ExitStack() as silent:
        for _ in range(control._MAX_CLIENTS):
            silent.enter_context(connection(server)).sendall(b"{")

        with connection(server) as late:
            assert late.recv(1) == b""
    answers = (ask(server, os.getuid()) for _ in range(10_000))
    assert next(answer for answer in answers if answer is not None)


def test_broken_answer_does_not_end_the_server(path: Path) -> None:
    answers: Iterator[dict[str, Any]] = iter([{"a": 1}])

    with ControlServer(MOUNTPOINT, lambda: next(answers)):
        assert ask(path, os.getuid()) is not None
        assert ask(path, os.getuid()) is None
        assert ask(path, os.getuid()) is None


@pytest.mark.parametrize("kind", ["link", "file", "open to all", "of another"])
def test_directory_that_is_not_private_is_refused(
    runtime: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    match kind:
        case "link":
            runtime.symlink_to("elsewhere")
        case "file":
            runtime.touch()
        case "open to all":
            runtime.mkdir()
            runtime.chmod(0o755)
        case "of another":
            if os.getuid() != 0:
                pytest.skip("only root can give a directory away")
            runtime.mkdir(mode=0o700)
            os.chown(runtime, 1, 1)

    with (
        pytest.raises(MountFailedError, match="no control socket"),
        ControlServer(MOUNTPOINT, dict),
    ):
        pass

    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("uid", "environment", "expected"),
    [
        (0, {}, "/run/ovfuse"),
        (0, {"XDG_RUNTIME_DIR": "/x"}, "/run/ovfuse"),
        (1000, {"XDG_RUNTIME_DIR": "/x"}, "/x/ovfuse"),
        (4_000_000, {}, "/tmp/ovfuse-4000000"),
        (4_000_000, {"XDG_RUNTIME_DIR": "relative"}, "/tmp/ovfuse-4000000"),
    ],
)
def test_place_of_the_sockets(
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    environment: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "getuid", lambda: uid)

    assert runtime_directory() == Path(expected)


def test_another_accounts_place_does_not_follow_our_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/x")

    assert runtime_directory(4_000_000) == Path("/tmp/ovfuse-4000000")


def connection(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30)
    client.connect(os.fspath(path))
    return client


def exchange(path: Path, request_line: bytes) -> dict[str, Any]:
    with connection(path) as client, client.makefile("rb") as answers:
        client.sendall(request_line)
        answer: dict[str, Any] = json.loads(answers.readline())
        return answer


def test_what_follows_an_answer_is_done_though_nobody_waits(path: Path) -> None:
    """Whoever locks a mount and is interrupted must not leave it half locked."""
    asked, done = threading.Event(), threading.Event()

    def order(_request: dict[str, Any]) -> control.Answer:
        asked.wait(30)
        return {"much": "x" * (1 << 22)}, done.set

    with ControlServer(MOUNTPOINT, dict, {"order": order}):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))
            client.sendall(b'{"command": "order"}\n')
        asked.set()
        assert done.wait(30)


def test_request_may_have_many_long_paths(path: Path) -> None:
    def order(request: dict[str, Any]) -> control.Answer:
        return {"paths": len(request["paths"])}, None

    paths = ["\u00e9" * 2000] * 10
    with ControlServer(MOUNTPOINT, dict, {"order": order}):
        answer = ask(path, os.getuid(), "order", paths=paths)
    assert answer is not None
    assert answer["paths"] == 10
