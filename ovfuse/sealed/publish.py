"""Sealing a model: what the next sealing is to be, and who may make it.

Used by `encrypt`. Decides name, model id, version and time from what is in the
cipherdir; `sealer.py` then writes.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from ovfuse.errors import (
    CipherdirError,
    NoUsableKeyError,
    OvfuseError,
    SourceError,
    UntrustedError,
    UsageError,
)
from ovfuse.quote import quoted
from ovfuse.sealed import layout
from ovfuse.sealed.envelope import Envelope
from ovfuse.sealed.manifest import ClearFacts, Manifest, Previous, Terms
from ovfuse.sealed.opening import LockedSealing
from ovfuse.sealed.paths import is_model_name
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealer import CipherdirWriter, SealingPlan
from ovfuse.sealed.signing import PublicKey, SigningKey, is_trusted
from ovfuse.sealed.source import SourceTree, scan
from ovfuse.sealed.wrapping import Identity, Recipient

__all__ = ["SealingRequest", "seal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingRequest:
    """What the publisher asks for.

    Attributes:
        model_directory: what to seal.
        cipherdir: where to; made if missing.
        recipients: who may open it.
        signing_key: who vouches for it.
        trusted: whose sealings may be followed by a newer version.
        identities: for reading the current name.
        name: or None to keep the current one, or to take the cipherdir's.
        new_model: start over with a fresh model id and version 1.
        terms: of the new sealing.
        passphrase: which opens it too, or None.
        check_current: raises if the sealing that is there must not be followed.
        list_source: what of the model directory is sealed, and how its files are read.
    """

    model_directory: Path
    cipherdir: Path
    recipients: Sequence[Recipient]
    signing_key: SigningKey
    trusted: Collection[PublicKey]
    identities: list[Identity]
    name: str | None
    new_model: bool
    terms: Terms
    passphrase: str | None = None
    check_current: Callable[[Envelope], None] = lambda _: None
    list_source: Callable[[Path], SourceTree] = scan


def seal(
    request: SealingRequest,
    *,
    on_total: Callable[[int], None],
    on_bytes: Callable[[int], None],
) -> Manifest:
    """Seal a model directory and switch to the new sealing; return its manifest.

    Args:
        request: what is asked for.
        on_total: told once how many bytes of plaintext there are.
        on_bytes: told as they are done.

    Raises:
        SourceError, UsageError, UntrustedError, BusyError, CipherdirError,
        DamagedError, and what `check_current` and `list_source` raise: nothing was
        changed then, unless the error says so.
    """
    if not request.recipients and request.passphrase is None:
        raise UsageError("a model needs a recipient or a passphrase")
    if len(request.recipients) >= layout.KEY_FILES_MAX:
        raise UsageError(f"{layout.KEY_FILES_MAX} recipients or more")
    _check_apart(request.model_directory, request.cipherdir)
    if request.name is not None:
        _check_name(request.name)
    source = request.list_source(request.model_directory)
    on_total(source.total_size)
    with CipherdirWriter.open(request.cipherdir) as writer:
        plan = _plan(request, writer)
        return writer.write(plan, source, on_bytes)


def _check_apart(model_directory: Path, cipherdir: Path) -> None:
    source, target = (Path(os.path.realpath(p)) for p in (model_directory, cipherdir))
    if source == target or source in target.parents:
        raise SourceError("the cipherdir is inside the model directory")
    if target in source.parents:
        raise SourceError("the model directory is inside the cipherdir")
    for parent in target.parents:
        if os.path.lexists(parent / layout.POINTER_NAME):
            raise CipherdirError(
                f"the cipherdir is inside the sealed model {quoted(parent)}",
                hint="sealed models stand beside each other in a tree",
            )


def _check_name(name: str) -> None:
    if not is_model_name(name):
        raise UsageError(
            f"{quoted(name)} cannot be the name of a model",
            hint="components as in a path, and no @digits at the end; see --name",
        )


def _plan(request: SealingRequest, writer: CipherdirWriter) -> SealingPlan:
    fresh_id = token_hex(layout.ID_SIZE)
    now = int(time.time())
    if request.new_model or not writer.has_sealing:
        name = request.name or Path(os.path.abspath(request.cipherdir)).name  # noqa: PTH100 - resolve() would follow links
        _check_name(name)
        facts = ClearFacts(
            format=1,
            model_id=token_hex(layout.ID_SIZE),
            seal_id=fresh_id,
            sealed_at=max(now, _time_before(writer) + 1),
            version=1,
        )
        return _make_plan(request, facts, name, None)
    with writer.current() as current:
        envelope = current.envelope
        _check_ours(envelope.signers, request)
        request.check_current(envelope)
        name = _current_name(current, request)
    facts = ClearFacts(
        format=1,
        model_id=envelope.facts.model_id,
        seal_id=fresh_id,
        sealed_at=max(now, envelope.facts.sealed_at + 1),
        version=envelope.facts.version + 1,
    )
    previous = Previous(
        payload_sha256=envelope.payload_sha256, seal_id=envelope.facts.seal_id
    )
    return _make_plan(request, facts, name, previous)


def _time_before(writer: CipherdirWriter) -> int:
    """Return when the model that is replaced was sealed; -1 if nobody can tell.

    OpenVINO's compile cache knows a file by path, mtime and size only: a new model
    in the same place must not have the time of the old one.
    """
    if writer.has_sealing:
        with contextlib.suppress(OvfuseError), writer.current() as current:
            return current.envelope.facts.sealed_at
    return -1


def _make_plan(
    request: SealingRequest, facts: ClearFacts, name: str, previous: Previous | None
) -> SealingPlan:
    return SealingPlan(
        facts=facts,
        name=name,
        previous=previous,
        terms=request.terms,
        recipients=request.recipients,
        passphrase=request.passphrase,
        signing_key=request.signing_key,
    )


def _check_ours(signers: Collection[PublicKey], request: SealingRequest) -> None:
    if is_trusted(signers, request.trusted):
        return
    who = ", ".join(signer.fingerprint for signer in signers) or "nobody"
    raise UntrustedError(
        f"the cipherdir holds a model signed by {who}, whom you do not trust",
        hint="use another cipherdir, or replace that model with --new-model",
    )


def _current_name(current: LockedSealing, request: SealingRequest) -> str:
    """Return the name to keep. It is encrypted: without a key it must be given."""
    try:
        sealing = current.unlock(request.identities, ScratchPool())
    except NoUsableKeyError:
        if request.name is not None:
            return request.name
        raise UsageError(
            "the name of the current sealing cannot be read with your identity",
            hint="repeat it with --name",
        ) from None
    name = sealing.manifest.name
    sealing.close()
    if request.name not in (None, name):
        raise UsageError(
            f"this model is named {quoted(name)}",
            hint="a model keeps its name; --new-model starts over",
        )
    return name
