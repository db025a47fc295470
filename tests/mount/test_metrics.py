"""What Prometheus gets: of real mounts, over real sockets, read by its own parser."""

import gzip
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import ovfuse
from ovfuse.errors import MountFailedError, UsageError
from tests.mount.conftest import Sealed
from tests.support.mounting import (
    Home,
    mounted,
    refused,
    start_ovfuse,
    status_of,
    succeed,
)
from tests.support.users import NOBODY, open_directory
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: object) -> float | None:
    """A sample of a mount; None if there is none."""
    return samples.get((name, frozenset((k, f"{v}") for k, v in labels.items())))


def printed(home: Home) -> Samples:
    return parsed(succeed(home, "metrics"))


@contextmanager
def served(
    home: Home, *arguments: str
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The metrics served; at the end SIGTERM must end it well."""
    process = start_ovfuse(home, "metrics", *arguments)
    assert process.stderr is not None
    line = process.stderr.readline()
    try:
        assert line.startswith("ovfuse: metrics at "), line + process.stderr.read()
        yield line.strip().removeprefix("ovfuse: metrics at "), process
        process.terminate()
        said = process.communicate(timeout=30)
        assert (process.returncode, *said) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


class UnixConnection(HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


def scraped(place: str, **headers: str) -> tuple[dict[str, str], bytes]:
    if place.startswith("unix:"):
        connection: HTTPConnection = UnixConnection(place.removeprefix("unix:"))
    else:
        connection = HTTPConnection(place, timeout=30)
    connection.request("GET", "/metrics", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200
    found = dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_numbers_are_those_of_the_mount(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path, engine: str
) -> None:
    tree = scratch / "tree"
    tree.mkdir()
    for name in ("small", "damaged"):
        shutil.copytree(small.cipherdir, tree / name)
    (tree / "damaged" / "model.ovfuse").write_text("rubbish")
    with mounted(publisher, tree, mountpoint, engine=engine) as mount:
        for _ in range(3):
            (mountpoint / "small" / "model.xml").read_bytes()
        with pytest.raises(OSError, match="Input/output"):
            os.listdir(mountpoint / "damaged")
        samples = printed(publisher)
        status = mount.status()

    at = {"mountpoint": mountpoint}
    states = {"serving": 1, "locked": 0, "stale": 0, "unknown": 0}
    for state, expected in states.items():
        assert value(samples, "ovfuse_mount_state", **at, state=state) == expected
    assert value(samples, "ovfuse_opens_total", **at) == 3
    assert value(samples, "ovfuse_denials_total", **at) == 0
    assert value(samples, "ovfuse_failed_reads_total", **at) == status["failed_reads"]
    assert value(samples, "ovfuse_daemon_restarts_total", **at) == 0
    model = {**at, "model": "small"}
    assert value(samples, "ovfuse_model_state", **model, state="unlocked") == 1
    assert value(samples, "ovfuse_model_version", **model) == 1
    assert value(samples, "ovfuse_model_unlocks_total", **model) == 1
    found = {m["path"]: m for m in status["models"]}
    sealed = value(samples, "ovfuse_model_sealed_timestamp_seconds", **model)
    assert sealed == found["small"]["sealed_at"] > 1_700_000_000
    ends = "ovfuse_model_not_after_timestamp_seconds"
    assert value(samples, ends, **model) is None
    model = {**at, "model": "damaged"}
    assert value(samples, "ovfuse_model_state", **model, state="refused") == 1
    assert value(samples, "ovfuse_model_version", **model) is None
    version = value(samples, "ovfuse_build_info", version=ovfuse.__version__)
    assert version == 1
    assert value(printed(publisher), "ovfuse_opens_total", **at) is None


def test_daemons_that_were_replaced_are_counted(
    publisher: Home, small: Sealed, mountpoint: Path
) -> None:
    with mounted(publisher, small.cipherdir, mountpoint, engine="kernel") as mount:
        (mountpoint / "model.xml").read_bytes()
        at = {"mountpoint": mountpoint}
        assert value(printed(publisher), "ovfuse_opens_total", **at) == 1
        before = mount.status()["pid"]
        os.kill(before, signal.SIGKILL)

        def is_replaced() -> bool:
            found = status_of(publisher, mountpoint, "serving")
            return found is not None and found["pid"] != before

        wait_until(is_replaced)
        succeed(publisher, "reload", mountpoint)
        succeed(publisher, "lock", mountpoint)
        samples = printed(publisher)
        assert value(samples, "ovfuse_mount_state", **at, state="locked") == 1
        succeed(publisher, "unlock", mountpoint)
        samples = printed(publisher)

    assert value(samples, "ovfuse_daemon_restarts_total", **at) == 4
    assert value(samples, "ovfuse_opens_total", **at) == 0
    model = {**at, "model": "small"}
    assert value(samples, "ovfuse_model_version", **model) == 1


def test_end_of_terms_is_a_time(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path
) -> None:
    words = ("--not-after", "2100-01-01", small.plain, scratch / "sealed")
    succeed(publisher, "encrypt", *words)
    with mounted(publisher, scratch / "sealed", mountpoint, engine="kernel"):
        samples = printed(publisher)

    name = "ovfuse_model_not_after_timestamp_seconds"
    labels = {"mountpoint": mountpoint, "model": "sealed"}
    assert value(samples, name, **labels) == 4102444800


def test_strangers_names_are_harmless(
    publisher: Home, small: Sealed, scratch: Path
) -> None:
    tree = scratch / "tree"
    tree.mkdir()
    evil = 'x"} 1\novfuse_mount_state{mountpoint="/y\\'
    for name in ("small", evil, evil + "\x1b"):
        shutil.copytree(small.cipherdir, tree / name)
    mountpoint = scratch / os.fsdecode(b'm"\n\xff')
    mountpoint.mkdir()
    with mounted(publisher, tree, mountpoint, engine="kernel"):
        done = subprocess.run(
            [*publisher.program, "metrics"],
            env=publisher.environment,
            capture_output=True,
            check=True,
        )

    text = done.stdout.decode("utf-8")
    assert "\x1b" not in text
    labels = {dict(key[1]).get("model") for key in parsed(text)}
    shown = evil.replace("\n", "\\n")
    assert {"small", shown, shown + "\\x1b"} <= labels
    places = {dict(key[1]).get("mountpoint", "") for key in parsed(text)}
    assert f'{scratch}/m"\\n\\xff' in places


def test_scrape_over_a_socket_file(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path
) -> None:
    path = scratch / "metrics.sock"
    with (
        mounted(publisher, small.cipherdir, mountpoint, engine="kernel"),
        served(publisher, "--listen", f"unix:{path}") as (place, _),
    ):
        assert place == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        headers, body = scraped(place)
        assert headers["Content-Type"].startswith("text/plain; version=")
        at = {"mountpoint": mountpoint, "state": "serving"}
        assert value(parsed(body.decode()), "ovfuse_mount_state", **at) == 1
        headers, body = scraped(place, **{"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert b"ovfuse_mount_state" in gzip.decompress(body)
    assert not path.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_scrape_over_the_loopback_interface(home: Home, host: str) -> None:
    if host == "[::1]" and not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6 here")
    with served(home, "--listen", f"{host}:0") as (place, _):
        assert place.startswith(f"{host}:")
        text = scraped(place)[1].decode()
        assert value(parsed(text), "ovfuse_build_info", version=ovfuse.__version__) == 1
        connection = HTTPConnection(place, timeout=30)
        connection.request("POST", "/", body=b"x")
        assert connection.getresponse().status == 501
        connection.close()


def test_slow_and_many_clients_keep_nobody_waiting_for_long(
    home: Home, scratch: Path
) -> None:
    path = scratch / "socket"
    with served(home, "--listen", f"unix:{path}") as (place, _):
        idle = []
        for _ in range(20):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.connect(f"{path}")
            idle.append(client)
        idle[-1].settimeout(30)
        assert idle[-1].recv(1) == b""  # too many
        idle[0].settimeout(30)
        assert idle[0].recv(1) == b""  # too slow
        wait_until(lambda: idle[7].recv(1) == b"")
        assert b"ovfuse_build_info" in scraped(place)[1]
        for client in idle:
            client.close()


def test_ctrl_c_ends_it(home: Home, scratch: Path) -> None:
    path = scratch / "socket"
    process = start_ovfuse(home, "metrics", "--listen", f"unix:{path}")
    wait_until(path.exists)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (130, "ovfuse: error: interrupted\n")
    assert not path.exists()


def test_group_may_connect_and_others_not(user: Home, home: Home) -> None:
    with open_directory() as directory:
        path = directory / "socket"
        arguments = ("--listen", f"unix:{path}", "--group", f"{NOBODY}")
        with served(home, *arguments) as (place, _):
            status = path.stat()
            assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (NOBODY, 0o660)
            assert connects(path, NOBODY)
            assert not connects(path, NOBODY - 1)
        with served(home, *arguments, "--mode", "0600") as (place, _):
            assert not connects(path, NOBODY)
            assert b"ovfuse" in scraped(place)[1]


def connects(path: Path, gid: int) -> bool:
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code, path],
        user=NOBODY - 2,
        group=gid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 or b"PermissionError" in done.stderr
    return done.returncode == 0


def test_socket_of_a_dead_process_is_replaced(home: Home, scratch: Path) -> None:
    path = scratch / "socket"
    listen = ("metrics", "--listen", f"unix:{path}")
    with served(home, *listen[1:]) as (place, process):
        said = refused(home, MountFailedError, *listen)
        assert "another process listens there" in said
        assert b"ovfuse" in scraped(place)[1]
    process = start_ovfuse(home, *listen)
    wait_until(path.exists)
    process.kill()
    process.communicate()
    assert path.exists()

    with served(home, *listen[1:]) as (place, _):
        assert b"ovfuse" in scraped(place)[1]


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_nothing_else_is_replaced(home: Home, scratch: Path, kind: str) -> None:
    path, other = scratch / "socket", scratch / "other"
    other.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "link":
        path.symlink_to(other)
    else:
        path.mkdir()

    said = refused(home, MountFailedError, "metrics", "--listen", f"unix:{path}")

    assert "something else is there" in said
    assert other.read_text() == "precious"
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--listen", "0.0.0.0:9469"),
        ("--listen", "[::]:9469"),
        ("--listen", "192.0.2.1:9469"),
        ("--listen", "localhost:9469"),
        ("--listen", "127.0.0.1"),
        ("--listen", "127.0.0.1:65536"),
        ("--listen", "127.0.0.1:-1"),
        ("--listen", "127.0.0.1:²"),
        ("--listen", "unix:socket"),
        ("--listen", ""),
        ("--listen", "127.0.0.1:0", "--mode", "0600"),
        ("--mode", "0600"),
        ("--listen", "unix:/tmp/x", "--mode", "rw"),
        ("--listen", "unix:/tmp/x", "--group", "no such group"),
    ],
)
def test_what_makes_no_sense_is_refused(home: Home, arguments: tuple[str, ...]) -> None:
    refused(home, UsageError, "metrics", *arguments)


def test_command_says_what_it_needs(home: Home, scratch: Path) -> None:
    """Nobody has to have the library for anything else."""
    code = (
        "import sys; sys.modules['prometheus_client'] = None; sys.argv[1:] = "
        "['metrics']; from ovfuse.cli import main; main()"
    )
    python = str(Path(home.program[0]).with_name("python"))
    done = subprocess.run(
        [python, "-c", code],
        env=home.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == UsageError.exit_code
    assert "hint: pip install 'ovfuse[metrics]'" in done.stderr
