"""`ovfuse mount`: parse, find the keys, hand over to the lifecycle of a mount."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ovfuse.cli.keygen import IDENTITY_WARNING
from ovfuse.cli.parameters import (
    Cipherdir,
    Foreground,
    Identities,
    MountOptions,
    Mountpoint,
    VerifyKeys,
)
from ovfuse.cli.passphrase import Prompt
from ovfuse.cli.terminal import log_to_stderr, warning
from ovfuse.errors import LoadError, OvfuseError

if TYPE_CHECKING:
    from ovfuse.keeping import Keeping
    from ovfuse.serve.options import MountOptions as ParsedOptions
    from ovfuse.view.contract import View

__all__ = ["mount"]

_log = logging.getLogger(__name__)


def mount(
    cipherdir: Cipherdir,
    mountpoint: Mountpoint,
    identity: Identities = None,
    verify_key: VerifyKeys = None,
    option: MountOptions = None,
    foreground: Foreground = False,
) -> None:
    """Show plaintext on MOUNTPOINT.

    Returns when the mount answers, or with -f when it has ended.
    """
    from ovfuse.serve.lifecycle import run_mount
    from ovfuse.serve.options import parse_options

    options = parse_options(option or [])
    log_to_stderr(False)
    _check_dumps(allowed=options.allow_dumps)
    run_mount(
        cipherdir=cipherdir,
        mountpoint=mountpoint,
        options=options,
        open_view=_view_opener(cipherdir, identity or [], verify_key or [], options),
        foreground=foreground,
    )


def _check_dumps(*, allowed: bool) -> None:
    """OpenVINO never runs here, but apps inherit the same environment."""
    from ovfuse.load.dumps import dump_variables

    names = ", ".join(dump_variables())
    if names and not allowed:
        raise LoadError(
            f"OpenVINO would write what it loads to disk: {names} set",
            hint="unset it, or mount with -o allow_dumps",
        )
    if names:
        warning(f"OpenVINO writes what it loads to disk: {names} set")


def _view_opener(
    cipherdir: Path,
    identities: list[Path],
    verify_keys: list[Path],
    options: "ParsedOptions",
) -> "Callable[[Keeping], View]":
    """Return what opens the view, in the process that will serve it."""

    def open_it(keeping: "Keeping") -> "View":
        from ovfuse.keys import Unlocker
        from ovfuse.view import open_view

        prompt = Prompt()
        try:
            unlocker = Unlocker.find(
                identities,
                verify_keys,
                allow_untrusted=options.allow_untrusted,
                allow_rollback=options.allow_rollback,
                ask=None if keeping.is_successor else prompt,
            )
        except OvfuseError as error:
            if not keeping.is_successor:
                raise
            _log.warning("only what is open goes on: %s", error.message)
            unlocker = Unlocker.without_keys()
        view = open_view(
            cipherdir,
            unlocker,
            strict=options.strict,
            name=options.model,
            keeping=keeping,
        )
        prompt.close()  # what is unlocked from now on must open by itself
        if not keeping.is_successor:
            _warn_of_same_disk(unlocker.found.files, cipherdir)
        return view

    return open_it


def _warn_of_same_disk(identity_files: tuple[Path, ...], cipherdir: Path) -> None:
    """An identity beside the data protects nothing against theft: say so, once."""
    with suppress(OSError):
        device = cipherdir.stat().st_dev
        if any(path.stat().st_dev == device for path in identity_files):
            warning(IDENTITY_WARNING)
