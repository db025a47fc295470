"""`ovfuse mount`: parse, find the keys, hand over to the lifecycle of a mount."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovfuse.cli.keygen import IDENTITY_WARNING
from ovfuse.cli.terminal import warning

if TYPE_CHECKING:
    from ovfuse.serve.options import MountOptions
    from ovfuse.view.contract import View

__all__ = ["mount"]


def mount(
    cipherdir: Annotated[
        Path, typer.Argument(help="A sealed model, or a tree of them.")
    ],
    mountpoint: Annotated[Path, typer.Argument(help="An empty directory.")],
    identity: Annotated[
        list[Path] | None,
        typer.Option(
            "--identity",
            "-i",
            metavar="IDENTITY",
            help="An age identity file; only these are tried. Repeatable.",
        ),
    ] = None,
    verify_key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Also trust this publisher's public key. Repeatable.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            metavar="OPT,...",
            help="Mount options, separated by commas. Repeatable.",
        ),
    ] = None,
    foreground: Annotated[
        bool,
        typer.Option("--foreground", "-f", help="Stay, and log to stderr."),
    ] = False,
) -> None:
    """Show the plaintext of CIPHERDIR on MOUNTPOINT; return when it answers."""
    from ovfuse.serve.lifecycle import run_mount
    from ovfuse.serve.options import parse_options

    options = parse_options(option or [])
    run_mount(
        cipherdir=cipherdir,
        mountpoint=mountpoint,
        options=options,
        open_view=_view_opener(cipherdir, identity or [], verify_key or [], options),
        foreground=foreground,
    )


def _view_opener(
    cipherdir: Path,
    identities: list[Path],
    verify_keys: list[Path],
    options: "MountOptions",
) -> "Callable[[], View]":
    """Return what opens the view, in the process that will serve it."""

    def open_it() -> "View":
        from ovfuse.keys import Unlocker
        from ovfuse.view import open_view

        unlocker = Unlocker.find(
            identities, verify_keys, allow_untrusted=options.allow_untrusted
        )
        _warn_of_same_disk(unlocker.found.files, cipherdir)
        return open_view(cipherdir, unlocker, strict=options.strict, name=options.model)

    return open_it


def _warn_of_same_disk(identity_files: tuple[Path, ...], cipherdir: Path) -> None:
    """An identity beside the data protects nothing against theft: say so, once."""
    with suppress(OSError):
        device = cipherdir.stat().st_dev
        if any(path.stat().st_dev == device for path in identity_files):
            warning(IDENTITY_WARNING)
