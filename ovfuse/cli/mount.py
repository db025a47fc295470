"""`ovfuse mount`: parse, find the keys, hand over to the lifecycle of a mount."""

import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, Self

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
    from ovfuse.keys import Opener, Unlocker
    from ovfuse.serve.locked import Unlocking
    from ovfuse.serve.options import MountOptions as ParsedOptions
    from ovfuse.serve.unwrapping import ChildOpener
    from ovfuse.view.contract import View
    from ovfuse.view.tree import CipherdirView

__all__ = ["go_on", "mount"]

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
    from ovfuse.serve.lifecycle import MountPlan, run_mount
    from ovfuse.serve.options import parse_options

    options = parse_options(option or [])
    log_to_stderr(False)
    _check_dumps(allowed=options.allow_dumps)
    here = _working_directory()
    identities, held = _readable_again(identity or [], here)
    asked = _Asked.of(identities, verify_key or [], option or [], options.log)
    plan = MountPlan(
        cipherdir=cipherdir,
        mountpoint=mountpoint,
        options=options,
        open_view=_view_opener(cipherdir, asked, options, here),
        foreground=foreground,
        asked=asked.seen_from(here)._asdict() | {"foreground": foreground},
        unwrap=_unwrap,
        held=held,
    )
    run_mount(plan)


def go_on() -> None:
    """Go on with a mount where another version of the program was."""
    from ovfuse.secret import lock_all_memory
    from ovfuse.serve.lifecycle import MountPlan, run_mount
    from ovfuse.serve.options import parse_options
    from ovfuse.serve.survival.reload import inherited_records

    log_to_stderr(False)
    lock_all_memory()  # before there is a key in it
    facts, records = inherited_records()
    asked = _Asked(*(facts[field] for field in _Asked._fields))
    options = parse_options(asked.options)
    cipherdir = Path(facts["cipherdir"])
    plan = MountPlan(
        cipherdir=cipherdir,
        mountpoint=Path(facts["mountpoint"]),
        options=options,
        open_view=_view_opener(cipherdir, asked, options, Path("/")),
        foreground=facts["foreground"],
        asked=asked._asdict() | {"foreground": facts["foreground"]},
        inherited=records,
        unwrap=_unwrap,
        stored=facts.get("stored"),
        held=tuple(facts["held"]),
    )
    run_mount(plan)


def _readable_again(words: list[str], here: Path) -> tuple[list[str], tuple[int, ...]]:
    """Return the sources so that they can be read again, and what to keep open for it.

    Others than those named are told by a variable, which is looked at again, too.
    """
    from ovfuse.keys.sources import parse_source

    named = [] if words else [n for n in [os.environ.get("OVFUSE_IDENTITY")] if n]
    found = [parse_source(word).held() for word in [*words, *named]]
    held = tuple(fd for _, fds in found for fd in fds)
    if named:
        os.environ["OVFUSE_IDENTITY"] = found[0][0].seen_from(here).words
    return [source.words for source, _ in found[: len(words)]], held


def _unwrap(daemon: socket.socket) -> None:
    """Do what a child of the keeper is for."""
    from ovfuse.serve.unwrapping import unwrap

    unwrap(daemon, Prompt())


class _Asked(NamedTuple):
    """Words of the command line."""

    identities: list[str]
    verify_keys: list[str]
    options: list[str]

    @classmethod
    def of(
        cls,
        identities: list[str],
        verify_keys: list[Path],
        options: list[str],
        log: Path | None,
    ) -> Self:
        """Return them; the log file's path is absolute."""
        if log is not None:
            escaped = f"{log}".replace("\\", "\\\\").replace(",", "\\,")
            options = [*options, f"log={escaped}"]
        return cls(identities, [*map(str, verify_keys)], options)

    def seen_from(self, directory: Path) -> Self:
        """Return the same, for who is not in that directory any more."""
        from ovfuse.keys.sources import parse_source

        sources = [parse_source(word).seen_from(directory) for word in self.identities]
        return self._replace(
            identities=[source.words for source in sources],
            verify_keys=[f"{directory / path}" for path in self.verify_keys],
        )


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed: nothing relative can be found anyway
        return Path("/")


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
    cipherdir: Path, asked: _Asked, options: "ParsedOptions", here: Path
) -> "Callable[[Keeping, Unlocking | None], View]":
    """Return what opens the view, in the process that will serve it.

    A successor is not `here` any more; what the user is told is in his own words.
    """
    from_elsewhere = asked.seen_from(here)

    def open_it(keeping: "Keeping", unlocking: "Unlocking | None") -> "View":
        from ovfuse.view import open_view

        is_first = not keeping.is_successor
        words = asked if is_first else from_elsewhere
        keys = _find_keys(keeping, words.identities, unlocking)
        goes_on = not is_first and unlocking is None
        unlocker = _find_unlocker(keys.opener, words, options, goes_on=goes_on)
        view = open_view(
            cipherdir if is_first else here / cipherdir,
            unlocker,
            strict=options.strict,
            name=options.model,
            keeping=keeping,
        )
        if unlocking is not None and (unlocking.identities or unlocking.passphrase):
            _unlock_all(view)  # nobody finds these keys again
        keys.settle(from_elsewhere.identities)
        if is_first:
            _warn_of_same_disk(keys.files, cipherdir)
        return view

    return open_it


def _unlock_all(view: "CipherdirView") -> None:
    """Unlock what can be; the rest is refused when somebody looks inside."""
    for slot in view.slots:
        with suppress(OvfuseError):
            slot.contents()


class _Keys(NamedTuple):
    """Who finds model keys for a mount.

    Attributes:
        opener: finds them.
        files: that identities came from.
        settle: called with the same identities, as seen from elsewhere, when what is
            unlocked from then on must open by itself.
    """

    opener: "Opener"
    files: tuple[Path, ...]
    settle: "Callable[[list[str]], None]"


def _find_keys(
    keeping: "Keeping", identities: list[str], unlocking: "Unlocking | None"
) -> _Keys:
    """Look for identities; no successor waits for that, since what is open goes on."""
    from ovfuse.keys import IdentityOpener
    from ovfuse.serve.unwrapping import ChildOpener

    if keeping.keeper is None:
        prompt = Prompt()
        own = IdentityOpener.find(identities, prompt)
        return _Keys(own, own.found.files, lambda _: prompt.close())
    given = unlocking and list(unlocking.identities)
    opener = ChildOpener(
        keeping.start_unwrapper,
        given or identities,
        unlocking.passphrase if unlocking else None,
        may_ask=not keeping.is_successor,
    )
    files: tuple[Path, ...] = ()
    if unlocking is not None or not keeping.is_successor:
        files = opener.begin()
    else:
        Thread(target=_check_identities, args=[opener], daemon=True).start()
    return _Keys(opener, files, opener.settle)


def _check_identities(opener: "ChildOpener") -> None:
    try:
        opener.check()
    except OvfuseError as error:
        _log.warning("only what is open goes on: %s", error.message)


def _find_unlocker(
    opener: "Opener", asked: _Asked, options: "ParsedOptions", *, goes_on: bool
) -> "Unlocker":
    """Look for trusted keys; where something is open that goes on, do without."""
    from ovfuse.keys import Unlocker

    try:
        return Unlocker.find(
            opener,
            [Path(path) for path in asked.verify_keys],
            allow_untrusted=options.allow_untrusted,
            allow_rollback=options.allow_rollback,
        )
    except OvfuseError as error:
        if not goes_on:
            raise
        _log.warning("only what is open goes on: %s", error.message)
        return Unlocker.without_keys()


def _warn_of_same_disk(identity_files: tuple[Path, ...], cipherdir: Path) -> None:
    """An identity beside the data protects nothing against theft: say so, once."""
    with suppress(OSError):
        device = cipherdir.stat().st_dev
        if any(path.stat().st_dev == device for path in identity_files):
            warning(IDENTITY_WARNING)
