"""What a view leaves to a successor, as records of `ovfuse.keeping`.

Of a sealing: what it is, its model key and the key file that holds it, and descriptors
of its envelope, block lists and objects. Of a file that is open: its object. Of a
place: what is shown there. Of the node of a locked model: what it leads to. Names have
hexadecimal node numbers or places.
"""

import json
import logging
import os
from dataclasses import dataclass
from typing import Final

from ovfuse.errors import OvfuseError
from ovfuse.keeping import PASSING, Keeping, Record
from ovfuse.keys.unlocker import Unlocked, Unlocker
from ovfuse.quote import quoted
from ovfuse.sealed.envelope import Envelope
from ovfuse.sealed.opening import inherit_sealing
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import SealingFiles
from ovfuse.secret import Secret

__all__ = ["Inheritance", "KeptEntrance", "KeptView"]

_log = logging.getLogger(__name__)

_CIPHERDIR: Final = "cipherdir"
_SEALING: Final = "sealing/"
_SHOWN: Final = "shown/"
_ENTRANCE: Final = "entrance/"
_FILE: Final = PASSING


@dataclass(frozen=True, slots=True)
class KeptEntrance:
    """The node of a locked model, and the sealing that it leads to, if it is bound."""

    generation: int
    payload_sha256: str


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a view begins with in a successor.

    Attributes:
        cipherdir_fd: of the whole cipherdir.
        sealings: by place; those that are not whole any more are left out.
        shown: the payload hash of what is shown, by place.
        entrances: by place.
        files: descriptors of objects by node number; who takes one owns it.
        lacks_keys: whether no key was kept of a sealing, and none was found.
    """

    cipherdir_fd: int
    sealings: dict[str, list[Unlocked]]
    shown: dict[str, str]
    entrances: dict[str, list[KeptEntrance]]
    files: dict[int, int]
    lacks_keys: bool

    @property
    def places(self) -> set[str]:
        """Where anything was in use."""
        return {*self.sealings, *self.shown, *self.entrances}


class KeptView:
    """The records of one view.

    Args:
        keeping: where they are kept.
    """

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping

    def keep_cipherdir(self, fd: int) -> None:
        """Keep the cipherdir open."""
        self._keeping.keep(_CIPHERDIR, b"", [fd])

    def keep_sealing(self, number: int, place: str, unlocked: Unlocked) -> None:
        """Keep a sealing, which has a number, before anything of it is shown."""
        facts = {
            "place": place,
            "seal_id": unlocked.envelope.facts.seal_id,
            "payload_sha256": unlocked.envelope.payload_sha256,
        }
        data = json.dumps(facts).encode() + b"\n" + unlocked.key_file
        sealing = unlocked.sealing
        with sealing.model_key.view as key:
            self._keeping.keep(f"{_SEALING}{number:x}", data, sealing.files, key)

    def drop_sealing(self, number: int) -> None:
        """Forget a sealing: its key is wiped everywhere."""
        self._keeping.drop(f"{_SEALING}{number:x}")

    def show(self, place: str, payload_sha256: str | None) -> None:
        """Note which sealing is shown at a place, if any."""
        if payload_sha256 is None:
            self._keeping.drop(_SHOWN + place)
        else:
            self._keeping.keep(_SHOWN + place, payload_sha256.encode())

    def bind(self, place: str, generation: int, payload_sha256: str) -> None:
        """Note what a node of a locked model leads to from now on."""
        name = f"{_ENTRANCE}{generation}/{place}"
        self._keeping.keep(name, payload_sha256.encode())

    def unbind(self, place: str, generation: int) -> None:
        """Forget a node that nobody knows any more."""
        self._keeping.drop(f"{_ENTRANCE}{generation}/{place}")

    def keep_file(self, number: int, fd: int) -> None:
        """Keep the object of a file that is open."""
        self._keeping.keep(f"{_FILE}{number:x}", b"", [fd])

    def drop_file(self, number: int) -> None:
        """Forget the object: the file was closed."""
        self._keeping.drop(f"{_FILE}{number:x}")

    def let_go_of(self, files: dict[int, int]) -> None:
        """Close inherited objects that nobody took: their files were just closed."""
        while files:
            number, fd = files.popitem()
            os.close(fd)
            self.drop_file(number)

    def inherit(self, pool: ScratchPool, unlocker: Unlocker) -> Inheritance | None:
        """Return what predecessors left; None if there was none.

        Args:
            pool: for the readers of files.
            unlocker: finds the keys that are not kept any more.
        """
        fds = [record.fds[0] for _, record in self._keeping.take(_CIPHERDIR)]
        if not fds:
            return None
        entrances: dict[str, list[KeptEntrance]] = {}
        for name, record in self._keeping.take(_ENTRANCE):
            generation, _, place = name.partition("/")
            kept = KeptEntrance(int(generation), _text(record))
            entrances.setdefault(place, []).append(kept)
        sealings: dict[str, list[Unlocked]] = {}
        lacks_keys = False
        for name, record in self._keeping.take(_SEALING):
            try:
                place, unlocked = _inherit(record, pool, unlocker)
            except OvfuseError:
                self._keeping.drop(_SEALING + name)
                lacks_keys |= not record.secret
                continue
            sealings.setdefault(place, []).append(unlocked)
        return Inheritance(
            cipherdir_fd=fds[0],
            sealings=sealings,
            shown={p: _text(record) for p, record in self._keeping.take(_SHOWN)},
            entrances=entrances,
            files={int(n, 16): r.fds[0] for n, r in self._keeping.take(_FILE)},
            lacks_keys=lacks_keys,
        )


def _inherit(
    record: Record, pool: ScratchPool, unlocker: Unlocker
) -> tuple[str, Unlocked]:
    head, _, key_file = bytes(record.data).partition(b"\n")
    facts = json.loads(head)
    files = SealingFiles(*record.fds)

    def find_key(envelope: Envelope) -> Secret:
        if record.secret:
            return Secret(record.secret)
        return unlocker.find_key_again(envelope, key_file)

    try:
        envelope, sealing = inherit_sealing(
            facts["seal_id"], facts["payload_sha256"], files, find_key, pool
        )
    except OvfuseError as error:
        files.close()
        place = facts["place"]
        what = quoted(place) if place else "the model"
        _log.error("what was in use of %s is lost: %s", what, error.message)
        raise
    finally:
        record.wipe()
    return facts["place"], Unlocked(sealing, envelope, key_file)


def _text(record: Record) -> str:
    return bytes(record.data).decode()
