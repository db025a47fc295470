"""Who is believed and what opens it: each check, and their order."""

import gc
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ovfuse.errors import (
    KeyFileError,
    NoUsableKeyError,
    OvfuseError,
    TermsError,
    UntrustedError,
)
from ovfuse.keys import IdentityOpener, Place, Unlocker
from ovfuse.keys.identities import FoundIdentities
from ovfuse.keys.own import own_identities, own_signing_key
from ovfuse.keys.unlocker import Unlocked
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.wrapping import Identity
from tests.support.encryptor import NO_TERMS, Json, Plain, SealedFiles, encrypt
from tests.support.sealed import (
    make_identity,
    make_unlocker,
    signers_of,
    write_sealed,
)

NOW = 2_000_000_000
HERE = "0a" * 32


@pytest.fixture(scope="module")
def identity() -> Identity:
    return make_identity()


@pytest.fixture(autouse=True)
def now_and_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovfuse.keys.unlocker.time.time", lambda: float(NOW))
    monkeypatch.setattr("ovfuse.keys.unlocker.machine_digest", lambda: HERE)


def make(
    *, name: str = "org/model", signers: int = 1, terms: Json | None = None
) -> SealedFiles:
    plain = Plain(
        files={"a": b"a"},
        name=name,
        signers=signers,
        terms={**NO_TERMS, **(terms or {})},
    )
    return encrypt(plain, "unlocker")


def unlock(
    directory: Path,
    unlocker: Unlocker,
    *,
    place: str = "",
    name: str | None = None,
) -> Unlocked:
    """Unlock; close what was opened, and check that errors leave nothing open."""
    gc.collect()  # else what other tests left may be closed in between
    before = len(os.listdir("/proc/self/fd"))
    try:
        with SealedModel.open(directory) as model:
            unlocked = unlocker.unlock(
                model, ScratchPool(), place=Place(directory, place), name=name
            )
        unlocked.sealing.close()
    finally:
        assert len(os.listdir("/proc/self/fd")) == before
    return unlocked


def test_trusted_model_with_an_identity(tmp_path: Path, identity: Identity) -> None:
    made = make()
    write_sealed(made, tmp_path, identity)
    unlocked = unlock(tmp_path, make_unlocker([identity], signers_of(made)))

    assert unlocked.sealing.manifest.name == "org/model"
    assert list(unlocked.envelope.signers) == signers_of(made)


@pytest.mark.parametrize("trusted", [0, 1, 2])
def test_one_trusted_signer_of_several_is_enough(
    tmp_path: Path, identity: Identity, trusted: int
) -> None:
    made = make(signers=3)
    write_sealed(made, tmp_path, identity)
    unlocker = make_unlocker([identity], [signers_of(made)[trusted]])

    assert len(unlock(tmp_path, unlocker).envelope.signers) == 3


def test_signer_who_is_not_trusted(tmp_path: Path, identity: Identity) -> None:
    made = make(signers=2)
    write_sealed(made, tmp_path, identity)
    with pytest.raises(UntrustedError) as caught:
        unlock(tmp_path, make_unlocker([identity], []))

    for signer in signers_of(made):
        assert signer.fingerprint in caught.value.message
    assert "ovfuse trust add" in caught.value.hint


def test_nobody_signed(tmp_path: Path, identity: Identity) -> None:
    write_sealed(make(signers=0), tmp_path, identity)

    with pytest.raises(UntrustedError, match="it is not signed"):
        unlock(tmp_path, make_unlocker([identity], []))


@pytest.mark.parametrize("signers", [0, 1])
def test_distrust_that_is_waived(
    tmp_path: Path, identity: Identity, signers: int
) -> None:
    write_sealed(make(signers=signers), tmp_path, identity)
    unlocker = make_unlocker([identity], [], allow_untrusted=True)

    assert unlock(tmp_path, unlocker).sealing.manifest.name == "org/model"


def test_no_identity_fits(tmp_path: Path, identity: Identity) -> None:
    made = make()
    write_sealed(made, tmp_path, identity)
    unlocker = make_unlocker([make_identity()], signers_of(made))
    with pytest.raises(NoUsableKeyError) as caught:
        unlock(tmp_path, unlocker)

    assert caught.value.message == (
        "it is not sealed for any of your identities; looked at 'identity.txt'"
    )
    assert "ask its publisher" in caught.value.hint


@pytest.mark.parametrize(
    ("places", "said"), [((), "nowhere"), (("'a'", "'b' (gone)"), "'a', 'b' (gone)")]
)
def test_no_identity_was_found(
    tmp_path: Path, identity: Identity, places: tuple[str, ...], said: str
) -> None:
    made = make()
    write_sealed(made, tmp_path, identity)
    opener = IdentityOpener(FoundIdentities([], places))
    unlocker = replace(make_unlocker([], signers_of(made)), opener=opener)
    with pytest.raises(NoUsableKeyError) as caught:
        unlock(tmp_path, unlocker)

    assert caught.value.message == f"no identity was found; looked at {said}"
    assert "ovfuse keygen" in caught.value.hint


@pytest.mark.parametrize(
    ("signed", "place"),
    [
        ("model", "model"),
        ("model", "org/model"),
        ("org/model", "org/model"),
        ("org/model", "a/b/org/model"),
    ],
)
def test_name_that_fits_its_place(
    tmp_path: Path, identity: Identity, signed: str, place: str
) -> None:
    made = make(name=signed)
    write_sealed(made, tmp_path, identity)
    unlocker = make_unlocker([identity], signers_of(made))

    assert unlock(tmp_path, unlocker, place=place).sealing.manifest.name == signed


@pytest.mark.parametrize(
    ("signed", "place"),
    [
        ("model", "mymodel"),
        ("model", "model/1"),
        ("model", "Model"),
        ("org/model", "model"),
        ("org/model", "other/model"),
        ("org/model", "xorg/model"),
        ("é", "e\u0301"),
    ],
)
def test_name_that_does_not_fit_its_place(
    tmp_path: Path, identity: Identity, signed: str, place: str
) -> None:
    made = make(name=signed)
    write_sealed(made, tmp_path, identity)
    unlocker = make_unlocker([identity], signers_of(made))

    with pytest.raises(UntrustedError, match="does not fit its place"):
        unlock(tmp_path, unlocker, place=place)


def test_name_that_is_demanded(tmp_path: Path, identity: Identity) -> None:
    made = make()
    write_sealed(made, tmp_path, identity)
    unlocker = make_unlocker([identity], signers_of(made))

    unlock(tmp_path, unlocker, name="org/model")
    with pytest.raises(UntrustedError, match="is 'org/model', not 'model'"):
        unlock(tmp_path, unlocker, name="model")


def test_name_counts_also_where_distrust_is_waived(
    tmp_path: Path, identity: Identity
) -> None:
    write_sealed(make(), tmp_path, identity)
    unlocker = make_unlocker([identity], [], allow_untrusted=True)

    with pytest.raises(UntrustedError):
        unlock(tmp_path, unlocker, place="other")
    with pytest.raises(UntrustedError):
        unlock(tmp_path, unlocker, name="other")


@pytest.mark.parametrize(
    "terms",
    [
        {"not_before": NOW},
        {"not_after": NOW + 1},
        {"machines": [HERE, "0b" * 32]},
        {"not_before": 0, "not_after": NOW + 1, "machines": [HERE]},
        {"text": "not here"},
    ],
)
def test_terms_that_allow_it(tmp_path: Path, identity: Identity, terms: Json) -> None:
    made = make(terms=terms)
    write_sealed(made, tmp_path, identity)

    unlock(tmp_path, make_unlocker([identity], signers_of(made)))


@pytest.mark.parametrize(
    "terms", [{"not_before": NOW + 1}, {"not_after": NOW}, {"machines": ["0b" * 32]}]
)
@pytest.mark.parametrize("allow_untrusted", [False, True])
def test_terms_that_do_not(
    tmp_path: Path, identity: Identity, terms: Json, *, allow_untrusted: bool
) -> None:
    made = make(terms=terms)
    write_sealed(made, tmp_path, identity)
    unlocker = make_unlocker(
        [identity], signers_of(made), allow_untrusted=allow_untrusted
    )

    with pytest.raises(TermsError, match="not to be used"):
        unlock(tmp_path, unlocker)


def no_trust(unlocker: Unlocker) -> Unlocker:
    return replace(unlocker, trusted=frozenset())


def no_key(unlocker: Unlocker) -> Unlocker:
    return replace(unlocker, opener=IdentityOpener(FoundIdentities([])))


def as_it_is(unlocker: Unlocker) -> Unlocker:
    return unlocker


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda u: no_trust(no_key(u)), UntrustedError),
        (no_key, NoUsableKeyError),
        (as_it_is, UntrustedError),  # the name
    ],
    ids=["trust", "key", "name"],
)
def test_checks_are_made_in_the_order_of_the_document(
    tmp_path: Path,
    identity: Identity,
    change: Callable[[Unlocker], Unlocker],
    expected: type[OvfuseError],
) -> None:
    """Trust, then keys, then the name, then the terms: here all are wrong."""
    made = make(terms={"not_after": 1})
    write_sealed(made, tmp_path, identity)
    unlocker = change(make_unlocker([identity], signers_of(made)))

    with pytest.raises(expected):
        unlock(tmp_path, unlocker, place="elsewhere")


def test_everything_is_found_in_the_usual_places(tmp_path: Path) -> None:
    (identity,), _ = own_identities()
    signing_key, _ = own_signing_key()
    opener = IdentityOpener.find()
    unlocker = Unlocker.find(opener)

    assert unlocker.trusted == {signing_key.public}
    assert [i.recipient for i in opener.found.identities] == [identity.recipient]
    assert not unlocker.allow_untrusted


def test_named_files_are_used(tmp_path: Path, configuration: Path) -> None:
    own_identities()
    signing_key, file = own_signing_key()
    moved = configuration.rename(tmp_path / "moved")
    opener = IdentityOpener.find([moved / "identity.txt"])
    unlocker = Unlocker.find(opener, [moved / "signing_key.pub"], allow_untrusted=True)

    assert file.path.name == "signing_key"
    assert unlocker.trusted == {signing_key.public}
    assert len(opener.found.identities) == 1
    assert unlocker.allow_untrusted


def test_file_that_must_not_be_used_stops_everything(configuration: Path) -> None:
    own_identities()
    (configuration / "identity.txt").chmod(0o644)

    with pytest.raises(KeyFileError):
        IdentityOpener.find()
