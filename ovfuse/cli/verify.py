"""`ovfuse verify`: read and authenticate every byte, release nothing."""

import os
from pathlib import Path

import msgspec

from ovfuse.cli import terminal
from ovfuse.cli.parameters import (
    AllowRollback,
    AllowUntrusted,
    Cipherdir,
    Identities,
    Json,
    VerifyKeys,
)
from ovfuse.cli.passphrase import Prompt
from ovfuse.errors import CipherdirError, OvfuseError
from ovfuse.keys import IdentityOpener, Place, Unlocker
from ovfuse.quote import quoted
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing
from ovfuse.view.scan import find_models

__all__ = ["verify"]


class _FileReport(msgspec.Struct):
    path: str
    size: int
    ok: bool
    error: str = ""


class _ModelReport(msgspec.Struct):
    path: str
    name: str = ""
    version: int = 0
    error: str = ""
    finding: str = ""
    files: list[_FileReport] = []


def verify(
    cipherdir: Cipherdir,
    identity: Identities = None,
    verify_key: VerifyKeys = None,
    allow_untrusted: AllowUntrusted = False,
    allow_rollback: AllowRollback = False,
    as_json: Json = False,
) -> None:
    """Verify every byte of a sealed model, or of a tree of them."""
    unlocker = Unlocker.find(
        IdentityOpener.find(identity or [], Prompt()),
        verify_key or [],
        allow_untrusted=allow_untrusted,
        allow_rollback=allow_rollback,
    )
    failures: list[OvfuseError] = []
    reports = []
    with SealedModel.open(cipherdir) as directory:
        models = find_models(directory.fd)
        if not models:
            raise CipherdirError(f"no sealed model in {quoted(cipherdir)}")
        real = Path(os.path.realpath(cipherdir))
        for path, _ in models:
            place = Place(real, path)
            report = _verify_model(directory.fd, place, unlocker, failures)
            reports.append(report)
            if not as_json:
                _print_report(report, quoted(path or cipherdir))
    if as_json:
        terminal.say_json({"models": msgspec.to_builtins(reports)})
    if failures:
        first = failures[0]
        raise type(first)(f"{len(failures)} failed", hint=first.hint)


def _verify_model(
    cipherdir_fd: int, place: Place, unlocker: Unlocker, failures: list[OvfuseError]
) -> _ModelReport:
    report = _ModelReport(place.path)
    try:
        with SealedModel.at(cipherdir_fd, place.path) as model:
            unlocked = unlocker.unlock(model, ScratchPool(), place=place)
            manifest = unlocked.sealing.manifest
            report.name, report.version = manifest.name, manifest.facts.version
            try:
                report.finding = model.previous_finding(manifest) or ""
                report.files = _verify_files(unlocked.sealing, failures)
            finally:
                unlocked.sealing.close()
    except OvfuseError as error:
        report.error = error.message
        failures.append(error)
    return report


def _verify_files(sealing: Sealing, failures: list[OvfuseError]) -> list[_FileReport]:
    results = []
    entries = sealing.manifest.files
    with terminal.progress("verifying") as (on_total, on_bytes):
        on_total(sum(entry.size for entry in entries))
        for entry in entries:
            result = _FileReport(entry.path, entry.size, ok=True)
            try:
                sealing.verify_file(entry, on_bytes)
            except OvfuseError as error:
                result.ok, result.error = False, error.message
                failures.append(error)
            results.append(result)
    return results


def _print_report(report: _ModelReport, where: str) -> None:
    if report.error:
        terminal.say(f"FAILED {where}: {report.error}")
        return
    terminal.say(f"{where}: {quoted(report.name)} version {report.version}")
    for file in report.files:
        if file.ok:
            terminal.say(f"ok     {quoted(file.path)}")
        else:
            terminal.say(f"FAILED {quoted(file.path)}: {file.error}")
    if report.finding:
        terminal.say(f"finding: {report.finding}")
