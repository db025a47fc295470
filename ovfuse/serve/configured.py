"""The mounts that are to be there: what /etc/ovfuse/NAME.conf says.

Used by metrics and doctor. The files are those of systemd's EnvironmentFile=, of which
no more is understood here than is needed for paths. Stateless; any thread.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Configured", "configured_mounts"]

_DIRECTORY: Final = Path("/etc/ovfuse")
_QUOTES: Final = "'\""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """One file of them.

    Attributes:
        name: of the instance.
        cipherdir: empty if the file does not say it.
        mountpoint: likewise.
        options: what is after -o.
    """

    name: str
    cipherdir: str
    mountpoint: str
    options: str

    @property
    def unit(self) -> str:
        """The unit that mounts it."""
        return f"ovfuse@{self.name}.service"


def configured_mounts(directory: Path = _DIRECTORY) -> Iterator[Configured]:
    """Yield what can be read of them, by name."""
    with suppress(OSError):
        for path in sorted(directory.glob("*.conf")):
            with suppress(OSError):
                text = path.read_text("utf-8", "surrogateescape")
                found = _variables(text)
                yield Configured(
                    name=path.stem,
                    cipherdir=found.get("CIPHERDIR", ""),
                    mountpoint=found.get("MOUNTPOINT", ""),
                    options=found.get("OPTIONS", ""),
                )


def _variables(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            found[name.strip()] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] in _QUOTES and value[0] == value[-1]
    return value[1:-1] if is_quoted else value
