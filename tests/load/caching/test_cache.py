"""The compile cache that an app configures: kept sealed, used again, never believed."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import LoadError
from tests.load.caching.cached import (
    EXTERNAL,
    FOLDED,
    INTEGER,
    PATHS,
    Loaded,
    changes,
    files_in,
    header_of,
    load,
    load_elsewhere,
    make_models,
    only_file,
    plain_outputs,
)
from tests.support.mounting import ENGINES, Home, mounted, succeed

pytestmark = pytest.mark.openvino

Configure = Callable[[Path], dict[str, Any]]

WAYS: dict[str, Configure] = {
    "call": lambda place: {"config": {"CACHE_DIR": str(place)}},
    "path": lambda place: {"config": {"CACHE_PATH": str(place)}},
    "file": lambda place: {"config": {"CACHE_PATH": str(place / "model.blob")}},
    "core": lambda place: {"core": {"CACHE_DIR": str(place)}},
    "device": lambda place: {"device": {"CACHE_DIR": str(place)}},
    "nested": lambda place: {
        "config": {"DEVICE_PROPERTIES": {"CPU": {"CACHE_DIR": str(place)}}}
    },
}
MODES = ("OPTIMIZE_SPEED", "OPTIMIZE_SIZE")


@pytest.mark.parametrize("path", PATHS)
def test_second_load_comes_from_the_cache(
    account: Home, cipherdir: Path, compiled_plain: Path, place: Path, path: str
) -> None:
    expected = plain_outputs(compiled_plain / path)
    how = WAYS["call"](place)

    first = load(cipherdir, path, **how)
    second = load(cipherdir, path, **how)
    elsewhere = load_elsewhere(account, cipherdir, path, **how)

    assert first == Loaded(digest=expected, from_cache=False)
    assert second == elsewhere == Loaded(digest=expected, from_cache=True)
    assert only_file(place).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_every_way_to_configure_it_is_taken_over(
    cipherdir: Path, place: Path, way: str, mode: str
) -> None:
    place.mkdir(parents=True)
    how = WAYS[way](place)
    part = next(iter(how.values()))
    part["CACHE_MODE"] = mode
    if way in {"nested", "device"}:
        del part["CACHE_MODE"]
        how["core"] = {"CACHE_MODE": mode}

    first, second = (load(cipherdir, FOLDED, **how) for _ in range(2))

    assert not first.from_cache
    assert second.from_cache
    assert first.digest == second.digest
    assert first.warned == second.warned == []
    assert only_file(place).suffix == ".ovfuse"


def test_callbacks_of_the_app_change_nothing(cipherdir: Path, place: Path) -> None:
    def backwards(data: bytes) -> bytes:
        return data[::-1]

    callbacks = {"CACHE_ENCRYPTION_CALLBACKS": [backwards, backwards]}
    core: dict[str, Any] = {"CACHE_DIR": str(place), **callbacks}
    how: dict[str, Any] = {"core": core, "config": callbacks}

    first, second = (load(cipherdir, FOLDED, **how) for _ in range(2))

    assert second.from_cache
    assert first.digest == second.digest
    assert first.warned == second.warned == []


def test_empty_cache_dir_is_none(cipherdir: Path, place: Path) -> None:
    how: dict[str, Any] = {
        "core": {"CACHE_DIR": str(place)},
        "config": {"CACHE_DIR": ""},
    }

    for _ in range(2):
        assert not load(cipherdir, FOLDED, **how).from_cache

    assert files_in(place) == []


def test_other_settings_are_another_entry(cipherdir: Path, place: Path) -> None:
    how: dict[str, Any] = {"config": {"CACHE_DIR": str(place)}}
    for settings in ({}, {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}):
        how["config"].update(settings)
        assert not load(cipherdir, FOLDED, **how).from_cache
        assert load(cipherdir, FOLDED, **how).from_cache
    # The same, said to the device, and as a number.
    how["device"] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 64}
    del how["config"]["DYNAMIC_QUANTIZATION_GROUP_SIZE"]

    assert load(cipherdir, FOLDED, **how).from_cache
    assert len(files_in(place)) == 2


def test_new_sealing_is_compiled_anew(
    account: Home, cipherdir: Path, place: Path, tmp_path: Path
) -> None:
    how = WAYS["call"](place)
    load(cipherdir, FOLDED, **how)
    other = make_models(tmp_path / "other", seed=2)
    succeed(account, "encrypt", other, cipherdir)

    first, second = (load(cipherdir, FOLDED, **how) for _ in range(2))

    expected = plain_outputs(other / FOLDED)
    assert first == Loaded(digest=expected, from_cache=False)
    assert second == Loaded(digest=expected, from_cache=True)
    assert len(files_in(place)) == 1


def test_older_entry_is_not_used_for_a_newer_sealing(
    account: Home, cipherdir: Path, place: Path, tmp_path: Path
) -> None:
    how = WAYS["call"](place)
    load(cipherdir, FOLDED, **how)
    older = only_file(place).read_bytes()
    other = make_models(tmp_path / "other", seed=2)
    succeed(account, "encrypt", other, cipherdir)
    load(cipherdir, FOLDED, **how)
    only_file(place).write_bytes(older)

    assert load(cipherdir, FOLDED, **how) == Loaded(
        digest=plain_outputs(other / FOLDED), from_cache=False
    )


def test_entry_of_another_model_is_not_used(
    cipherdir: Path, place: Path, compiled_plain: Path
) -> None:
    how = WAYS["call"](place)
    load(cipherdir, INTEGER, **how)
    other = only_file(place).read_bytes()
    load(cipherdir, FOLDED, **how)
    for path in files_in(place):
        path.write_bytes(other)

    found = load(cipherdir, FOLDED, **how)

    assert found.digest == plain_outputs(compiled_plain / FOLDED)
    assert not found.from_cache


def test_tampered_entries_fall_back_and_are_made_again(
    account: Home, cipherdir: Path, place: Path
) -> None:
    how = WAYS["call"](place)
    expected = load(cipherdir, FOLDED, **how).digest
    good = only_file(place).read_bytes()
    for name, change in changes(len(good)).items():
        entry = only_file(place)
        entry.write_bytes(change(good))
        found = load(cipherdir, FOLDED, **how)
        assert found.digest == expected, name
        assert not found.from_cache, name
        assert load(cipherdir, FOLDED, **how).from_cache, name
    entry = only_file(place)
    entry.write_bytes(good[:-9] + b"\0" * 9)

    found = load_elsewhere(account, cipherdir, FOLDED, **how)

    assert (found.digest, found.from_cache) == (expected, False)
    (warning,) = found.warned
    assert "corrupted or tampered with" in warning


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "dangling"])
def test_other_kinds_of_files_are_left_alone(
    cipherdir: Path, place: Path, kind: str
) -> None:
    how = WAYS["call"](place)
    expected = load(cipherdir, FOLDED, **how).digest
    entry = only_file(place)
    moved = entry.rename(place.parent / "moved")
    if kind == "directory":
        entry.mkdir()
    elif kind == "fifo":
        os.mkfifo(entry)
    else:
        entry.symlink_to(moved if kind == "link" else place / "nothing")

    found = load(cipherdir, FOLDED, **how)

    assert (found.digest, found.from_cache) == (expected, False)
    assert found.warned


def test_place_that_cannot_be_written_is_warned_of(
    cipherdir: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")

    found = load(cipherdir, FOLDED, **WAYS["call"](tmp_path / "file" / "cache"))

    assert not found.from_cache
    (warning,) = found.warned
    assert "is not cached" in warning


def test_device_made_of_others_is_compiled_without(
    cipherdir: Path, place: Path
) -> None:
    found = load(cipherdir, FOLDED, device_name="AUTO:CPU", **WAYS["core"](place))

    (warning,) = found.warned
    assert "name one device" in warning or "AUTO:CPU" in warning
    assert files_in(place) == []


def test_who_has_no_identity_is_warned_once(
    account: Home, cipherdir: Path, place: Path
) -> None:
    import openvino

    import ovfuse

    core, config = openvino.Core(), {"CACHE_DIR": str(place)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # As a passphrase opens it.
        model = ovfuse.OpenModel(ovfuse.open_model(cipherdir)._source)
        for _ in range(2):
            model.compile_model(core, FOLDED, "CPU", config)

    (warning,) = caught
    assert "needs an age identity" in str(warning.message)
    assert warning.filename == __file__
    assert files_in(place) == []


def test_app_that_compiles_by_itself_is_warned(cipherdir: Path, place: Path) -> None:
    import openvino

    import ovfuse

    core = openvino.Core()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ovfuse.open_model(cipherdir) as model:
            model.read_model(core, FOLDED)
            assert caught == []
            core.set_property({"CACHE_DIR": str(place)})
            model.read_model(core, FOLDED)

    (warning,) = caught
    assert "in clear" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.fuse
@pytest.mark.parametrize("engine", ENGINES)
def test_on_a_mount_there_is_none(
    account: Home, cipherdir: Path, place: Path, tmp_path: Path, engine: str
) -> None:
    mountpoint = tmp_path / "mnt"
    with mounted(account, cipherdir, mountpoint, engine=engine):
        found = load(mountpoint, FOLDED, **WAYS["core"](place))

    (warning,) = found.warned
    assert "mount" in warning
    assert files_in(place) == []


def test_another_recipient_neither_reads_nor_writes_entries(
    account: Home,
    cipherdir: Path,
    place: Path,
    tmp_path: Path,
) -> None:
    other = Home(directory=tmp_path / "other")
    succeed(other, "keygen")
    succeed(account, "recipients", "add", "-r", other.recipient, cipherdir)
    succeed(other, "trust", "add", account.public_key)
    how = WAYS["call"](place)
    load(cipherdir, FOLDED, **how)
    mine = only_file(place)
    content = mine.read_bytes()
    theirs = load_elsewhere(other, cipherdir, FOLDED, **how)
    (new,) = set(files_in(place)) - {mine}
    forged = new.read_bytes()
    # They can say of theirs whatever is said of mine.
    mine.write_bytes(header_of(content) + forged.removeprefix(header_of(forged)))

    found = load(cipherdir, FOLDED, **how)

    assert not theirs.from_cache
    assert (found.digest, found.from_cache) == (theirs.digest, False)
    assert "another key" in found.warned[0]
    new.write_bytes(header_of(forged) + content.removeprefix(header_of(content)))
    refused = load_elsewhere(other, cipherdir, FOLDED, **how)
    assert (refused.digest, refused.from_cache) == (theirs.digest, False)


def test_device_that_writes_all_the_same_is_refused(
    cipherdir: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the device took no notice of what the call says."""
    from ovfuse.load import trial

    leaking = {k: v for k, v in trial.EXPORTING.items() if k != "CACHE_DIR"}
    monkeypatch.setattr(trial, "EXPORTING", leaking)
    trial.trial_of.cache_clear()
    try:
        with pytest.raises(LoadError, match="although told not to"):
            load(cipherdir, FOLDED, **WAYS["call"](place))
    finally:
        trial.trial_of.cache_clear()

    assert files_in(place) == []


def test_trial_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    from ovfuse.load import trial

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trial.trial_of.cache_clear()

    tried = trial.trial_of("CPU")

    assert tried.is_quiet
    assert tried.hardware
    assert list(tmp_path.iterdir()) == []


def test_external_data_is_part_of_the_entry(cipherdir: Path, place: Path) -> None:
    load(cipherdir, EXTERNAL, **WAYS["call"](place))

    assert only_file(place).stat().st_size > 2 * 96 * 96 * 4
