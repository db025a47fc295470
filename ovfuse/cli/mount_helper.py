"""`mount.fuse.ovfuse`: what mount(8) calls for `-t fuse.ovfuse`, and so fstab, systemd.

A program of its own: mount(8) sets how it is called and what its exit codes mean.
All else is `ovfuse mount`.
"""

import getopt
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ovfuse import cli
from ovfuse.errors import OvfuseError, UsageError
from ovfuse.serve.options import escaped, parse_options, split_options

__all__ = ["EXIT_CODES", "MOUNT_FAILED", "main"]

_USAGE: Final = "mount.fuse.ovfuse CIPHERDIR MOUNTPOINT [-sfnv] [-o OPT,...] [-t TYPE]"

MOUNT_FAILED: Final = 32
"""What every other exit code becomes."""
EXIT_CODES: Final[Mapping[int, int]] = {
    0: 0,
    OvfuseError.exit_code: 4,  # something unforeseen: a defect
    UsageError.exit_code: 1,
    cli.INTERRUPTED: 8,
}
"""Our exit codes, and those of mount(8) for them."""

_OWN_WORDS: Final = {"identity": "--identity", "verify_key": "--verify-key"}
"""Words after `-o` that are options of `ovfuse mount`."""
_DEFAULT: Final = "rw"
"""What mount(8) says if nobody said `ro`; so nobody need have asked for it."""


class _Call(NamedTuple):
    """What mount(8) asks for."""

    cipherdir: str
    mountpoint: str
    options: list[str]
    is_sloppy: bool
    is_fake: bool


def main() -> None:
    """Mount as mount(8) asks for, and exit with a code that it knows."""
    code = cli.run(lambda: _mount(sys.argv[1:]))
    sys.exit(EXIT_CODES.get(code, MOUNT_FAILED))


def _mount(words: Sequence[str]) -> object:
    call = _parse(words)
    command = ["mount", *_command_options(call)]
    if call.is_fake:
        return None
    return cli.obey([*command, "--", call.cipherdir, call.mountpoint])


def _parse(words: Sequence[str]) -> _Call:
    try:
        given, places = getopt.gnu_getopt(words, "sfnvo:t:")
    except getopt.GetoptError as error:
        raise UsageError(error.msg, hint=_USAGE) from None
    try:
        cipherdir, mountpoint = places
    except ValueError:
        raise UsageError("mount.fuse.ovfuse takes two places", hint=_USAGE) from None
    letters = {letter for letter, _ in given}
    texts = (value for letter, value in given if letter == "-o")
    options = [option for text in texts for option in split_options(text)]
    return _Call(cipherdir, mountpoint, options, "-s" in letters, "-f" in letters)


def _command_options(call: _Call) -> Iterator[str]:
    """Yield them as `ovfuse mount` has them."""
    for option in call.options:
        word, _, value = option.partition("=")
        if word == "remount":
            raise UsageError(
                "an ovfuse mount cannot be changed",
                hint="unmount it, and mount it anew",
            )
        if word in _OWN_WORDS:
            if not value:
                raise UsageError(f"-o {word} takes a value", hint=f"-o {word}=...")
            yield f"{_OWN_WORDS[word]}={value}"
        elif option != _DEFAULT and (not call.is_sloppy or _is_known(option)):
            yield f"-o{escaped(option)}"


def _is_known(option: str) -> bool:
    try:
        parse_options([escaped(option)])
    except UsageError:
        return False
    return True
