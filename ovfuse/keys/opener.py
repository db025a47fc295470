"""Who finds the model key of a sealing.

An `Opener` is asked for one model at a time. `IdentityOpener` has identities in its own
memory; another one (serve/unwrapping.py) asks a process that has. Any thread may use
one of them, as far as people need not be asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from ovfuse.errors import NoUsableKeyError
from ovfuse.keys.identities import FoundIdentities, SourceWords, find_identities
from ovfuse.sealed.wrapped import FoundKey, WrappedKey

__all__ = ["AskPassphrase", "IdentityOpener", "Opener"]

AskPassphrase = Callable[[str], str | None]
"""Asks for the passphrase of the model that it is told; None: nobody to ask."""


class Opener(Protocol):
    """Finds model keys."""

    def model_key(self, wrapped: WrappedKey, about: str) -> FoundKey:
        """Return the model key, which is the caller's, and who holds it.

        Args:
            wrapped: where it is, and what it must fit.
            about: the model's name for people, quoted.

        Raises:
            NoUsableKeyError: nothing opens it; the message lists where was looked.
            KeyFileError: a file among the identities must not be used.
            DamagedError, CipherdirError: the key files cannot be read.
        """


@dataclass(frozen=True, slots=True)
class IdentityOpener:
    """Tries identities that it has, and then a passphrase.

    Attributes:
        found: the identities.
        ask: asks for a passphrase, where there is a key file for one.
    """

    found: FoundIdentities
    ask: AskPassphrase | None = None

    @classmethod
    def find(
        cls, identities: Sequence[SourceWords] = (), ask: AskPassphrase | None = None
    ) -> Self:
        """Look for identities in the usual places.

        Args:
            identities: sources; with them, no other place is looked at.
            ask: asks for a passphrase.

        Raises:
            KeyFileError: one of the sources gives nothing that may be used.
            UsageError: one is named wrongly.
        """
        found = find_identities(identities)
        if found.passphrase is not None:
            return cls(found, lambda _about: found.passphrase)
        return cls(found, _once(ask) if ask and found.asks_once else ask)

    def model_key(self, wrapped: WrappedKey, about: str) -> FoundKey:
        """Return the model key; see `Opener`."""
        question = _Question(self.ask, about)
        found = wrapped.find(self.found.identities, question)
        if found is None:
            raise self._no_usable_key(question.outcome)
        return found

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


def _once(ask: AskPassphrase) -> AskPassphrase:
    """Return what asks for the first model, and has the same answer for the others."""
    answers: list[str | None] = []

    def answer(about: str) -> str | None:
        if not answers:
            answers.append(ask(about))
        return answers[0]

    return answer


class _Question:
    """Asks for the passphrase of one model, and remembers what came of it."""

    def __init__(self, ask: AskPassphrase | None, about: str) -> None:
        self._ask = ask
        self._about = about
        self.outcome = ""

    def __call__(self) -> str | None:
        answer = self._ask(self._about) if self._ask else None
        self.outcome = (
            "its passphrase can be asked for on a terminal only"
            if answer is None
            else "that is not its passphrase"
        )
        return answer
