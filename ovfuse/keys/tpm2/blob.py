"""What a TPM sealed, as a file: one line of canonical JSON. Nothing in it is secret.

Nor is anything in it believed: the TPM decides whether it opens, and what comes out
must be the identity of the recipient. A change of the file can only make it useless.
"""

import re
from itertools import pairwise
from typing import Annotated, Final, Literal

from msgspec import Meta

from ovfuse.errors import DamagedError, KeyFileError
from ovfuse.sealed.canonical import Record, decode, encode
from ovfuse.sealed.wrapping import Recipient

__all__ = ["MAX_PCR", "Blob", "Pcr"]

MAX_PCR: Final = 23
_NAME: Final = re.compile("000b[0-9a-f]{64}")
"""Of a key: the number of SHA-256, and that hash of its public half."""
_Area = Annotated[bytes, Meta(min_length=2, max_length=1024)]


class Pcr(Record, frozen=True, kw_only=True):
    """A register of the sha256 bank, and its value at that time, for messages."""

    index: Annotated[int, Meta(ge=0, le=MAX_PCR)]
    value: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Blob(Record, frozen=True, kw_only=True):
    """An identity, sealed.

    Attributes:
        format: of the file.
        pcrs: that must be as they were, ascending.
        primary: the name of the key of the TPM that it is encrypted under.
        private: TPM2B_PRIVATE, as the TPM made it.
        public: TPM2B_PUBLIC of the same, which has the policy.
        recipient: of the identity.
    """

    format: Literal["ovfuse.tpm2.v1"]
    pcrs: Annotated[tuple[Pcr, ...], Meta(min_length=1, max_length=MAX_PCR + 1)]
    primary: str
    private: _Area
    public: _Area
    recipient: str

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return encode(self) + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> "Blob":
        """Return what a file holds.

        Raises:
            KeyFileError: it is not whole, or another file.
        """
        try:
            blob = decode(data.removesuffix(b"\n"), Blob, "file")
        except DamagedError:
            raise KeyFileError(
                "it was not made by this version of ovfuse tpm enrol, or is damaged"
            ) from None
        indices = [pcr.index for pcr in blob.pcrs]
        is_ascending = all(first < second for first, second in pairwise(indices))
        recipient = Recipient.parse(blob.recipient).canonical
        if (
            not is_ascending
            or recipient != blob.recipient
            or not _NAME.fullmatch(blob.primary)
        ):
            raise KeyFileError("it is damaged")
        return blob
