"""`ovfuse recipients`: who may open a sealing that exists."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import typer

from ovfuse.cli import terminal
from ovfuse.cli.parameters import (
    AllowUntrusted,
    Identities,
    Json,
    Passphrase,
    Recipients,
    RecipientsFiles,
    SingleCipherdir,
    VerifyKeys,
)
from ovfuse.cli.passphrase import Prompt, ask_new_passphrase
from ovfuse.errors import UsageError
from ovfuse.keys import IdentityOpener, Opener, Place, Unlocker
from ovfuse.keys.recipients import parse_recipients
from ovfuse.sealed.opening import LockedSealing
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.rewrap import KeyFiles
from ovfuse.sealed.sealer import CipherdirWriter
from ovfuse.sealed.sealing import Sealing
from ovfuse.sealed.wrapping import (
    PASSPHRASE,
    Recipient,
    stanza_types,
    wrap,
    wrap_with_passphrase,
)

__all__ = ["app"]

app = typer.Typer(
    help="See and change who may open a sealing that exists.", rich_markup_mode=None
)


class _KeyFile(msgspec.Struct):
    file: str
    types: list[str]
    recipient: str


@app.command("add")
def add(
    cipherdir: SingleCipherdir,
    recipient: Recipients = None,
    recipients_file: RecipientsFiles = None,
    passphrase: Passphrase = False,
    identity: Identities = None,
    verify_key: VerifyKeys = None,
    allow_untrusted: AllowUntrusted = False,
) -> None:
    """Let more recipients open it.

    Needs an identity that opens it. The next sealing starts again from its own
    recipients.
    """
    wanted = _wanted(recipient, recipients_file, passphrase=passphrase)
    opener = IdentityOpener.find(identity or [], Prompt())
    unlocker = _unlocker(opener, verify_key, allow_untrusted=allow_untrusted)
    with _opened(cipherdir, unlocker) as (sealing, _, files):
        new_passphrase = ask_new_passphrase() if passphrase else None
        for one in wanted:
            files.put(one.canonical, wrap(sealing.model_key, one))
            terminal.say(f"added: {one.canonical}")
        if new_passphrase is not None:
            data = wrap_with_passphrase(sealing.model_key, new_passphrase)
            files.put(PASSPHRASE, data)
            terminal.say("added: the passphrase")


@app.command("remove")
def remove(
    cipherdir: SingleCipherdir,
    recipient: Recipients = None,
    recipients_file: RecipientsFiles = None,
    passphrase: Passphrase = False,
    identity: Identities = None,
    verify_key: VerifyKeys = None,
    allow_untrusted: AllowUntrusted = False,
) -> None:
    """Take recipients off this sealing.

    Whoever is removed could open it until now, and can still if they kept a copy;
    the next sealing is what excludes them.
    """
    wanted = _wanted(recipient, recipients_file, passphrase=passphrase)
    names = [one.canonical for one in wanted] + [PASSPHRASE] * passphrase
    opener = IdentityOpener.find(identity or [], Prompt())
    unlocker = _unlocker(opener, verify_key, allow_untrusted=allow_untrusted)
    with _opened(cipherdir, unlocker) as (_, _, files):
        files.remove(names)
        for name in names:
            terminal.say(f"removed: {name}")
    terminal.warning(
        "whoever was removed could open this sealing and may have kept its key; "
        "the next `ovfuse encrypt` without them excludes them"
    )


@app.command("list")
def show(
    cipherdir: SingleCipherdir,
    recipient: Recipients = None,
    recipients_file: RecipientsFiles = None,
    identity: Identities = None,
    verify_key: VerifyKeys = None,
    allow_untrusted: AllowUntrusted = False,
    as_json: Json = False,
) -> None:
    """List the key files, by name where known.

    Known are your own identities, the passphrase, and those given by -r and -R: a
    sealed model does not say who its recipients are.
    """
    opener = IdentityOpener.find(identity or [], Prompt())
    unlocker = _unlocker(opener, verify_key, allow_untrusted=allow_untrusted)
    known = [PASSPHRASE]
    known += [
        r.canonical for r in parse_recipients(recipient or [], recipients_file or [])
    ]
    known += [i.recipient.canonical for i in opener.found.identities if i.recipient]
    with _opened(cipherdir, unlocker) as (_, locked, files):
        names = {files.name_of(name): name for name in known}
        found = [
            _KeyFile(file, stanza_types(data), names.get(file, ""))
            for file, data in locked.key_files()
        ]
    if as_json:
        terminal.say_json({"key_files": msgspec.to_builtins(found)})
        return
    for one in found:
        terminal.say(f"{one.recipient or 'unknown'} ({'+'.join(one.types)}) {one.file}")


def _wanted(
    texts: Sequence[str] | None, files: Sequence[Path] | None, *, passphrase: bool
) -> list[Recipient]:
    wanted = parse_recipients(texts or [], files or [])
    if not wanted and not passphrase:
        raise UsageError("no recipient is named", hint="-r, -R or -p")
    return wanted


def _unlocker(
    opener: Opener, verify_key: list[Path] | None, *, allow_untrusted: bool
) -> Unlocker:
    return Unlocker.find(opener, verify_key or [], allow_untrusted=allow_untrusted)


@contextmanager
def _opened(
    cipherdir: Path, unlocker: Unlocker
) -> Iterator[tuple[Sealing, LockedSealing, KeyFiles]]:
    """Lock the cipherdir, and open its current sealing and the key files of it."""
    place = Place(Path(os.path.realpath(cipherdir)), "")
    with CipherdirWriter.open(cipherdir, create=False) as writer:
        # Who may open it is no use of the model, which the terms are about.
        sealing = unlocker.unlock(
            writer.model, ScratchPool(), place=place, check_terms=False
        ).sealing
        try:
            seal_id = sealing.manifest.facts.seal_id
            with writer.model.sealing(seal_id) as locked:
                files = KeyFiles(locked, sealing.model_key)
                try:
                    files.clean()
                    yield sealing, locked, files
                finally:
                    files.close()
        finally:
            sealing.close()
