"""No going back: what is remembered of a place, and what is refused there."""

import contextlib
import dataclasses
import json
import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ovfuse.errors import RollbackError
from ovfuse.keys.history import History, Place
from ovfuse.keys.places import state_directory
from ovfuse.sealed.envelope import Envelope

MODEL, OTHER = "11" * 16, "22" * 16


def envelope(version: int, *, payload: int = 0, model_id: str = MODEL) -> Envelope:
    """As much of one as the history looks at."""
    facts = SimpleNamespace(model_id=model_id, version=version)
    digest = f"{version:032x}{payload:032x}"
    return cast("Envelope", SimpleNamespace(facts=facts, payload_sha256=digest))


@pytest.fixture
def seen() -> Path:
    """Where the state is, which is not there yet."""
    base = state_directory()
    assert base is not None
    return base / "seen"


HERE = Place(Path("/models"), "a")


def see(sealing: Envelope, place: Place = HERE, **options: bool) -> None:
    """What unlocking does."""
    history = History(**options)
    history.check(place, sealing)
    history.record(place, sealing)


def test_newer_ones_and_the_same_again_are_fine(seen: Path) -> None:
    for version in (1, 1, 2, 7, 7):
        see(envelope(version))

    assert len(list(seen.glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("sealing", "words"),
    [
        (envelope(1), "it is version 1, and version 2 was seen here"),
        (envelope(2, payload=1), "another version 2"),
        (envelope(2, model_id=OTHER), "another model"),
        (envelope(9, model_id=OTHER), "another model"),
    ],
)
def test_going_back_is_refused_until_it_is_allowed(
    sealing: Envelope, words: str
) -> None:
    see(envelope(2))
    for method in (History().check, History().record):
        with pytest.raises(RollbackError, match=words) as raised:
            method(HERE, sealing)
        assert "allow_rollback" in raised.value.hint
    see(envelope(2))
    see(sealing, allow_rollback=True)
    see(sealing)


def test_allowed_once_means_from_there_on() -> None:
    see(envelope(5))
    see(envelope(3), allow_rollback=True)
    see(envelope(4))

    with pytest.raises(RollbackError):
        see(envelope(3))


@pytest.mark.parametrize(
    "place",
    [
        Place(Path("/models"), "b"),
        Place(Path("/models"), ""),
        Place(Path("/models/a"), ""),
        Place(Path("/other"), "a"),
        Place(Path(os.fsdecode(b"/\xff")), "a"),
    ],
)
def test_each_place_has_its_own(place: Place) -> None:
    see(envelope(5))
    see(envelope(1, model_id=OTHER), place)

    with pytest.raises(RollbackError):
        see(envelope(4))


def test_state_is_private(seen: Path) -> None:
    see(envelope(1))

    assert seen.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in seen.iterdir())
    assert {path.suffix for path in seen.iterdir()} == {".json", ""}


def test_checking_alone_writes_nothing(seen: Path) -> None:
    History().check(HERE, envelope(1))

    assert not seen.exists()


def test_first_sight_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        see(envelope(3))
        see(envelope(4))

    (message,) = caplog.messages
    assert message == "first sight of 'a', version 3: nothing to compare it with"


DAMAGE: list[bytes | None] = [b"", b"{}", b"\xff", b"x" * 100_000, None]


@pytest.mark.parametrize("data", DAMAGE)
def test_damaged_file_is_said_and_replaced(
    seen: Path, data: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    see(envelope(5))
    path = seen / HERE.file_name
    if data is None:
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(data)
    see(envelope(1))

    assert len([m for m in caplog.messages if "is damaged" in m]) == 1
    assert json.loads(path.read_bytes())["version"] == 1


def test_link_in_its_place_is_not_followed(seen: Path, tmp_path: Path) -> None:
    see(envelope(5))
    path = seen / HERE.file_name
    path.rename(tmp_path / "real")
    path.symlink_to(tmp_path / "real")
    see(envelope(1))

    assert json.loads((tmp_path / "real").read_bytes())["version"] == 5


def test_no_directory_to_be_had_is_one_warning(
    seen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen.parent.parent.mkdir(exist_ok=True)
    seen.parent.write_text("in the way")
    history = History()
    for name in ("a", "b", "c"):
        place = dataclasses.replace(HERE, path=name)
        history.check(place, envelope(1))
        history.record(place, envelope(1))

    (message,) = caplog.messages
    assert "is not noticed" in message


def test_no_home_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ovfuse.keys.history.state_directory", lambda: None)
    history = History()
    for _ in range(3):
        history.check(HERE, envelope(1))
        history.record(HERE, envelope(1))

    assert len(caplog.messages) == 1


def test_full_disk_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    see(envelope(5))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ovfuse.keys.history.os.fsync", full)
    see(envelope(6))
    monkeypatch.undo()

    assert "No space left" in caplog.messages[-1]


def test_rest_of_a_killed_process_does_no_harm(seen: Path) -> None:
    see(envelope(5))
    (seen / "new").write_text("half a rec")
    see(envelope(6))

    assert not (seen / "new").exists()
    with pytest.raises(RollbackError):
        see(envelope(5))


def test_updates_at_once_never_go_back(seen: Path) -> None:
    start = threading.Barrier(16)

    def work(version: int) -> None:
        start.wait()
        for place in (HERE, dataclasses.replace(HERE, path="b")):
            with contextlib.suppress(RollbackError):
                History().record(place, envelope(version))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = [json.loads(path.read_bytes()) for path in seen.glob("*.json")]
    assert [one["version"] for one in found] == [16, 16]


def test_own_sealing_is_known_wherever_the_model_was_seen() -> None:
    tree = Place(Path("/models"), "x/a")
    see(envelope(5), tree)
    own = envelope(1, model_id=OTHER)
    History().record_own(Path("/models/x/a"), own)

    see(own, tree)
    see(own, Place(Path("/models/x/a"), ""))
    for place in (tree, Place(Path("/models/x/a"), "")):
        with pytest.raises(RollbackError):
            see(envelope(6), place)
    see(envelope(6), Place(Path("/models/x"), "a"))  # never seen there
