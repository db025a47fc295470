"""`ovfuse inspect`: what a sealed model says without any key."""

from datetime import UTC, datetime

import msgspec

from ovfuse.cli import terminal
from ovfuse.cli.parameters import Cipherdir, Json
from ovfuse.errors import CipherdirError, OvfuseError
from ovfuse.keys.trusted import trusted_keys
from ovfuse.quote import quoted
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.signing import PublicKey
from ovfuse.sealed.wrapping import stanza_types
from ovfuse.view.scan import find_models

__all__ = ["inspect"]


class _Signature(msgspec.Struct):
    fingerprint: str
    trusted: bool


class _KeyFile(msgspec.Struct):
    file: str
    types: list[str]


class _Report(msgspec.Struct):
    path: str
    error: str = ""
    format: int = 0
    model_id: str = ""
    seal_id: str = ""
    version: int = 0
    sealed_at: int = 0
    signatures: list[_Signature] = []
    key_files: list[_KeyFile] = []
    verified: bool = False


def inspect(cipherdir: Cipherdir, as_json: Json = False) -> None:
    """Show what anybody can see, without a key.

    Signatures are checked; nothing else is verified.
    """
    trusted = trusted_keys()
    with SealedModel.open(cipherdir) as directory:
        models = find_models(directory.fd)
        if not models:
            raise CipherdirError(f"no sealed model in {quoted(cipherdir)}")
        failures: list[OvfuseError] = []
        reports = []
        for place, _ in models:
            try:
                reports.append(_inspect(directory.fd, place, trusted))
            except OvfuseError as error:
                reports.append(_Report(path=place, error=error.message))
                failures.append(error)
    if as_json:
        terminal.say_json({"models": msgspec.to_builtins(reports)})
    else:
        for report in reports:
            _print_report(report, quoted(report.path or cipherdir))
    if failures:
        raise type(failures[0])(f"{len(failures)} failed", hint=failures[0].hint)


def _inspect(cipherdir_fd: int, place: str, trusted: frozenset[PublicKey]) -> _Report:
    with (
        SealedModel.at(cipherdir_fd, place) as model,
        model.current() as locked,
    ):
        facts = locked.envelope.facts
        return _Report(
            path=place,
            format=facts.format,
            model_id=facts.model_id,
            seal_id=facts.seal_id,
            version=facts.version,
            sealed_at=facts.sealed_at,
            signatures=[
                _Signature(key.fingerprint, key in trusted)
                for key in locked.envelope.signers
            ],
            key_files=[
                _KeyFile(file, stanza_types(data)) for file, data in locked.key_files()
            ],
        )


def _print_report(report: _Report, where: str) -> None:
    if report.error:
        terminal.say(f"FAILED {where}: {report.error}")
        return
    sealed_at = datetime.fromtimestamp(report.sealed_at, UTC)
    terminal.say(f"{where}: a sealed model; only signatures are checked")
    terminal.say(f"  format:    {report.format}")
    terminal.say(f"  model id:  {report.model_id}")
    terminal.say(f"  version:   {report.version}")
    terminal.say(f"  seal id:   {report.seal_id}")
    terminal.say(f"  sealed:    {sealed_at:%Y-%m-%d %H:%M:%S} UTC")
    for signature in report.signatures:
        trust = "trusted" if signature.trusted else "not trusted"
        terminal.say(f"  signed by: {signature.fingerprint} ({trust})")
    if not report.signatures:
        terminal.say("  signed by: nobody")
    kinds = ", ".join("+".join(one.types) for one in report.key_files)
    terminal.say(f"  key files: {len(report.key_files)} ({kinds})")
