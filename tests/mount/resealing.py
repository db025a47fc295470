"""Models that are sealed again and again, in this process: a command takes too long."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

from ovfuse.keys.identities import find_identities
from ovfuse.keys.own import read_signing_key
from ovfuse.sealed.manifest import Terms
from ovfuse.sealed.publish import SealingRequest, seal
from tests.support.mounting import Home
from tests.support.sealed import recipient_of

__all__ = ["Resealed", "content_of", "version_of"]

FILES = {"model.xml": 4096, "model.bin": 1 << 20, "sub/labels.txt": 8192}
"""Sizes in bytes, the same in every version."""


def content_of(version: int, size: int) -> bytes:
    """Return what a file of a version holds: its number, all through."""
    return version.to_bytes(8, "big") * (size // 8)


def version_of(data: bytes) -> int:
    """Return the version that the whole of a file is of.

    Raises:
        AssertionError: it is of two.
    """
    assert data == data[:8] * (len(data) // 8), "bytes of two sealings"
    return int.from_bytes(data[:8], "big")


class Resealed:
    """A cipherdir with versions of equal size, which tell by content which they are.

    Args:
        home: whose keys are used.
        cipherdir: where to.
        plain: where the model directory is made.
    """

    def __init__(self, home: Home, cipherdir: Path, plain: Path) -> None:
        self.cipherdir = cipherdir
        self.plain = plain
        self.version = 0
        identities = find_identities([home.identity]).identities
        signing_key = read_signing_key(home.config / "signing_key")
        self._request = SealingRequest(
            model_directory=plain,
            cipherdir=cipherdir,
            recipients=[recipient_of(identities[0])],
            signing_key=signing_key,
            trusted={signing_key.public},
            identities=identities,
            name=None,
            new_model=False,
            terms=Terms(),
        )

    def seal(self, **changes: object) -> "Resealed":
        """Make the next version; `changes` are members of the request."""
        self.version += 1
        for path, size in FILES.items():
            (self.plain / path).parent.mkdir(parents=True, exist_ok=True)
            (self.plain / path).write_bytes(content_of(self.version, size))
        request = replace(self._request, **changes)  # type: ignore[arg-type]  # tests know them
        self.cipherdir.parent.mkdir(parents=True, exist_ok=True)
        # Else it waits for all that anybody wrote to the test's disk.
        with (
            mock.patch("ovfuse.sealed.sealer.sync_filesystem"),
            mock.patch.object(os, "fsync"),
        ):
            seal(request, on_total=lambda _: None, on_bytes=lambda _: None)
        return self

    @property
    def sealing(self) -> Path:
        """The directory of the current sealing."""
        _, _, seal_id = (self.cipherdir / "model.ovfuse").read_text().split()
        return self.cipherdir / "seals" / seal_id

    def prepare(self, scratch: Path) -> "Prepared":
        """Make the next version beside, to be put into place by the test."""
        aside = scratch / f"aside-{self.version}"
        shutil.copytree(self.cipherdir, aside)
        there, self._request = self._request, replace(self._request, cipherdir=aside)
        here, self.cipherdir = self.cipherdir, aside
        self.seal()
        prepared = Prepared(self.sealing, aside / "model.ovfuse", here)
        self.cipherdir, self._request = here, there
        return prepared


class Prepared:
    """A sealing that is not in its cipherdir yet."""

    def __init__(self, sealing: Path, pointer: Path, cipherdir: Path) -> None:
        self.sealing = sealing
        self.pointer = pointer
        self.cipherdir = cipherdir
        self.target = cipherdir / "seals" / sealing.name

    def put_sealing(self) -> Path:
        """Copy the sealing; return its directory."""
        return Path(shutil.copytree(self.sealing, self.target, dirs_exist_ok=True))

    def put_pointer(self) -> None:
        """Switch to it."""
        shutil.copy(self.pointer, self.cipherdir / "new")
        (self.cipherdir / "new").rename(self.cipherdir / "model.ovfuse")
