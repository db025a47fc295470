"""`ovfuse doctor`: is this machine ready to mount, and does it leak?"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ovfuse.cli import terminal
from ovfuse.cli.keygen import IDENTITY_WARNING
from ovfuse.cli.parameters import Json
from ovfuse.errors import OvfuseError
from ovfuse.keys.identities import find_identities
from ovfuse.keys.trusted import trusted_keys
from ovfuse.quote import quoted
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.terms import machine_digest
from ovfuse.serve.doctor import Finding, examine
from ovfuse.view.scan import find_models

__all__ = ["doctor"]

OptionalCipherdir = Annotated[
    Path | None,
    typer.Argument(metavar="CIPHERDIR", help="Look at this one, too.", readable=False),
]


def doctor(cipherdir: OptionalCipherdir = None, as_json: Json = False) -> None:
    """Examine this machine, and say what to do.

    Exits with 1 if something keeps models from being mounted.
    """
    findings = [*examine(), *_identity(cipherdir), *_trust()]
    if cipherdir is not None:
        findings += _models(cipherdir)
    machine = machine_digest() or ""
    if as_json:
        terminal.say_json(
            {"machine": machine, "findings": msgspec.to_builtins(findings)}
        )
    else:
        for finding in findings:
            terminal.say(f"{finding.state:8} {finding.topic}: {finding.detail}")
            if finding.advice:
                terminal.say(f"         {finding.advice}")
        terminal.say(f"machine, for encrypt --machine: {machine or 'none'}")
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def _identity(cipherdir: Path | None) -> Iterator[Finding]:
    try:
        found = find_identities()
    except OvfuseError as error:
        yield _problem("identity", error)
        return
    count = len(found.identities)
    yield Finding(
        topic="identity",
        state="ok" if count else "warning",
        detail=f"{count} found; looked at {', '.join(found.places)}",
        advice="" if count else "ovfuse keygen, or name one with -i",
    )
    if cipherdir is None:
        return
    with suppress(OSError):
        device = cipherdir.stat().st_dev
        if any(path.stat().st_dev == device for path in found.files):
            yield Finding(
                topic="identity",
                state="warning",
                detail=f"on the same disk as {quoted(cipherdir)}",
                advice=IDENTITY_WARNING,
            )


def _trust() -> Iterator[Finding]:
    try:
        count = len(trusted_keys())
    except OvfuseError as error:
        yield _problem("trust", error)
        return
    yield Finding(
        topic="trust",
        state="ok" if count else "warning",
        detail="1 publisher" if count == 1 else f"{count} publishers",
        advice="" if count else "ovfuse trust add PUBLISHER.pub",
    )


def _models(cipherdir: Path) -> Iterator[Finding]:
    try:
        with SealedModel.open(cipherdir) as directory:
            count = len(find_models(directory.fd))
    except OvfuseError as error:
        yield _problem("models", error)
        return
    yield Finding(
        topic="models",
        state="ok" if count else "problem",
        detail=f"{count} sealed in {quoted(cipherdir)}",
        advice="" if count else "ovfuse encrypt makes them",
    )


def _problem(topic: str, error: OvfuseError) -> Finding:
    return Finding(
        topic=topic, state="problem", detail=error.message, advice=error.hint
    )
