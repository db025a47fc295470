"""`tpm2:FILE`: an identity that `ovfuse tpm enrol` has sealed to this device's TPM."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.files import read_secret
from ovfuse.keys.sources.contract import Source
from ovfuse.keys.tpm2.blob import Blob
from ovfuse.keys.tpm2.reaching import LIMIT_SECONDS
from ovfuse.keys.tpm2.unsealing import unseal
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["Tpm2Source"]


@dataclass(frozen=True, slots=True)
class Tpm2Source(Source):
    """See `Source`. The file may be on the disk of the models: it is of no use alone.

    Args:
        path: of the file.
    """

    path: Path

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source that a path is.

        Raises:
            UsageError: it is none.
        """
        if not text or "\0" in text:
            raise UsageError("tpm2: names no file", hint="ovfuse tpm enrol makes one")
        return cls(Path(text))

    @property
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""
        return f"tpm2:{os.fspath(self.path)}"

    @property
    def seconds(self) -> float:
        """How long a TPM may take; see `Source`."""
        return LIMIT_SECONDS

    def seen_from(self, directory: Path) -> Source:
        """Return one with an absolute path."""
        return Tpm2Source(directory / self.path)

    def read(self) -> Secret:
        """Return what the TPM gives out; see `Source.read`."""
        try:
            data = read_secret(self.path)
        except OSError as error:
            raise KeyFileError(f"{quoted(self.label)}: {error.strerror}") from None
        try:
            return unseal(Blob.parse(data))
        except KeyFileError as error:
            raise KeyFileError(
                f"{quoted(self.label)}: {error.message}", hint=error.hint
            ) from None
