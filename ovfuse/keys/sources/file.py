"""`PATH` or `file:PATH`: a file that nobody else can read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ovfuse.errors import UsageError
from ovfuse.keys.files import read_secret
from ovfuse.keys.sources.contract import Source
from ovfuse.secret import Secret

__all__ = ["FileSource"]


@dataclass(frozen=True, slots=True)
class FileSource(Source):
    """See `Source`.

    Args:
        path: of the file.
        is_credential: systemd made it, for this service and in memory; it is taken
            as it is.
    """

    path: Path
    is_credential: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source that a path is.

        Raises:
            UsageError: it is empty, or no path.
        """
        if not text or "\0" in text:
            raise UsageError("a file with an identity has no name")
        return cls(Path(text))

    @property
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""
        return f"file:{self.path}"

    @property
    def label(self) -> str:
        """The path."""
        return os.fspath(self.path)

    @property
    def file(self) -> Path | None:
        """The file, if it is on a disk."""
        return None if self.is_credential else self.path

    def seen_from(self, directory: Path) -> Source:
        """Return one with an absolute path."""
        return FileSource(directory / self.path, self.is_credential)

    def read(self) -> Secret:
        """Return its content; see `Source.read`."""
        return Secret(read_secret(self.path, check_owner=not self.is_credential))
