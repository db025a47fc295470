"""The words after `-o`: parsed here and only here.

Used by the mount command; the result goes to the engines and to the view. Names of
accounts are looked up; any thread. A backslash takes the meaning off the next
character, so that a value may hold a comma.
"""

import grp
import pwd
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ovfuse.errors import UsageError
from ovfuse.quote import quoted
from ovfuse.serve.resident.policy import AUTO, CHOICES

__all__ = ["ENGINES", "MountOptions", "escaped", "parse_options", "split_options"]

ENGINES: Final = ("kernel", "libfuse")
"""The first is the default."""

_MAX_ID: Final = 2**32 - 2  # the last one means "unchanged" to chown(2)
_MAX_DIGITS: Final = 10  # int() takes no number of thousands
_TOKEN: Final = re.compile(r"\\(.)|(,)|([^\\,])", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """What the user asked of a mount.

    Attributes:
        allow_other: other accounts may use it, too.
        uid: the owner that is shown; None: the mounting user.
        gid: the group that is shown; None: the mounting user's.
        umask: taken off 0555 for directories and 0444 for files.
        noexec: programs in it cannot be started.
        strict: every model of a tree must unlock, or nothing is mounted.
        allow_untrusted: models need no trusted signature.
        allow_rollback: an older sealing is accepted and becomes the known one.
        allow_dumps: mount also while OpenVINO is told to write models to disk.
        model: the signed name that a single sealed model must have.
        engine: which engine serves.
        resident: which files the kernel serves from memory; see `resident.policy`.
        resident_max: bytes that these may take; None: half of the machine's memory.
        resident_user_max: bytes of them for what one account opened first; None: all.
        audit: who opens which model is logged.
        log: the file to log to.
        premounted: it is mounted, and systemd has the connection; see `premount`.
    """

    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    noexec: bool = False
    strict: bool = False
    allow_untrusted: bool = False
    allow_rollback: bool = False
    allow_dumps: bool = False
    model: str | None = None
    engine: str = ENGINES[0]
    resident: str = AUTO
    resident_max: int | None = None
    resident_user_max: int | None = None
    audit: bool = True
    log: Path | None = None
    premounted: bool = False


def _identifier(word: str, value: str) -> int:
    """Return the number of an account or group; what is all digits is the number."""
    if not re.fullmatch(r"[0-9]+", value):
        return _number_of(word, value)
    if len(value) > _MAX_DIGITS or int(value) > _MAX_ID:
        raise UsageError(f"-o {word}={quoted(value)} is no number of an account")
    return int(value)


def _number_of(word: str, name: str) -> int:
    try:
        if word == "uid":
            return pwd.getpwnam(name).pw_uid
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):  # a NUL, or a lone surrogate
        kind, database = {
            "uid": ("account", "passwd"),
            "gid": ("group", "group"),
        }[word]
        raise UsageError(
            f"-o {word}={quoted(name)}: no such {kind}",
            hint=f"`getent {database}` lists them; a number may be anything",
        ) from None


def _mode_bits(word: str, value: str) -> int:
    if not re.fullmatch("0?[0-7]{1,3}", value):
        raise UsageError(f"-o {word} takes an octal number, not {quoted(value)}")
    return int(value, 8)


def _text(word: str, value: str) -> str:
    if not value:
        raise UsageError(f"-o {word}= lacks its value")
    return value


def _path(word: str, value: str) -> Path:
    # Absolute now: a mount's working directory is `/`.
    return Path(_text(word, value)).absolute()


def _one_of(known: tuple[str, ...]) -> Callable[[str, str], str]:
    def choice(word: str, value: str) -> str:
        if value not in known:
            raise UsageError(
                f"-o {word}={quoted(value)} is not known",
                hint=f"one of: {', '.join(known)}",
            )
        return value

    return choice


def _size(word: str, value: str) -> int:
    match = re.fullmatch("([0-9]{1,15})([KMGT]?)", value)
    if match is None:
        raise UsageError(
            f"-o {word} takes a size, not {quoted(value)}",
            hint="bytes, or with K, M, G or T behind: 4G",
        )
    number, unit = match.groups()
    return int(number) << _SHIFTS[unit]


def _yes_or_no(word: str, value: str) -> bool:
    return _one_of(("yes", "no"))(word, value) == "yes"


_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_FLAGS: Final = (
    "allow_other",
    "strict",
    "allow_untrusted",
    "allow_rollback",
    "allow_dumps",
    "noexec",
    "premounted",
)
_VALUES: Final[dict[str, Callable[[str, str], object]]] = {
    "uid": _identifier,
    "gid": _identifier,
    "umask": _mode_bits,
    "model": _text,
    "engine": _one_of(ENGINES),
    "resident": _one_of(CHOICES),
    "resident_max": _size,
    "resident_user_max": _size,
    "audit": _yes_or_no,
    "log": _path,
}
# What mount(8) and fstab say to every filesystem. Those of the first two lines are so
# anyway: reading changes no time.
_SWALLOWED: Final = (
    *("ro", "nosuid", "nodev"),
    *("noatime", "nodiratime", "relatime", "async"),
    *("_netdev", "auto", "noauto", "nofail", "defaults"),
    *("user", "users", "nouser", "owner", "group"),
)
_PREFIXES: Final = ("x-", "X-", "comment=")


def parse_options(texts: Iterable[str]) -> MountOptions:
    """Return what the `-o` strings say; of a word that is repeated, the last.

    Raises:
        UsageError: a word is unknown, or its value is no good.
    """
    chosen: dict[str, object] = {}
    for text in texts:
        for option in split_options(text):
            word, equals, value = option.partition("=")
            if word in _VALUES and equals:
                chosen[word] = _VALUES[word](word, value)
            elif option in _FLAGS:
                chosen[option] = True
            elif option == "exec":  # as behind `user`, for which mount(8) says noexec
                chosen["noexec"] = False
            elif option not in _SWALLOWED and not option.startswith(_PREFIXES):
                raise _unknown(option)
    return MountOptions(**chosen)  # type: ignore[arg-type]  # by the table's types


def escaped(option: str) -> str:
    """Return one option as `split_options` would find it again."""
    return option.replace("\\", "\\\\").replace(",", "\\,")


def split_options(text: str) -> Iterator[str]:
    """Yield the options of one string, without backslashes and empty ones.

    Raises:
        UsageError: it ends in a backslash.
    """
    option = ""
    if re.search(r"(?<!\\)(\\\\)*\\\Z", text):
        raise UsageError(f"-o {quoted(text)} ends in a backslash")
    for escaped, comma, plain in _TOKEN.findall(text):
        if not comma:
            option += escaped or plain
            continue
        if option:
            yield option
        option = ""
    if option:
        yield option


def _unknown(option: str) -> UsageError:
    word = option.partition("=")[0]
    if word == "rw":
        return UsageError("-o rw: this filesystem is read-only", hint="leave it out")
    if word in _VALUES:
        return UsageError(f"-o {word} takes a value", hint=f"-o {word}=...")
    known = ", ".join([*_FLAGS, *(f"{name}=" for name in _VALUES)])
    return UsageError(f"-o {quoted(option)} is not known", hint=f"known are: {known}")
