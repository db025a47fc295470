"""Who may be believed and what opens it: the policy of one command or mount.

One `Unlocker` serves all models of a mount; it is immutable and may be used by many
threads. The order of the checks is that of docs/format.md, Reading.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ovfuse.errors import NoUsableKeyError, RollbackError, UntrustedError
from ovfuse.keys.history import History, Place
from ovfuse.keys.identities import FoundIdentities, find_identities
from ovfuse.keys.trusted import trusted_keys
from ovfuse.quote import quoted
from ovfuse.sealed.envelope import Envelope
from ovfuse.sealed.manifest import Previous, Terms
from ovfuse.sealed.opening import LockedSealing, SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing
from ovfuse.sealed.signing import PublicKey, is_trusted
from ovfuse.sealed.terms import check_machine, check_period, machine_digest

__all__ = ["AskPassphrase", "Unlocked", "Unlocker"]

AskPassphrase = Callable[[str], str | None]
"""Asks for the passphrase of the model that it is told; None: nobody to ask."""


@dataclass(frozen=True, slots=True)
class Unlocked:
    """A sealing that passed every check, and its envelope."""

    sealing: Sealing
    envelope: Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocker:
    """Identities, trusted publishers, and whether distrust is waived.

    `allow_untrusted` waives trust alone; everything else still holds.
    """

    found: FoundIdentities
    trusted: frozenset[PublicKey]
    history: History
    allow_untrusted: bool = False
    ask: AskPassphrase | None = None

    @classmethod
    def find(
        cls,
        identities: Sequence[Path] = (),
        verify_keys: Sequence[Path] = (),
        *,
        allow_untrusted: bool = False,
        allow_rollback: bool = False,
        ask: AskPassphrase | None = None,
    ) -> Self:
        """Look for identities and trusted keys in the usual places.

        Args:
            identities: files; with them, no other place is looked at.
            verify_keys: files with public keys that are trusted too.
            allow_untrusted: accept any signer, or none.
            allow_rollback: accept an older sealing than was seen.
            ask: asks for a passphrase; its argument names the model.

        Raises:
            KeyFileError: a file among them must not be used.
        """
        return cls(
            found=find_identities(identities),
            trusted=trusted_keys(verify_keys),
            history=History(allow_rollback=allow_rollback),
            allow_untrusted=allow_untrusted,
            ask=ask,
        )

    @classmethod
    def without_keys(cls) -> Self:
        """Return one that opens nothing and trusts nobody."""
        found = FoundIdentities([])
        return cls(found=found, trusted=frozenset(), history=History())

    def unlock(  # noqa: PLR0913 - what is opened, and four ways to be strict
        self,
        model: SealedModel,
        pool: ScratchPool,
        *,
        place: Place,
        name: str | None = None,
        check_terms: bool = True,
        check_objects: bool = False,
    ) -> Unlocked:
        """Open the current sealing of the model in a directory.

        Args:
            model: the directory.
            pool: for the readers of its files.
            place: where it is; in a tree, its path must end with the signed name.
            name: what the user demands.
            check_terms: False if nothing of the model is used.
            check_objects: that all are there, before the sealing counts as seen.

        Raises:
            UntrustedError, RollbackError, NoUsableKeyError, TermsError: not for use.
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
        """
        with model.current() as locked:
            envelope = locked.envelope
            self._check_trust(envelope)
            self.history.check(place, envelope)
            sealing = self._open(locked, pool, place)
        with _closed_if_refused(sealing):
            _check_name(sealing.manifest.name, place.path, name)
            if check_terms:
                _check_terms(sealing.manifest.terms)
            if check_objects:
                sealing.check_objects()
            self.history.record(place, envelope)
        return Unlocked(sealing, envelope)

    def unlock_previous(
        self,
        locked: LockedSealing,
        previous: Previous,
        pool: ScratchPool,
        *,
        place: Place,
        name: str | None = None,
    ) -> Unlocked:
        """Open the sealing before one that is unlocked and in use.

        It is older than what was seen, and allowed all the same: the signed manifest
        of its successor vouches for it. What was seen stays as it is.

        Args:
            locked: the sealing.
            previous: what its successor says of it.
            pool: for the readers of its files.
            place: where the model is.
            name: the name that the user demands.

        Raises:
            RollbackError: it is not the one that its successor names.
            OvfuseError: as `unlock`.
        """
        envelope = locked.envelope
        if envelope.payload_sha256 != previous.payload_sha256:
            raise RollbackError("it is not the sealing that its successor names")
        self._check_trust(envelope)
        sealing = self._open(locked, pool, place)
        with _closed_if_refused(sealing):
            _check_name(sealing.manifest.name, place.path, name)
            _check_terms(sealing.manifest.terms)
            sealing.check_objects()
        return Unlocked(sealing, envelope)

    def _open(self, locked: LockedSealing, pool: ScratchPool, place: Place) -> Sealing:
        question = _Question(self.ask, place)
        try:
            return locked.unlock(self.found.identities, pool, question)
        except NoUsableKeyError:
            raise self._no_usable_key(question.outcome) from None

    def _check_trust(self, envelope: Envelope) -> None:
        if self.allow_untrusted or is_trusted(envelope.signers, self.trusted):
            return
        if not envelope.signers:
            raise UntrustedError("it is not signed, and so not trusted")
        who = ", ".join(signer.fingerprint for signer in envelope.signers)
        raise UntrustedError(
            f"it is signed by {who}, which is not trusted",
            hint="if that is your publisher's key: ovfuse trust add PUBLISHER.pub "
            "(for services: trust add --system)",
        )

    def _no_usable_key(self, about_passphrase: str) -> NoUsableKeyError:
        places = ", ".join(self.found.places) or "nowhere"
        if about_passphrase:
            return NoUsableKeyError(
                f"no identity opens it, and {about_passphrase}; looked at {places}",
                hint="name an identity with -i, or try again on a terminal",
            )
        if not self.found.identities:
            return NoUsableKeyError(
                f"no identity was found; looked at {places}",
                hint="name one with -i, or make one with: ovfuse keygen",
            )
        return NoUsableKeyError(
            f"it is not sealed for any of your identities; looked at {places}",
            hint="ask its publisher to seal it for your recipient (age1...)",
        )


class _Question:
    """Asks for the passphrase of one model, and remembers what came of it."""

    def __init__(self, ask: AskPassphrase | None, place: Place) -> None:
        self._ask = ask
        self._place = place
        self.outcome = ""

    def __call__(self) -> str | None:
        about = quoted(self._place.path or self._place.cipherdir)
        answer = self._ask(about) if self._ask else None
        self.outcome = (
            "its passphrase can be asked for on a terminal only"
            if answer is None
            else "that is not its passphrase"
        )
        return answer


@contextmanager
def _closed_if_refused(sealing: Sealing) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sealing.close()
        raise


def _check_terms(terms: Terms) -> None:
    check_period(terms, time.time())
    check_machine(terms, machine_digest())


def _check_name(signed: str, place: str, demanded: str | None) -> None:
    if demanded is not None and demanded != signed:
        raise UntrustedError(
            f"its signed name is {quoted(signed)}, not {quoted(demanded)}"
        )
    if place and not f"/{place}".endswith(f"/{signed}"):
        raise UntrustedError(
            f"its signed name is {quoted(signed)}, which does not fit its place "
            f"{quoted(place)}"
        )
