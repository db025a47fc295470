"""The example of systemd/examples: inference over HTTP goes on, whatever happens."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.boot import inference_client
from tests.boot.delivery import CHECKOUT, INSTALL, deliver
from tests.boot.service import Program, Service, installed
from tests.support.container import ROOT, Container, own_suite
from tests.support.users import open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.openvino, pytest.mark.systemd]

EXAMPLES = ROOT / "systemd" / "examples"
URL = "http://127.0.0.1:8080"
SIZE = 640
"""Of the matrix, whose file is large enough to be kept in memory."""
MODEL = f"""
import sys, numpy, openvino as ov
from openvino import opset13 as op
x = op.parameter([1, {SIZE}], numpy.float32, name="x")
x.output(0).set_names({{"x"}})
w = numpy.random.default_rng(int(sys.argv[2])).standard_normal(({SIZE}, {SIZE}))
y = op.matmul(x, op.constant(w.astype(numpy.float32)), False, False)
y.output(0).set_names({{"y"}})
ov.save_model(ov.Model([y], [x], "m"), sys.argv[1], compress_to_fp16=False)
"""
INFER = f"""
import json, sys, numpy, openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU")
pairs = []
for seed in range(8):
    x = numpy.random.default_rng(seed).standard_normal((1, {SIZE}), numpy.float32)
    pairs.append([{{"x": x.tolist()}}, {{"y": model(x)[0].tolist()}}])
print(json.dumps(pairs))
"""
ASK = """
import sys, urllib.error, urllib.request
data = sys.stdin.buffer.read() or None
try:
    print(urllib.request.urlopen(sys.argv[1], data, timeout=30).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""
Pairs = list[Any]
NUMBERS = itertools.count()


def model_of(directory: Path, seed: int) -> tuple[Path, Pairs]:
    """Make a model; return its directory, and what OpenVINO says of plain files."""
    directory.mkdir()
    xml = directory / "model.xml"
    subprocess.run([sys.executable, "-c", MODEL, xml, f"{seed}"], check=True)
    words = [sys.executable, "-c", INFER, f"{xml}"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return directory, json.loads(done.stdout)


@pytest.fixture(scope="module")
def models() -> Iterator[list[tuple[Path, Pairs]]]:
    with open_directory() as scratch:
        yield [model_of(scratch / f"model{seed}", seed) for seed in range(2)]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """With what the head of the example says, as far as it needs no network."""
    with installed() as container:
        container.run("mkdir", "/opt/inference")
        line = f"{ROOT}/.venv /opt/inference none bind 0 0\n"
        container.run("sh", "-c", "cat >>/etc/fstab", given=line)
        container.run("mount", "/opt/inference")
        program, unit = EXAMPLES / "inference.py", EXAMPLES / "inference.service"
        container.run("install", "-m", "644", program, "/usr/local/lib")
        container.run("install", "-m", "644", unit, "/etc/systemd/system")
        yield container


@pytest.fixture(scope="module")
def only_service(container: Container, models: list[tuple[Path, Pairs]]) -> Service:
    service = Service(container, "models", models[1][0])
    group = container.run("getent", "group", "ovfuse").stdout.split(":")[2]
    service.configure(f"allow_other,gid={group},umask=027")
    return service


@pytest.fixture
def service(
    only_service: Service, models: list[tuple[Path, Pairs]]
) -> Iterator[Service]:
    """The instance that the example names, with the first model."""
    only_service.seal(models[0][0])
    yield only_service
    only_service.container.run("systemctl", "stop", "inference", only_service.unit)
    wait_until(only_service.is_gone)


def ask(container: Container, path: str, request: object = None) -> Any:
    """Return what the service answers now."""
    given = "" if request is None else json.dumps(request)
    done = container.run("python3", "-c", ASK, URL + path, given=given)
    return json.loads(done.stdout)


def state_of(container: Container, name: str) -> str:
    shown = container.run("systemctl", "show", "-P", name, "inference.service")
    return shown.stdout.strip()


class Client:
    """A program of another unit that asks all the time; see `inference_client`."""

    def __init__(self, container: Container, pairs: Pairs) -> None:
        name = f"client-{next(NUMBERS)}"
        asked, progress = f"/run/{name}.asked", f"/run/{name}.progress"
        self._progress = container.path(progress)
        container.path(asked).write_text(json.dumps(pairs))
        words = ["/usr/bin/python3", inference_client.__file__, f"{URL}/infer"]
        self._program = Program(container, name, [*words, asked, progress])

    def wait_for_progress(self) -> None:
        wanted = self._done() + 50
        wait_until(lambda: self._done() >= wanted)

    def end(self) -> None:
        self._program.end()

    def _done(self) -> int:
        if not self._program.is_at_work:
            self.end()  # which fails
        if not self._progress.exists():
            return 0
        return int.from_bytes(self._progress.read_bytes(), "big")


def test_unit_is_valid(container: Container) -> None:
    words = ("systemd-analyze", "verify", "--man=no", "inference.service")
    done = container.run(*words, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_client_sees_no_error_and_no_wrong_output(
    service: Service, models: list[tuple[Path, Pairs]]
) -> None:
    """Whatever happens to ovfuse; in the end nothing is left of it."""
    container, pairs = service.container, models[0][1]
    container.run("systemctl", "enable", "--now", "inference")
    assert service.show("ActiveState") == "active"
    assert ask(container, "/healthz") == {"status": "ok"}
    assert "error" in ask(container, "/infer", {"z": 1})
    process = state_of(container, "MainPID")

    client = Client(container, pairs)
    with service.reading("whole", "mapped") as readers:
        for event in ("daemon", "main", "all", "restart", "reload"):
            client.wait_for_progress()
            service.happen(event)
            readers.wait_for_progress()
        client.wait_for_progress()
    client.end()

    newest = models[1]
    service.seal(newest[0])
    request, wanted = newest[1][0]
    wait_until(lambda: ask(container, "/infer", request) == wanted)
    assert state_of(container, "MainPID") == process
    assert state_of(container, "NRestarts") == "0"

    service.systemctl("stop")
    wait_until(service.is_gone)
    assert ask(container, "/infer", request) == wanted  # it has what it has in memory


def test_client_sees_no_error_while_ovfuse_is_upgraded(
    service: Service, models: list[tuple[Path, Pairs]]
) -> None:
    """By scripts/install, of a checkout that has another version by then."""
    container, pairs = service.container, models[0][1]
    deliver(container, own_suite())
    container.run("rm", "/usr/local/bin/ovfuse")  # which is not of an installation
    container.run(*INSTALL)
    container.run("systemctl", "enable", "--now", "inference")
    process, before = state_of(container, "MainPID"), installation_of(service)
    client = Client(container, pairs)
    with service.reading("whole", "mapped") as readers:
        client.wait_for_progress()
        edit = 's/^version = .*/version = "99.1"/'
        container.run("sed", "-i", edit, f"{CHECKOUT}/pyproject.toml")
        container.run(*INSTALL)
        assert installation_of(service) == before
        container.run("ovfuse", "reload", service.mountpoint)
        wait_until(lambda: installation_of(service) != before)
        readers.wait_for_progress()
        client.wait_for_progress()
    client.end()

    assert "/99.1-" in installation_of(service)
    assert state_of(container, "MainPID") == process
    assert state_of(container, "NRestarts") == service.show("NRestarts") == "0"


def installation_of(service: Service) -> str:
    """Return the environment below /opt/ovfuse that the daemon runs from."""
    maps = service.container.run("cat", f"/proc/{service.daemon}/maps").stdout
    found: set[str] = set(re.findall(r"/opt/ovfuse/[^/]+", maps))
    (directory,) = found
    return directory


def test_it_waits_for_models_that_come_later(service: Service) -> None:
    """And finds none in an empty mountpoint, in which nobody could have put any."""
    container = service.container
    credential = f"/etc/ovfuse/{service.name}.identity.cred"
    container.run("mv", credential, f"{credential}.away")
    container.run("systemctl", "start", "inference", check=False)
    assert service.show("ActiveState") == "failed"
    assert not service.is_mounted

    container.run("mv", f"{credential}.away", credential)
    service.start()

    wait_until(lambda: state_of(container, "ActiveState") == "active")
    assert ask(container, "/healthz") == {"status": "ok"}


def test_it_answers_after_a_reboot(
    service: Service, models: list[tuple[Path, Pairs]]
) -> None:
    container, units = service.container, ("inference", service.unit)
    request, wanted = models[0][1][0]
    container.run("systemctl", "enable", "--now", *units)
    assert ask(container, "/infer", request) == wanted

    container.reboot()

    wait_until(lambda: state_of(container, "ActiveState") == "active")
    assert ask(container, "/infer", request) == wanted
    assert service.is_mounted
    container.run("systemctl", "disable", *units)
