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

from ovfuse.errors import NotFoundError, OvfuseError, RollbackError, UntrustedError
from ovfuse.keys.history import History, Place
from ovfuse.keys.identities import FoundIdentities
from ovfuse.keys.opener import IdentityOpener, Opener
from ovfuse.keys.trusted import trusted_keys
from ovfuse.quote import quoted
from ovfuse.sealed.envelope import Envelope
from ovfuse.sealed.manifest import Previous, Terms
from ovfuse.sealed.opening import LockedSealing, SealedModel, wrapped_again
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing
from ovfuse.sealed.signing import PublicKey, is_trusted
from ovfuse.sealed.terms import check_machine, check_period, machine_digest
from ovfuse.secret import Secret

__all__ = ["Unlocked", "Unlocker"]


@dataclass(frozen=True, slots=True)
class Unlocked:
    """A sealing that passed every check, its envelope, and what it was opened by."""

    sealing: Sealing
    envelope: Envelope
    key_file: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocker:
    """Who finds keys, trusted publishers, and whether distrust is waived.

    `allow_untrusted` waives trust alone; everything else still holds.
    """

    opener: Opener
    trusted: frozenset[PublicKey]
    history: History
    allow_untrusted: bool = False

    @classmethod
    def find(
        cls,
        opener: Opener,
        verify_keys: Sequence[Path] = (),
        *,
        allow_untrusted: bool = False,
        allow_rollback: bool = False,
    ) -> Self:
        """Look for trusted keys in the usual places.

        Args:
            opener: finds model keys.
            verify_keys: files with public keys that are trusted too.
            allow_untrusted: accept any signer, or none.
            allow_rollback: accept an older sealing than was seen.

        Raises:
            KeyFileError: a file among them must not be used.
        """
        return cls(
            opener=opener,
            trusted=trusted_keys(verify_keys),
            history=History(allow_rollback=allow_rollback),
            allow_untrusted=allow_untrusted,
        )

    @classmethod
    def without_keys(cls) -> Self:
        """Return one that opens nothing and trusts nobody."""
        opener = IdentityOpener(FoundIdentities([]))
        return cls(opener=opener, trusted=frozenset(), history=History())

    def unlock(  # noqa: PLR0913 - what is opened, and four ways to be strict
        self,
        model: SealedModel,
        pool: ScratchPool,
        *,
        place: Place,
        name: str | None = None,
        check_terms: bool = True,
        check: Callable[[Sealing], None] | None = None,
    ) -> Unlocked:
        """Open the current sealing of the model in a directory.

        Args:
            model: the directory.
            pool: for the readers of its files.
            place: where it is; in a tree, its path must end with the signed name.
            name: what the user demands.
            check_terms: False if nothing of the model is used.
            check: called with the sealing before that counts as seen; what it raises
                is raised.

        Raises:
            UntrustedError, RollbackError, NoUsableKeyError, TermsError: not for use.
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
        """

        def check_all(sealing: Sealing) -> None:
            _check_name(sealing.manifest.name, place.path, name)
            if check_terms:
                _check_terms(sealing.manifest.terms)
            if check is not None:
                check(sealing)

        return model.with_current(
            lambda locked: self._unlock_current(locked, pool, place, check_all)
        )

    def _unlock_current(
        self,
        locked: LockedSealing,
        pool: ScratchPool,
        place: Place,
        check: Callable[[Sealing], None],
    ) -> Unlocked:
        envelope = locked.envelope
        self._check_trust(envelope)
        self.history.check(place, envelope)
        sealing, key_file = self._open(locked, pool, place)
        with _closed_if_refused(sealing):
            check(sealing)
            self.history.record(place, envelope)
        return Unlocked(sealing, envelope, key_file)

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
            NotFoundError: it was removed meanwhile.
            OvfuseError: as `unlock`.
        """
        try:
            return self._unlock_previous(locked, previous, pool, place, name)
        except OvfuseError:
            if locked.was_removed:
                raise NotFoundError("it was removed") from None
            raise

    def _unlock_previous(
        self,
        locked: LockedSealing,
        previous: Previous,
        pool: ScratchPool,
        place: Place,
        name: str | None,
    ) -> Unlocked:
        envelope = locked.envelope
        if envelope.payload_sha256 != previous.payload_sha256:
            raise RollbackError("it is not the sealing that its successor names")
        self._check_trust(envelope)
        sealing, key_file = self._open(locked, pool, place)
        with _closed_if_refused(sealing):
            _check_name(sealing.manifest.name, place.path, name)
            _check_terms(sealing.manifest.terms)
            sealing.check_objects()
        return Unlocked(sealing, envelope, key_file)

    def find_key_again(self, envelope: Envelope, key_file: bytes) -> Secret:
        """Return the model key of a sealing that was in use; nobody is asked.

        Args:
            envelope: of it; it must be of a publisher who is trusted now.
            key_file: that it was opened by.

        Raises:
            UntrustedError, NoUsableKeyError: not for use any more.
            KeyFileError: see `Opener.model_key`.
        """
        self._check_trust(envelope)
        with wrapped_again(envelope, key_file) as wrapped:
            return self.opener.model_key(wrapped, "what was in use").model_key

    def _open(
        self, locked: LockedSealing, pool: ScratchPool, place: Place
    ) -> tuple[Sealing, bytes]:
        """Return the sealing, and the key file that it was opened by."""
        with locked.wrapped_key() as wrapped:
            about = quoted(place.path or place.cipherdir)
            found = self.opener.model_key(wrapped, about)
        return locked.unlock_with(found.model_key, pool), found.key_file

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
