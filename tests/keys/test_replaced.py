"""A sealing that is replaced and removed while it is being opened."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ovfuse.errors import CipherdirError, DamagedError, NotFoundError, NoUsableKeyError
from ovfuse.keys import Opener, Place, Unlocker
from ovfuse.keys.history import History
from ovfuse.keys.unlocker import Unlocked
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.seals import complete_sealings
from ovfuse.sealed.wrapped import FoundKey, WrappedKey
from tests.support.sealed import Publisher, write_files


@dataclass(frozen=True, slots=True)
class Slow:
    """An opener during whose work something happens."""

    opener: Opener
    meanwhile: Callable[[], None]

    def model_key(self, wrapped: WrappedKey, about: str) -> FoundKey:
        self.meanwhile()
        return self.opener.model_key(wrapped, about)


@pytest.fixture(scope="module")
def publisher() -> Publisher:
    return Publisher.make()


@pytest.fixture
def seal(publisher: Publisher, tmp_path: Path) -> Callable[[], int]:
    """Makes the next version, and returns which it is."""
    source = write_files(tmp_path / "plain")

    def sealing() -> int:
        return publisher.seal(source, tmp_path / "model").facts.version

    sealing()
    return sealing


def slow(publisher: Publisher, meanwhile: Callable[[], object]) -> Unlocker:
    """Return an unlocker during whose first look for a key something happens."""
    left = [meanwhile]

    def once() -> None:
        if left:
            left.pop()()

    return replace(
        publisher.unlocker,
        opener=Slow(publisher.unlocker.opener, once),
        history=History(),
    )


def unlock(directory: Path, unlocker: Unlocker) -> Unlocked:
    before = len(os.listdir("/proc/self/fd"))
    try:
        with SealedModel.open(directory) as model:
            place = Place(directory, "")
            unlocked = unlocker.unlock(model, ScratchPool(), place=place)
        unlocked.sealing.close()
    finally:
        assert len(os.listdir("/proc/self/fd")) == before
    return unlocked


def test_reader_goes_on_to_the_newest(
    publisher: Publisher, seal: Callable[[], int], tmp_path: Path
) -> None:
    def twice() -> None:  # the one before is kept
        seal()
        seal()

    unlocked = unlock(tmp_path / "model", slow(publisher, twice))

    assert unlocked.sealing.manifest.facts.version == 3


@pytest.mark.parametrize("part", ["keys", "blocks", "objects"])
def test_removal_that_has_only_begun(
    publisher: Publisher,
    seal: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    """The writer is slow, too: it has removed one part by now, and then the rest."""

    def begin(name: str, seals_fd: int) -> None:
        path = f"{name}/{part}"
        os.rename(path, f"{name}/gone", src_dir_fd=seals_fd, dst_dir_fd=seals_fd)

    def twice() -> None:
        monkeypatch.setattr("ovfuse.sealed.seals.remove_tree", begin)
        seal()
        seal()

    unlocked = unlock(tmp_path / "model", slow(publisher, twice))

    assert unlocked.sealing.manifest.facts.version == 3


def test_reader_gives_up_when_it_never_ends(
    publisher: Publisher, seal: Callable[[], int], tmp_path: Path
) -> None:
    def twice() -> None:
        seal()
        seal()

    always = Slow(publisher.unlocker.opener, twice)
    unlocker = replace(publisher.unlocker, opener=always, history=History())

    with pytest.raises(CipherdirError, match="replaced faster"):
        unlock(tmp_path / "model", unlocker)


def test_keys_alone_that_are_gone_are_waited_for_by_nobody(
    publisher: Publisher, seal: Callable[[], int], tmp_path: Path
) -> None:
    def spoil() -> None:
        for path in (tmp_path / "model/seals").glob("*/keys/*"):
            path.unlink()

    with pytest.raises(NoUsableKeyError):
        unlock(tmp_path / "model", slow(publisher, spoil))


def test_envelope_of_the_current_sealing_that_is_gone_is_damage(
    publisher: Publisher, seal: Callable[[], int], tmp_path: Path
) -> None:
    def spoil() -> None:
        (path,) = (tmp_path / "model/seals").glob("*/manifest.dsse.json")
        path.unlink()

    with pytest.raises(DamagedError, match="envelope is missing"):
        unlock(tmp_path / "model", slow(publisher, spoil))


def test_version_before_that_is_removed_is_not_found(
    publisher: Publisher, seal: Callable[[], int], tmp_path: Path
) -> None:
    seal()
    current = unlock(tmp_path / "model", publisher.unlocker)
    previous = current.sealing.manifest.previous
    assert previous is not None
    unlocker = slow(publisher, seal)
    with (
        SealedModel.open(tmp_path / "model") as model,
        model.sealing(previous.seal_id) as locked,
        pytest.raises(NotFoundError),
    ):
        unlocker.unlock_previous(
            locked, previous, ScratchPool(), place=Place(tmp_path / "model", "")
        )


def test_sealing_whose_removal_was_interrupted_is_not_complete(
    publisher: Publisher, seal: Callable[[], int], tmp_path: Path
) -> None:
    """It was killed after the envelope: keys and all else are there."""
    seal()
    older, newer = sorted(
        (tmp_path / "model/seals").iterdir(), key=lambda path: path.stat().st_ctime_ns
    )
    (older / "manifest.dsse.json").unlink()
    seals_fd = os.open(older.parent, os.O_RDONLY)
    try:
        assert complete_sealings(seals_fd) == {newer.name}
    finally:
        os.close(seals_fd)
