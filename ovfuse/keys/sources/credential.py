"""`credential:NAME`: what systemd decrypted for this service."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.sources.contract import Source
from ovfuse.keys.sources.file import FileSource
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["CredentialSource"]

_NAME_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class CredentialSource(Source):
    """See `Source`.

    Args:
        name: in $CREDENTIALS_DIRECTORY.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source of that name.

        Raises:
            UsageError: it is not the name of one file.
        """
        is_name = "/" not in text and "\0" not in text and text not in {"", ".", ".."}
        if not is_name or len(os.fsencode(text)) > _NAME_MAX:
            raise UsageError(
                f"{quoted(f'credential:{text}')} is not the name of a credential",
                hint="the part of LoadCredentialEncrypted= before the colon",
            )
        return cls(text)

    @property
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""
        return f"credential:{self.name}"

    def read(self) -> Secret:
        """Return its content; see `Source.read`."""
        directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if not directory.startswith("/"):
            raise KeyFileError(
                f"{quoted(self.label)}: there is no $CREDENTIALS_DIRECTORY",
                hint="credentials are there in services of systemd that load some: "
                "LoadCredentialEncrypted=NAME:FILE",
            )
        try:
            return FileSource(Path(directory, self.name), is_credential=True).read()
        except OSError as error:
            raise KeyFileError(f"{quoted(self.label)}: {error.strerror}") from None
