"""From a path to an open model: a sealed model on disk, or a directory on a mount."""

import os
from collections.abc import Sequence
from pathlib import Path

from ovfuse.errors import CipherdirError
from ovfuse.keys import IdentityOpener, Place, Unlocker
from ovfuse.keys.identities import SourceWords
from ovfuse.keys.opener import AskPassphrase
from ovfuse.load.dumps import check_dumps
from ovfuse.load.model import OpenModel
from ovfuse.load.mounted import MountedSource, is_on_mount
from ovfuse.load.sealed import SealedSource
from ovfuse.quote import quoted
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool

__all__ = ["open_model"]

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike] | None
Sources = SourceWords | Sequence[SourceWords] | None


def open_model(  # noqa: PLR0913 - what may be said about trust, each by its name
    path: PathLike,
    *,
    identity: Sources = None,
    passphrase: str | None = None,
    verify_keys: Paths = None,
    name: str | None = None,
    allow_untrusted: bool = False,
    allow_rollback: bool = False,
    allow_dumps: bool = False,
) -> OpenModel:
    """Open one sealed model, or a directory on a mount, whose daemon has the keys.

    Args:
        path: of it; on a mount the arguments up to `allow_rollback` are of no use.
        identity: sources, as behind `-i`, or paths; then no other place is looked at.
        passphrase: tried if no identity opens the model; nobody is ever asked.
        verify_keys: files with public keys that are trusted too.
        name: demanded as the signed name.
        allow_untrusted: accept any signer; everything else still holds.
        allow_rollback: accept an older sealing than was seen in this place.
        allow_dumps: load also while OpenVINO is told to write models to disk.

    Raises:
        CipherdirError, DamagedError: no sealed model, or not whole.
        UntrustedError: no trusted signer, another name, somebody else's mount.
        RollbackError, NoUsableKeyError, TermsError, KeyFileError: see `Unlocker`.
        LoadError: a variable by which OpenVINO writes models to disk is set.
    """
    check_dumps(allowed=allow_dumps)
    if is_on_mount(Path(path)):
        return OpenModel(MountedSource(Path(path)), allow_dumps=allow_dumps)
    opener = IdentityOpener.find(_words(identity), _answer(passphrase))
    unlocker = Unlocker.find(
        opener,
        _paths(verify_keys),
        allow_untrusted=allow_untrusted,
        allow_rollback=allow_rollback,
    )
    return _open_sealed(Path(path), opener, unlocker, name, allow_dumps=allow_dumps)


def _open_sealed(
    directory: Path,
    opener: IdentityOpener,
    unlocker: Unlocker,
    name: str | None,
    *,
    allow_dumps: bool,
) -> OpenModel:
    with SealedModel.open(directory) as model:
        if not model.is_sealed():
            raise CipherdirError(
                f"{quoted(directory)} is not a sealed model",
                hint="of a tree of models, name the directory of one",
            )
        place = Place(Path(os.path.realpath(directory)), "")
        pool = ScratchPool()
        unlocked = unlocker.unlock(model, pool, place=place, name=name)
    return OpenModel(
        SealedSource(unlocked, str(directory), pool),
        allow_dumps=allow_dumps,
        identities=opener.found.identities,
    )


def _paths(value: Paths) -> list[Path]:
    if value is None:
        return []
    if isinstance(value, str | os.PathLike):
        return [Path(value)]
    return [Path(path) for path in value]


def _words(value: Sources) -> list[SourceWords]:
    if value is None:
        return []
    return [value] if isinstance(value, str | os.PathLike) else list(value)


def _answer(passphrase: str | None) -> AskPassphrase | None:
    return None if passphrase is None else lambda _about: passphrase
