"""What `openssl enc` encrypted with AES-CBC, decrypted from disk a piece at a time.

For `import-openssl` alone. CBC authenticates nothing: that a key is the right one
shows only in the padding and in the content, which `evidence.py` looks at. A block
needs the one before it and nothing else, so any place can be read by itself.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from ovfuse.errors import NoUsableKeyError, SourceError
from ovfuse.quote import quoted
from ovfuse.sealed.source import ReadInto, SourceFile, opened_unchanged
from ovfuse.secret import Secret

__all__ = [
    "CBC_BLOCK_SIZE",
    "DIGESTS",
    "SALT_MAGIC",
    "WRONG_KEY_HINT",
    "CbcReader",
    "EncryptedFile",
    "FixedKey",
    "OpensslKey",
    "PasswordKey",
]

CBC_BLOCK_SIZE: Final = 16
SALT_MAGIC: Final = b"Salted__"
DIGESTS: Final[Mapping[str, Callable[[], hashes.HashAlgorithm]]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
WRONG_KEY_HINT: Final = (
    "the key, IV or password is another one, or the cipher, digest or number of "
    "iterations; or the file is damaged: CBC cannot tell"
)
_SALT_SIZE: Final = 8


class OpensslKey(Protocol):
    """Gives the key and the IV of each file.

    Attributes:
        header_size: bytes that stand before the ciphertext.
    """

    header_size: ClassVar[int]

    def derive(self, header: bytes) -> Secret:
        """Return the AES key and the IV of a file, one after the other."""


class FixedKey:
    """What `-K` and `-iv` were given: the same for every file.

    Args:
        key: 16 or 32 bytes.
        iv: 16 bytes.
    """

    header_size: ClassVar[int] = 0

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._secret = Secret(key + iv)

    def derive(self, header: bytes) -> Secret:  # noqa: ARG002 - there is none
        """Return both."""
        return Secret(self._secret.view)

    def wipe(self) -> None:
        """Overwrite both."""
        self._secret.wipe()


class PasswordKey:
    """A password, made into the key and IV of a file with its salt, as by `-pbkdf2`.

    Args:
        password: its bytes.
        key_size: of the cipher, in bytes.
        digest: a name in `DIGESTS`.
        iterations: at least 1.
    """

    header_size: ClassVar[int] = len(SALT_MAGIC) + _SALT_SIZE

    def __init__(
        self, password: bytes, *, key_size: int, digest: str, iterations: int
    ) -> None:
        self._password = Secret(password)
        self._size = key_size + CBC_BLOCK_SIZE
        self._digest = DIGESTS[digest]
        self._iterations = iterations

    def derive(self, header: bytes) -> Secret:
        """Return what PBKDF2 makes of the salt in the header."""
        salt = header[len(SALT_MAGIC) :]
        kdf = PBKDF2HMAC(self._digest(), self._size, salt, self._iterations)
        buffer = bytearray(self._size)
        kdf.derive_into(self._password.view, buffer)
        secret = Secret(buffer)
        buffer[:] = bytes(len(buffer))
        return secret

    def wipe(self) -> None:
        """Overwrite the password."""
        self._password.wipe()


class CbcReader:
    """The plaintext of one encrypted file, in order or at random access.

    Args:
        fd: of the file, which must not change.
        name: of the file, for messages.
        key: for all files.

    Attributes:
        name: as above.
        size: of the plaintext, in bytes.

    Raises:
        SourceError: it cannot be what `openssl enc` wrote, or cannot be read.
        NoUsableKeyError: the padding at its end is none.
    """

    def __init__(self, fd: int, name: str, key: OpensslKey) -> None:
        self.name = name
        self._fd = fd
        self._start = key.header_size
        self._position = 0
        total = os.fstat(fd).st_size
        self._check_shape(self._pread(min(total, len(SALT_MAGIC)), 0), total)
        self._secret = key.derive(self._pread(self._start, 0))
        try:
            self.size = self._plaintext_size(total - self._start)
        except BaseException:
            self.wipe()
            raise

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer at the end.

        Raises:
            SourceError: it cannot be read.
        """
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        first = offset - offset % CBC_BLOCK_SIZE
        last = -(-end // CBC_BLOCK_SIZE) * CBC_BLOCK_SIZE
        buffer = memoryview(bytearray(last - first + CBC_BLOCK_SIZE - 1))
        self._decrypt(first, last - first, buffer)
        return bytes(buffer[offset - first : end - first])

    def read_into(self, buffer: memoryview) -> int:
        """Fill a buffer of at least 32 bytes from where the last call ended.

        Returns:
            The number of bytes, 0 at the end. What lies behind them is overwritten.

        Raises:
            SourceError: it cannot be read.
        """
        rest = self.size - self._position
        room = len(buffer) - CBC_BLOCK_SIZE + 1  # what the library wants to have free
        count = min(room, rest + CBC_BLOCK_SIZE - 1) // CBC_BLOCK_SIZE * CBC_BLOCK_SIZE
        if rest == 0:
            return 0
        self._decrypt(self._position, count, buffer)
        given = min(count, rest)
        self._position += given
        return given

    def wipe(self) -> None:
        """Overwrite the key of this file."""
        self._secret.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def _check_shape(self, head: bytes, total: int) -> None:
        salted = head == SALT_MAGIC
        if salted and not self._start:
            raise SourceError(
                f"{quoted(self.name)} was encrypted with a password",
                hint="--password-file instead of --key-file",
            )
        if self._start and not salted:
            raise SourceError(
                f"{quoted(self.name)} was not encrypted with a password and a salt",
                hint="--key-file and --iv-file are for `openssl enc -K -iv`",
            )
        size = total - self._start
        if size <= 0 or size % CBC_BLOCK_SIZE:
            raise SourceError(
                f"{quoted(self.name)} is not what AES-CBC makes: "
                f"{max(size, 0)} bytes are no whole blocks of {CBC_BLOCK_SIZE}",
                hint="it is cut off or not encrypted (see --plain), or base64",
            )

    def _plaintext_size(self, size: int) -> int:
        """Look at the last block: it says how many bytes of it are padding."""
        buffer = memoryview(bytearray(2 * CBC_BLOCK_SIZE))
        self._decrypt(size - CBC_BLOCK_SIZE, CBC_BLOCK_SIZE, buffer)
        block = bytes(buffer[:CBC_BLOCK_SIZE])
        count = block[-1]
        if not 0 < count <= CBC_BLOCK_SIZE or block[-count:] != bytes([count]) * count:
            raise NoUsableKeyError(
                f"{quoted(self.name)} cannot be decrypted", hint=WRONG_KEY_HINT
            )
        return size - count

    def _decrypt(self, offset: int, size: int, buffer: memoryview) -> None:
        """Decrypt whole blocks; the buffer is longer by a block less one byte."""
        place = self._start + offset
        key, iv = (
            self._secret.view[:-CBC_BLOCK_SIZE],
            self._secret.view[-CBC_BLOCK_SIZE:],
        )
        if offset:
            iv = memoryview(self._pread(CBC_BLOCK_SIZE, place - CBC_BLOCK_SIZE))
        decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        decryptor.update_into(self._pread(size, place), buffer)

    def _pread(self, size: int, offset: int) -> bytes:
        pieces = []
        while size > 0:
            try:
                piece = os.pread(self._fd, size, offset)
            except OSError as error:
                raise SourceError(f"{quoted(self.name)}: {error.strerror}") from None
            if not piece:
                raise SourceError(f"{quoted(self.name)} ends too early")
            pieces.append(piece)
            size -= len(piece)
            offset += len(piece)
        return b"".join(pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedFile(SourceFile):
    """A file whose plaintext is to be sealed.

    Attributes:
        encrypted_path: of the file in the directory of encrypted ones.
        key: for it.
    """

    encrypted_path: str
    key: OpensslKey = field(repr=False)

    @contextmanager
    def plaintext(self) -> Iterator[CbcReader]:
        """Open it for decryption.

        Raises:
            SourceError, NoUsableKeyError: see `CbcReader`; or it changed.
        """
        with (
            opened_unchanged(self) as fd,
            CbcReader(fd, self.encrypted_path, self.key) as reader,
        ):
            yield reader

    @contextmanager
    def open(self) -> Iterator[ReadInto]:
        """Open the plaintext for reading from start to end."""
        with self.plaintext() as reader:
            yield reader.read_into
