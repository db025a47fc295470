"""`ovfuse decrypt`: the one command that writes plaintext to disk."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ovfuse.cli import terminal
from ovfuse.cli.parameters import (
    AllowRollback,
    AllowUntrusted,
    Cipherdir,
    Identities,
    OutputDirectory,
    VerifyKeys,
)
from ovfuse.cli.passphrase import Prompt
from ovfuse.errors import CipherdirError, OutputError
from ovfuse.keys import IdentityOpener, Place, Unlocker
from ovfuse.quote import quoted
from ovfuse.sealed.manifest import Manifest
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.unseal import Output
from ovfuse.view.scan import find_models

__all__ = ["decrypt"]

_ENDING = (signal.SIGTERM, signal.SIGHUP)


def decrypt(
    cipherdir: Cipherdir,
    out_dir: OutputDirectory,
    identity: Identities = None,
    verify_key: VerifyKeys = None,
    allow_untrusted: AllowUntrusted = False,
    allow_rollback: AllowRollback = False,
) -> None:
    """Write plaintext to OUT_DIR, on disk.

    OUT_DIR is missing or empty. After an error nothing is left in it.
    """
    unlocker = Unlocker.find(
        IdentityOpener.find(identity or [], Prompt()),
        verify_key or [],
        allow_untrusted=allow_untrusted,
        allow_rollback=allow_rollback,
    )
    real = Path(os.path.realpath(cipherdir))
    with SealedModel.open(cipherdir) as directory:
        models = find_models(directory.fd)
        if not models:
            raise CipherdirError(f"no sealed model in {quoted(cipherdir)}")
        if Path(os.path.realpath(out_dir)).is_relative_to(real):
            raise OutputError(f"{quoted(out_dir)} is inside the cipherdir")
        terminal.warning(f"this writes plaintext to disk, into {quoted(out_dir)}")
        with _cleaned_up(), Output.open(out_dir) as output:
            manifests = [
                _decrypt(directory.fd, Place(real, path), unlocker, output)
                for path, _ in models
            ]
    for manifest in manifests:
        _report(manifest)


def _decrypt(
    cipherdir_fd: int, place: Place, unlocker: Unlocker, output: Output
) -> Manifest:
    with SealedModel.at(cipherdir_fd, place.path) as model:
        sealing = unlocker.unlock(model, ScratchPool(), place=place).sealing
    try:
        with terminal.progress("decrypting") as (on_total, on_bytes):
            on_total(sum(entry.size for entry in sealing.manifest.files))
            output.write(sealing, place.path, on_bytes)
    finally:
        sealing.close()
    return sealing.manifest


@contextmanager
def _cleaned_up() -> Iterator[None]:
    """Let what ends the command remove the plaintext first, as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup(1) leaves it
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(manifest: Manifest) -> None:
    size = terminal.size_text(sum(entry.size for entry in manifest.files))
    terminal.say(
        f"decrypted {quoted(manifest.name)} version {manifest.facts.version}: "
        f"{len(manifest.files)} files, {size}"
    )
