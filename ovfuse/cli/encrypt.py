"""`ovfuse encrypt`: seal a model directory.

`import-openssl` does the same with what it decrypts, by `seal_directory`.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ovfuse.cli import terminal
from ovfuse.cli.keygen import tell_created
from ovfuse.cli.parameters import (
    Machines,
    ModelDirectory,
    ModelName,
    NewModel,
    NotAfter,
    NotBefore,
    Passphrase,
    Recipients,
    RecipientsFiles,
    SignKey,
    TargetCipherdir,
)
from ovfuse.cli.passphrase import ask_new_passphrase
from ovfuse.errors import (
    KeyFileError,
    OvfuseError,
    RollbackError,
    SourceError,
    UsageError,
)
from ovfuse.keys.history import History, Place
from ovfuse.keys.identities import find_identities
from ovfuse.keys.own import OwnFile, own_identities, own_signing_key, read_signing_key
from ovfuse.keys.recipients import own_recipients, parse_recipients
from ovfuse.keys.trusted import trusted_keys
from ovfuse.quote import quoted
from ovfuse.sealed.envelope import Envelope
from ovfuse.sealed.manifest import Manifest, Terms
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.publish import SealingRequest, seal
from ovfuse.sealed.signing import SigningKey
from ovfuse.sealed.source import SourceTree, scan
from ovfuse.sealed.wrapping import Identity

__all__ = ["SealingOptions", "encrypt", "seal_directory"]

_MACHINE_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingOptions:
    """What the options of `encrypt` say, by their names."""

    recipient: list[str] | None
    recipients_file: list[Path] | None
    passphrase: bool
    sign_key: Path | None
    name: str | None
    new_model: bool
    not_before: str | None
    not_after: str | None
    machine: list[str] | None


def encrypt(
    model_dir: ModelDirectory,
    cipherdir: TargetCipherdir,
    recipient: Recipients = None,
    recipients_file: RecipientsFiles = None,
    passphrase: Passphrase = False,
    sign_key: SignKey = None,
    name: ModelName = None,
    new_model: NewModel = False,
    not_before: NotBefore = None,
    not_after: NotAfter = None,
    machine: Machines = None,
) -> None:
    """Seal MODEL_DIR into CIPHERDIR, for its recipients, signed."""
    options = SealingOptions(
        recipient=recipient,
        recipients_file=recipients_file,
        passphrase=passphrase,
        sign_key=sign_key,
        name=name,
        new_model=new_model,
        not_before=not_before,
        not_after=not_after,
        machine=machine,
    )
    seal_directory(model_dir, cipherdir, options)


def seal_directory(
    directory: Path,
    cipherdir: Path,
    options: SealingOptions,
    list_source: Callable[[Path], SourceTree] = scan,
) -> None:
    """Seal a directory and tell about it; `list_source` as in `SealingRequest`."""
    if not directory.is_dir():  # before any key is made for it
        raise SourceError(f"there is no model directory {quoted(directory)}")
    terms = _terms(options.not_before, options.not_after, options.machine or [])
    recipients = parse_recipients(
        options.recipient or [], options.recipients_file or []
    )
    own_wanted = not recipients and not options.passphrase
    new_passphrase = ask_new_passphrase() if options.passphrase else None
    identities, identity_file = _identities(own_wanted=own_wanted)
    signing_key, signing_file = _signing_key(options.sign_key)
    tell_created(identity_file, signing_file)
    request = SealingRequest(
        model_directory=directory,
        cipherdir=cipherdir,
        recipients=own_recipients(identities) if own_wanted else recipients,
        passphrase=new_passphrase,
        signing_key=signing_key,
        trusted=trusted_keys() | {signing_key.public},
        identities=identities,
        name=options.name,
        new_model=options.new_model,
        terms=terms,
        check_current=partial(_check_newest, cipherdir),
        list_source=list_source,
    )
    with terminal.progress("sealing") as (on_total, on_bytes):
        manifest = seal(request, on_total=on_total, on_bytes=on_bytes)
    _remember(manifest, request)
    _report(manifest, request)


def _identities(*, own_wanted: bool) -> tuple[list[Identity], OwnFile]:
    """Return the identities at hand; the own one is made only if it is needed."""
    if own_wanted:
        return own_identities()
    try:
        return find_identities().identities, OwnFile(Path(), created=False)
    except KeyFileError:  # only the current name could need one; see --name
        return [], OwnFile(Path(), created=False)


def _signing_key(sign_key: Path | None) -> tuple[SigningKey, OwnFile]:
    if sign_key is None:
        return own_signing_key()
    return read_signing_key(sign_key), OwnFile(sign_key, created=False)


def _terms(not_before: str | None, not_after: str | None, machines: list[str]) -> Terms:
    for machine in machines:
        if len(machine) != _MACHINE_DIGITS or set(machine) - set("0123456789abcdef"):
            raise UsageError(
                f"{quoted(machine)} is not the ID of a machine",
                hint="64 hexadecimal digits, as `ovfuse doctor` prints them there",
            )
    start, end = _seconds(not_before), _seconds(not_after)
    if end is not None and end <= time.time():
        raise UsageError("--not-after is in the past")
    if start is not None and end is not None and start >= end:
        raise UsageError("--not-before is not before --not-after")
    return Terms(machines=tuple(sorted(set(machines))), not_before=start, not_after=end)


def _seconds(text: str | None) -> int | None:
    """Return seconds since 1970 of an ISO 8601 date or time, UTC unless it says."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        seconds = -1
    if seconds < 0:
        raise UsageError(
            f"{quoted(text)} is not a date", hint="2027-01-31 or 2027-01-31T18:00+02:00"
        )
    return seconds


def _check_newest(cipherdir: Path, envelope: Envelope) -> None:
    """Never make a second version with the number of one that was seen before."""
    try:
        History().check(Place(Path(os.path.realpath(cipherdir)), ""), envelope)
    except RollbackError as error:
        raise RollbackError(
            error.message,
            hint="put the newest sealing back, or start over with --new-model, or "
            "accept what is there with: ovfuse verify --allow-rollback CIPHERDIR",
        ) from None


def _remember(manifest: Manifest, request: SealingRequest) -> None:
    """What was sealed here is what is newest here: nobody has to be told."""
    with (
        suppress(OvfuseError),
        SealedModel.open(request.cipherdir) as model,
        model.current() as current,
    ):
        envelope = current.envelope
        ours = request.signing_key.public in envelope.signers
        if ours and envelope.facts == manifest.facts:
            real = Path(os.path.realpath(request.cipherdir))
            History().record_own(real, envelope)


def _report(manifest: Manifest, request: SealingRequest) -> None:
    size = terminal.size_text(sum(entry.size for entry in manifest.files))
    facts = manifest.facts
    terminal.say(
        f"sealed {quoted(manifest.name)} version {facts.version} into "
        f"{quoted(request.cipherdir)}: {len(manifest.files)} files, {size}"
    )
    terminal.say(f"model id: {facts.model_id}")
    for recipient in request.recipients:
        terminal.say(f"for: {recipient.canonical}")
    if request.passphrase is not None:
        terminal.say("for: whoever knows the passphrase")
    terminal.say(f"signed by: {request.signing_key.public.fingerprint}")
    if facts.version > 1:
        terminal.note("the version before it is kept until the next one")
    if not f"{os.path.abspath(request.cipherdir)}".endswith(f"/{manifest.name}"):  # noqa: PTH100 - resolve() would follow links
        terminal.note(
            f"in a tree of models, its place must end with {quoted(manifest.name)}"
        )
