"""`ovfuse compile`: what it keeps is this device's own, and used only if it fits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import (
    DamagedError,
    KeyFileError,
    LoadError,
    NotFoundError,
    OvfuseError,
    UsageError,
)
from tests.load.caching.cached import (
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
from tests.support.infer import OPENVINO_CONFIG
from tests.support.mounting import Home, refused, run_ovfuse, succeed

pytestmark = pytest.mark.openvino

SETTINGS = [
    word
    for name, value in OPENVINO_CONFIG.items()
    for word in ("--config", f"{name}={value}")
]


def compile_here(account: Home, cipherdir: Path, path: str = FOLDED) -> Path:
    """Compile as `load` will; return where the results are."""
    said = succeed(account, "compile", *SETTINGS, cipherdir, path)
    assert said.startswith(f"compiled '{path}' for 'CPU': ")
    return Path(account.environment["XDG_CACHE_HOME"]) / "ovfuse" / "compiled"


@pytest.mark.parametrize("path", PATHS)
def test_result_is_imported(
    account: Home, cipherdir: Path, compiled_plain: Path, path: str
) -> None:
    before = {p: p.read_bytes() for p in files_in(cipherdir)}
    place = compile_here(account, cipherdir, path)
    expected = Loaded(digest=plain_outputs(compiled_plain / path), from_cache=True)

    assert load(cipherdir, path) == expected
    assert load_elsewhere(account, cipherdir, path) == expected
    assert {p: p.read_bytes() for p in files_in(cipherdir)} == before
    assert only_file(place).stat().st_mode & 0o777 == 0o600
    for directory in (place, place.parent):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_only_what_fits_is_imported(account: Home, cipherdir: Path) -> None:
    compile_here(account, cipherdir)

    assert load(cipherdir, FOLDED).from_cache
    other: dict[str, Any] = {"config": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}}
    cases: list[tuple[str, dict[str, Any]]] = [(INTEGER, {}), (FOLDED, other)]
    for path, how in cases:
        found = load(cipherdir, path, **how)
        assert not found.from_cache
        assert found.warned == []


def test_it_is_looked_at_before_the_apps_cache(
    account: Home, cipherdir: Path, place: Path
) -> None:
    compile_here(account, cipherdir)

    assert load(cipherdir, FOLDED, config={"CACHE_DIR": str(place)}).from_cache
    assert files_in(place) == []


def test_result_of_an_older_sealing_is_stale(
    account: Home, cipherdir: Path, tmp_path: Path
) -> None:
    place = compile_here(account, cipherdir)
    other = make_models(tmp_path / "other", seed=2)
    succeed(account, "encrypt", other, cipherdir)
    expected = plain_outputs(other / FOLDED)

    found = load(cipherdir, FOLDED)

    assert (found.digest, found.from_cache) == (expected, False)
    (warning,) = found.warned
    assert "another sealing" in warning
    assert "run ovfuse compile again" in warning
    compile_here(account, cipherdir)
    assert load(cipherdir, FOLDED) == Loaded(digest=expected, from_cache=True)
    assert len(files_in(place)) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("openvino", "another version of OpenVINO"),
        ("hardware", "other hardware"),
        ("device", "another device"),
    ],
)
def test_result_made_elsewhere_is_stale(
    account: Home,
    cipherdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reason: str,
) -> None:
    """As after an update, or on a disk that was put into another machine."""
    from ovfuse.load import cache

    compile_here(account, cipherdir)
    monkeypatch.setattr(cache, "_facts", _other_facts(cache._facts, name))

    found = load(cipherdir, FOLDED)

    assert not found.from_cache
    (warning,) = found.warned
    assert reason in warning


def _other_facts(facts: Any, name: str) -> Any:
    import msgspec

    def other(*arguments: Any) -> Any:
        return msgspec.structs.replace(facts(*arguments), **{name: "other"})

    return other


def test_tampered_results_fall_back(account: Home, cipherdir: Path) -> None:
    place = compile_here(account, cipherdir)
    path = only_file(place)
    good = path.read_bytes()
    expected = load(cipherdir, FOLDED).digest
    for name, change in changes(len(good)).items():
        path.write_bytes(change(good))
        found = load(cipherdir, FOLDED)
        assert (found.digest, found.from_cache) == (expected, False), name
        assert len(found.warned) == 1, name
    found = load_elsewhere(account, cipherdir, FOLDED)
    assert (found.digest, found.from_cache) == (expected, False)
    path.write_bytes(good)
    assert load(cipherdir, FOLDED).from_cache


def test_another_recipient_cannot_open_it(
    account: Home, cipherdir: Path, tmp_path: Path
) -> None:
    """Even with the file and the model key: he does not have the device's secret."""
    other = Home(directory=tmp_path / "other")
    succeed(other, "keygen")
    succeed(account, "recipients", "add", "-r", other.recipient, cipherdir)
    succeed(other, "trust", "add", account.public_key)
    mine = only_file(compile_here(account, cipherdir)).read_bytes()
    theirs = only_file(compile_here(other, cipherdir))
    own = theirs.read_bytes()
    for stolen in (mine, header_of(own) + mine.removeprefix(header_of(mine))):
        theirs.write_bytes(stolen)
        found = load_elsewhere(other, cipherdir, FOLDED)
        assert not found.from_cache
        assert len(found.warned) == 1

    # With the whole directory, the secret is still for the identity.
    secret = next(Path(account.environment["XDG_CACHE_HOME"]).rglob("device-*.age"))
    their_secret = next(theirs.parent.parent.glob("device-*.age"))
    their_secret.write_bytes(secret.read_bytes())
    theirs.write_bytes(mine)
    found = load_elsewhere(other, cipherdir, FOLDED)
    assert not found.from_cache
    assert refused(other, KeyFileError, "compile", cipherdir, FOLDED)


def test_lost_secret_means_compiling_again(account: Home, cipherdir: Path) -> None:
    place = compile_here(account, cipherdir)
    (secret,) = place.parent.glob("device-*.age")
    secret.unlink()

    assert not load(cipherdir, FOLDED).from_cache
    compile_here(account, cipherdir)
    assert load(cipherdir, FOLDED).from_cache


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LoadError, ["--device", "NONESUCH", FOLDED]),
        (LoadError, ["--device", "AUTO", FOLDED]),
        (LoadError, ["--config", "NONESUCH=1", FOLDED]),
        (UsageError, ["--config", "NONESUCH", FOLDED]),
        (UsageError, ["--config", "=1", FOLDED]),
        (NotFoundError, ["missing.xml"]),
        (LoadError, ["external.onnx.data"]),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    account: Home, cipherdir: Path, error: type[OvfuseError], words: list[str]
) -> None:
    *options, path = words
    refused(account, error, "compile", *options, cipherdir, path)

    assert list(Path(account.environment["XDG_CACHE_HOME"]).rglob("*.ovfuse")) == []


def test_damaged_model_is_refused(account: Home, cipherdir: Path) -> None:
    for path in cipherdir.glob("seals/*/objects/*"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    refused(account, DamagedError, "compile", cipherdir, FOLDED)


def test_openvino_that_is_not_installed_is_said(
    account: Home, cipherdir: Path, tmp_path: Path
) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError")
    home = replace(account, extra={**account.extra, "PYTHONPATH": str(tmp_path)})

    said = refused(home, LoadError, "compile", cipherdir, FOLDED)

    assert "not installed" in said
    assert "ovfuse[openvino]" in said


def test_other_commands_do_not_import_openvino(account: Home, tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("raise SystemExit(77)")
    home = replace(account, extra={**account.extra, "PYTHONPATH": str(tmp_path)})

    assert run_ovfuse(home, "compile", "--help").returncode == 0
    assert run_ovfuse(home, "doctor").returncode in {0, 1}
