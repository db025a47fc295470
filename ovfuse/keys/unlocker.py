"""Who may be believed and what opens it: the policy of one command or mount.

One `Unlocker` serves all models of a mount; it is immutable and may be used by many
threads. The order of the checks is that of docs/format.md, Reading.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ovfuse.errors import NoUsableKeyError, UntrustedError
from ovfuse.keys.identities import FoundIdentities, find_identities
from ovfuse.keys.trusted import trusted_keys
from ovfuse.quote import quoted
from ovfuse.sealed.envelope import Envelope
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing
from ovfuse.sealed.signing import PublicKey, is_trusted
from ovfuse.sealed.terms import check_machine, check_period, machine_digest

__all__ = ["Unlocked", "Unlocker"]


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
    allow_untrusted: bool = False

    @classmethod
    def find(
        cls,
        identities: Sequence[Path] = (),
        verify_keys: Sequence[Path] = (),
        *,
        allow_untrusted: bool = False,
    ) -> Self:
        """Look for identities and trusted keys in the usual places.

        Raises:
            KeyFileError: a file among them must not be used.
        """
        return cls(
            found=find_identities(identities),
            trusted=trusted_keys(verify_keys),
            allow_untrusted=allow_untrusted,
        )

    def unlock(
        self,
        model: SealedModel,
        pool: ScratchPool,
        *,
        place: str | None = None,
        name: str | None = None,
    ) -> Unlocked:
        """Open the current sealing of a model.

        Args:
            model: its directory.
            pool: for the readers of its files.
            place: in a tree, the path below the cipherdir; must end with the name.
            name: the name that the user demands.

        Raises:
            UntrustedError: no trusted signer, or another name.
            NoUsableKeyError, TermsError: not for us, or not here and now.
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
        """
        with model.current() as locked:
            envelope = locked.envelope
            self._check_trust(envelope)
            try:
                sealing = locked.unlock(self.found.identities, pool)
            except NoUsableKeyError:
                raise self._no_usable_key() from None
        try:
            _check_name(sealing.manifest.name, place, name)
            check_period(sealing.manifest.terms, time.time())
            check_machine(sealing.manifest.terms, machine_digest())
        except BaseException:
            sealing.close()
            raise
        return Unlocked(sealing, envelope)

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

    def _no_usable_key(self) -> NoUsableKeyError:
        places = ", ".join(self.found.places) or "nowhere"
        if not self.found.identities:
            return NoUsableKeyError(
                f"no identity was found; looked at {places}",
                hint="name one with -i, or make one with: ovfuse keygen",
            )
        return NoUsableKeyError(
            f"it is not sealed for any of your identities; looked at {places}",
            hint="ask its publisher to seal it for your recipient (age1...)",
        )


def _check_name(signed: str, place: str | None, demanded: str | None) -> None:
    if demanded is not None and demanded != signed:
        raise UntrustedError(
            f"its signed name is {quoted(signed)}, not {quoted(demanded)}"
        )
    if place is not None and not f"/{place}".endswith(f"/{signed}"):
        raise UntrustedError(
            f"its signed name is {quoted(signed)}, which does not fit its place "
            f"{quoted(place)}"
        )
