"""What is wrong with a model: `verify`, `mount -o strict` and a mount say the same."""

import errno
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ovfuse.errors import (
    DamagedError,
    OvfuseError,
    RollbackError,
    TermsError,
    UntrustedError,
)
from tests.mount.conftest import Sealed, envelope_of, flip
from tests.support.mounting import Home, mounted, refused_mount, run_ovfuse, succeed
from tests.support.users import open_directory

pytestmark = pytest.mark.fuse


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The exit code of commands, the errno of calls, and words of the reason."""

    error: type[OvfuseError]
    errno: int
    reason: str


ANSWERS = {
    "expired": Answer(error=TermsError, errno=errno.EACCES, reason="be used since"),
    "early": Answer(error=TermsError, errno=errno.EACCES, reason="be used before"),
    "elsewhere": Answer(error=TermsError, errno=errno.EACCES, reason="this machine"),
    "older": Answer(
        error=RollbackError, errno=errno.EACCES, reason="version 2 was seen here"
    ),
    "stranger": Answer(
        error=UntrustedError, errno=errno.EIO, reason="which is not trusted"
    ),
    "damaged": Answer(error=DamagedError, errno=errno.EIO, reason="the envelope"),
}


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A good model and one of each kind, and who may open them."""

    home: Home
    cipherdir: Path


@pytest.fixture(scope="module")
def tree(small: Sealed) -> Iterator[Tree]:
    with open_directory() as place:
        home, other = (Home(directory=place / name) for name in ("home", "other"))
        top = place / "sealed"
        top.mkdir()
        succeed(other, "keygen")
        terms = {
            "elsewhere": ("--machine", "0" * 64),
            "early": ("--not-before", "2200-01-01"),
            "good": (),
            "damaged": (),
            "older": (),
        }
        for name, options in terms.items():
            succeed(home, "encrypt", *options, small.plain, top / name)
        recipient = ("-r", home.recipient)
        succeed(other, "encrypt", *recipient, small.plain, top / "stranger")
        flip(envelope_of(top / "damaged"), 700)
        older = shutil.copytree(top / "older", place / "first")
        succeed(home, "encrypt", small.plain, top / "older")
        run_ovfuse(home, "verify", top)  # in the tree; `encrypt` saw it by itself
        shutil.rmtree(top / "older")
        shutil.copytree(older, top / "older")
        end = int(time.time()) + 2
        date = datetime.fromtimestamp(end, UTC).isoformat()
        succeed(home, "encrypt", "--not-after", date, small.plain, top / "expired")
        while time.time() < end:
            time.sleep(0.05)
        yield Tree(home=home, cipherdir=top)


@pytest.mark.parametrize("kind", ANSWERS)
def test_verify_and_strict_mount(
    tree: Tree, mountpoint: Path, engine: str, kind: str
) -> None:
    answer, model = ANSWERS[kind], tree.cipherdir / kind
    done = run_ovfuse(tree.home, "verify", model)
    assert done.returncode == answer.error.exit_code
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"FAILED '{model}': ")
    assert answer.reason in line

    options = ("-o", "strict")
    said = refused_mount(
        tree.home, answer.error, model, mountpoint, *options, engine=engine
    )
    assert answer.reason in said


def test_lenient_mount(
    tree: Tree, mountpoint: Path, scratch: Path, engine: str
) -> None:
    log = scratch / "log"
    options = ("-o", f"log={log}")
    with mounted(tree.home, tree.cipherdir, mountpoint, *options, engine=engine):
        for kind, answer in ANSWERS.items():
            with pytest.raises(OSError, match=kind) as caught:
                list((mountpoint / kind).iterdir())
            assert caught.value.errno == answer.errno
        assert (mountpoint / "good" / "model.xml").read_bytes()
    lines = log.read_text().splitlines()
    for kind, answer in ANSWERS.items():
        (line,) = (found for found in lines if f"opendir '/{kind}': " in found)
        assert answer.reason in line
