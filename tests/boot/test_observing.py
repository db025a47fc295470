"""What an operator sees under systemd: the journal, the doctor, the metrics' unit."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ovfuse.events import Event
from tests.boot.service import Program, Service, publish
from tests.support.container import ROOT, Container
from tests.support.sealed import write_files
from tests.support.users import NOBODY, open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.systemd]

NUMBERS = itertools.count()
METRICS = "ovfuse-metrics.service"
EXPOSURE_MAX = 3.0
GROUP = "audio"
ASKING = ("--reuid=nobody", f"--regid={GROUP}", "--clear-groups")
HOLD = "import os, sys; os.open(sys.argv[1], os.O_RDONLY); sys.stdin.readline()"
SCRAPE = """
import http.client, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/ovfuse-metrics/socket")
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""


@pytest.fixture(scope="module")
def container(container: Container) -> Container:
    # Where the checkout is, in a directory that the unit may hide otherwise.
    directory = f"/etc/systemd/system/{METRICS}.d"
    container.run("mkdir", directory)
    drop_in = container.path(f"{directory}/test.conf")
    drop_in.write_text(f"[Service]\nBindReadOnlyPaths={ROOT}\n{for_group()}")
    container.run("systemctl", "daemon-reload")
    return container


@pytest.fixture(scope="module")
def plain() -> Iterator[Path]:
    with open_directory() as scratch:
        yield write_files(scratch / "plain")


@pytest.fixture
def service(container: Container, plain: Path) -> Iterator[Service]:
    service = Service(container, f"o{next(NUMBERS)}", plain, "allow_other")
    yield service
    service.systemctl("stop", check=False)
    service.systemctl("reset-failed", check=False)
    wait_until(service.is_gone)
    container.run("systemctl", "disable", "--quiet", service.unit, check=False)
    container.run("rm", "-f", service.configuration)


def for_group() -> str:
    """Return the drop-in for a group, as the head of the unit has it."""
    text = (ROOT / "systemd" / METRICS).read_text("utf-8")
    block = re.search(r"^#   \[Service\]\n((?:#   .+\n)+)#\n", text, re.MULTILINE)
    assert block is not None
    return block[1].replace("#   ", "").replace("Group=prometheus", f"Group={GROUP}")


def journal(container: Container, *matches: str) -> list[dict[str, Any]]:
    words = ("journalctl", "--no-pager", "--output=json", *matches)
    return [json.loads(line) for line in container.run(*words).stdout.splitlines()]


def findings(container: Container, service: Service) -> dict[str, str]:
    """What the doctor says of a unit: details, and how bad each is."""
    done = container.run("ovfuse", "doctor", "--json", check=False)
    assert done.stderr == ""
    found = json.loads(done.stdout)["findings"]
    topic = f"ovfuse@{service.name}"
    return {f["detail"]: f["state"] for f in found if f["topic"] == topic}


def states(found: dict[str, str]) -> set[str]:
    return set(found.values())


def test_journal_has_who_opened_what(container: Container, service: Service) -> None:
    service.start()
    file = f"{service.mountpoint}/model.xml"
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    holder = Program(container, "holder", [*words, "python3", "-c", HOLD, file])
    matches = (
        f"MESSAGE_ID={Event.OPENED.value}",
        f"OVFUSE_MOUNTPOINT={service.mountpoint}",
        f"OVFUSE_UID={NOBODY}",
    )
    wait_until(lambda: journal(container, *matches))
    holder.end()

    (line,) = journal(container, *matches)
    assert line["_SYSTEMD_UNIT"] == service.unit
    assert (line["PRIORITY"], line["SYSLOG_IDENTIFIER"]) == ("6", "ovfuse")
    assert (line["OVFUSE_MODEL"], line["OVFUSE_VERSION"]) == (
        f"{service.name}.sealed",
        "1",
    )
    assert (line["OVFUSE_GID"], line["OVFUSE_COMM"]) == (f"{NOBODY}", "python3")
    # The unit may not look at other accounts' processes; the journal may.
    assert line["OVFUSE_EXE"] == "?"
    assert line["OBJECT_PID"] == line["OVFUSE_PID"]
    assert Path(line["OBJECT_EXE"]).name.startswith("python3")
    assert line["OBJECT_SYSTEMD_UNIT"] == holder.unit
    assert line["MESSAGE"].startswith("opened model=")
    assert "opened model=" in service.log


def test_journal_knows_what_kind_of_event_it_was(
    container: Container, service: Service, plain: Path
) -> None:
    service.start()
    place = f"OVFUSE_MOUNTPOINT={service.mountpoint}"
    container.run("pkill", "-KILL", "-P", service.show("MainPID"))
    succeeded = f"MESSAGE_ID={Event.SUCCEEDED.value}"
    wait_until(lambda: journal(container, succeeded, place))
    service.seal(plain)
    wait_until(lambda: journal(container, f"MESSAGE_ID={Event.CHANGED.value}", place))
    service.systemctl("stop")

    lines = journal(container, place)
    kinds = [line.get("MESSAGE_ID", "") for line in lines]
    expected = (Event.SERVING, Event.SUCCEEDED, Event.CHANGED, Event.UNMOUNTED)
    assert [k for k in kinds if k in {e.value for e in expected}] == [
        event.value for event in expected
    ]
    levels = {line.get("MESSAGE_ID"): line["PRIORITY"] for line in lines}
    assert levels[Event.SUCCEEDED.value] == "4"
    assert levels[Event.UNMOUNTED.value] == "6"


def test_mount_in_the_background_has_fields_as_well(
    container: Container, service: Service
) -> None:
    mountpoint = "/srv/background"
    container.run("mkdir", mountpoint)
    publish(container, "mount", service.cipherdir, mountpoint)
    container.run("cat", f"{mountpoint}/model.xml")
    container.run("ovfuse", "unmount", mountpoint)

    place = f"OVFUSE_MOUNTPOINT={mountpoint}"
    lines = journal(container, place)
    kinds = [line["MESSAGE_ID"] for line in lines]
    expected = (Event.SERVING, Event.OPENED, Event.UNMOUNTED)
    assert kinds == [event.value for event in expected]
    assert "OBJECT_PID" not in lines[1]  # nobody knows whose numbers these are
    assert Path(lines[1]["OVFUSE_EXE"]).name == "cat"


def test_doctor_knows_a_unit_that_is_well(
    container: Container, service: Service
) -> None:
    service.start()
    service.systemctl("enable", "--quiet")
    found = findings(container, service)

    assert states(found) <= {"ok", "warning"}
    details = "\n".join(found)
    assert "active (running), enabled, 0 restarts, result success" in details
    assert f"credential '/etc/ovfuse/{service.name}.identity.cred'" in details
    assert f"on '{service.mountpoint}'" in details
    # This container has no TPM: the key of the credential is on the same disk.
    (warning,) = [d for d, state in found.items() if state == "warning"]
    assert "on the disk of the models" in warning


def test_doctor_says_what_is_wrong(container: Container, service: Service) -> None:
    container.run("rm", f"/etc/ovfuse/{service.name}.identity.cred")
    container.run("rm", "-r", service.cipherdir)
    container.run("touch", f"{service.mountpoint}/not-empty")
    service.systemctl("start", check=False)
    found = findings(container, service)

    problems = "\n".join(d for d, state in found.items() if state == "problem")
    assert "result " in problems
    assert f"'/etc/ovfuse/{service.name}.identity.cred': No such file" in problems
    assert f"CIPHERDIR '{service.cipherdir}' is no directory" in problems
    assert "is not empty" in problems


def test_doctor_repeats_the_last_error(container: Container, service: Service) -> None:
    container.run("rm", "-r", f"{service.cipherdir}/seals")
    service.systemctl("start", check=False)
    wait_until(lambda: service.show("ActiveState") == "failed")
    done = container.run("ovfuse", "doctor", check=False)

    assert done.returncode == 1
    assert re.search(r"it said: 'ovfuse: error: .+'", done.stdout), done.stdout
    log = journal(container, f"_SYSTEMD_UNIT={service.unit}", "PRIORITY=3")
    assert log[-1]["MESSAGE"].startswith("ovfuse: error: ")


def test_doctor_notices_a_mount_that_nobody_sees(
    container: Container, service: Service
) -> None:
    service.override("[Service]\nPrivateMounts=yes\n")
    service.start()
    found = findings(container, service)

    (problem,) = [d for d, state in found.items() if state == "problem"]
    assert problem == f"nobody else sees a mount on '{service.mountpoint}'"


def test_metrics_are_served_by_their_unit(
    container: Container, service: Service
) -> None:
    container.run("systemctl", "start", METRICS)
    service.start()  # later: the mount comes to the unit's namespace
    container.run("cat", f"{service.mountpoint}/model.xml")

    found: dict[tuple[str, str], float] = {}

    def is_serving() -> bool:
        text = container.run("setpriv", *ASKING, "python3", "-c", SCRAPE).stdout
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("mountpoint") == service.mountpoint:
                    state = sample.labels.get("state", "")
                    found[sample.name, state] = sample.value
        return found.get(("ovfuse_mount_state", "serving")) == 1

    wait_until(is_serving)
    assert found["ovfuse_mount_configured", ""] == 1
    assert found["ovfuse_opens_total", ""] >= 1
    assert found["ovfuse_model_version", ""] == 1
    other = [word.replace(GROUP, "video") for word in ASKING]
    refused = container.run("setpriv", *other, "python3", "-c", SCRAPE, check=False)
    assert "PermissionError" in refused.stderr
    container.run("systemctl", "stop", METRICS)
    shown = container.run("systemctl", "show", "-P", "Result", METRICS).stdout
    assert shown.strip() == "success"


def test_unit_of_the_metrics_is_valid_and_closed(container: Container) -> None:
    done = container.run("systemd-analyze", "verify", METRICS)
    assert METRICS not in done.stderr
    text = container.run("systemd-analyze", "security", METRICS).stdout
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert level is not None
    assert float(level[1]) <= EXPOSURE_MAX, text
