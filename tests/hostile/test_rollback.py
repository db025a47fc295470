"""No going back: what was seen in a place before, and what it refuses."""

import fcntl
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ovfuse.errors import RollbackError
from ovfuse.keys import Place
from ovfuse.keys.history import History
from ovfuse.keys.places import state_directory
from ovfuse.sealed.envelope import Envelope
from ovfuse.sealed.manifest import ClearFacts
from ovfuse.sealed.wrapping import Identity
from tests.hostile.published import NEW_FILES, OLD_FILES, make_published, write
from tests.support.sealed import make_unlocker, outcome, recipient_of

HERE = Place(Path("/cipherdir"), "a/model")


def envelope(*, model: str = "0", version: int = 1, payload: str = "0") -> Envelope:
    facts = ClearFacts(
        format=1, model_id=model * 32, seal_id="0" * 32, sealed_at=0, version=version
    )
    return Envelope(
        facts=facts,
        clear_facts=b"",
        manifest_message=b"",
        payload_sha256=payload * 64,
        signers=(),
    )


def seen_directory() -> Path:
    base = state_directory()
    assert base is not None
    return base / "seen"


def state_of(place: Place) -> Path:
    return seen_directory() / place.file_name


REFUSED = {
    "another model": (envelope(model="1", version=9, payload="1"), "another model"),
    "older": (envelope(version=2, payload="1"), "version 2, and version 3"),
    "the same version": (envelope(version=3, payload="1"), "another version 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_goes_back_is_refused(case: str) -> None:
    back, reason = REFUSED[case]
    History().record(HERE, envelope(version=3))

    for act in (History().check, History().record):
        with pytest.raises(RollbackError, match=reason) as caught:
            act(HERE, back)
        assert "allow-rollback" in caught.value.hint
    History().check(HERE, envelope(version=3))


def test_what_is_newer_is_accepted_and_remembered() -> None:
    History().record(HERE, envelope(version=3))
    History().check(HERE, envelope(version=4, payload="1"))
    History().record(HERE, envelope(version=4, payload="1"))

    with pytest.raises(RollbackError):
        History().check(HERE, envelope(version=3))


@pytest.mark.parametrize(
    "other", [Place(HERE.cipherdir, "b/model"), Place(Path("/other"), HERE.path)]
)
def test_places_are_apart(other: Place) -> None:
    History().record(HERE, envelope(version=3))
    History().record(other, envelope(model="1"))

    History().check(HERE, envelope(version=3))
    History().check(other, envelope(model="1"))


def test_what_is_accepted_on_demand_is_what_was_seen() -> None:
    History().record(HERE, envelope(version=3))
    demanded = History(allow_rollback=True)
    demanded.check(HERE, envelope(version=2))
    demanded.record(HERE, envelope(version=2))

    History().check(HERE, envelope(version=2))
    History().record(HERE, envelope(version=2))


def test_state_is_private() -> None:
    History().record(HERE, envelope())

    assert seen_directory().stat().st_mode & 0o777 == 0o700
    assert state_of(HERE).stat().st_mode & 0o777 == 0o600
    assert "/" not in HERE.file_name


def test_link_in_the_place_of_the_state_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    History().record(HERE, envelope(version=3))
    state_of(HERE).rename(tmp_path / "state")
    state_of(HERE).symlink_to(tmp_path / "state")
    with caplog.at_level(logging.WARNING):
        History().check(HERE, envelope(version=1))
    assert "going back to older versions is not noticed" in caplog.text

    History().record(HERE, envelope(version=1))
    assert not state_of(HERE).is_symlink()
    assert b'"version":3' in (tmp_path / "state").read_bytes()


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 100, b"[" * 70_000])
def test_state_that_is_damaged_is_told(
    caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    History().record(HERE, envelope(version=3))
    state_of(HERE).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        History().check(HERE, envelope(version=1))

    assert "is damaged: what was seen before is lost" in caplog.text


def test_one_process_at_a_time() -> None:
    """A writer waits for the lock, and then compares with what is there by then."""
    History().record(HERE, envelope(version=1))
    lock = os.open(seen_directory() / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    writer = threading.Thread(
        target=History().record, args=(HERE, envelope(version=2, payload="2"))
    )
    writer.start()
    writer.join(0.2)
    waited = writer.is_alive()
    os.close(lock)
    writer.join()

    assert waited
    with pytest.raises(RollbackError):
        History().check(HERE, envelope(version=1))


def test_older_sealing_is_refused_by_a_reader(
    tmp_path: Path, identity: Identity
) -> None:
    published = make_published().for_recipient(recipient_of(identity).canonical)
    unlocker = make_unlocker([identity], [published.signer])
    pointer = write(published.both, tmp_path) / "model.ovfuse"
    pointer.write_bytes(published.old.files["model.ovfuse"])
    assert outcome(tmp_path, unlocker) == OLD_FILES
    pointer.write_bytes(published.new.files["model.ovfuse"])
    assert outcome(tmp_path, unlocker) == NEW_FILES

    pointer.write_bytes(published.old.files["model.ovfuse"])
    assert isinstance(outcome(tmp_path, unlocker), RollbackError)
    demanded = replace(unlocker, history=History(allow_rollback=True))
    assert outcome(tmp_path, demanded) == OLD_FILES
    assert outcome(tmp_path, unlocker) == OLD_FILES


def test_going_back_is_refused_before_any_key_file_is_opened(
    tmp_path: Path, identity: Identity
) -> None:
    published = make_published().for_recipient(recipient_of(identity).canonical)
    unlocker = make_unlocker([identity], [published.signer])
    pointer = write(published.both, tmp_path) / "model.ovfuse"
    assert outcome(tmp_path, unlocker) == NEW_FILES
    pointer.write_bytes(published.old.files["model.ovfuse"])
    (tmp_path / published.old.path_of("keys")).rename(tmp_path / "keys")

    assert isinstance(outcome(tmp_path, unlocker), RollbackError)


def test_what_does_not_unlock_is_not_remembered(
    tmp_path: Path, identity: Identity
) -> None:
    """Else somebody with an old signed envelope of another model could lock us out."""
    published = make_published()
    nobody = make_unlocker([], [published.signer])
    write(published.new.files, tmp_path)
    (tmp_path / published.new.path_of("keys")).mkdir()
    outcome(tmp_path, nobody)

    assert not seen_directory().exists()
