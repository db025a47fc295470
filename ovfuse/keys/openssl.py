"""The keys, IVs and passwords that `openssl enc` was given, from files.

A key and an IV as for -K and -iv, in hexadecimal digits, or their bytes; a password
as for -pass file:, the first line. Files that others can read are refused.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from ovfuse.errors import KeyFileError
from ovfuse.keys.files import read_secret
from ovfuse.quote import quoted
from ovfuse.sealed.openssl import CBC_BLOCK_SIZE, FixedKey, PasswordKey

__all__ = ["KEY_SIZES", "read_fixed_key", "read_password_key"]

KEY_SIZES: Final = {"aes-128-cbc": 16, "aes-256-cbc": 32}
_HEX: Final = re.compile(rb"(?:[0-9A-Fa-f]{2})+")


def read_fixed_key(key_file: Path, iv_file: Path) -> FixedKey:
    """Return a key, whose size says which cipher it is for, and an IV.

    Raises:
        KeyFileError: a file cannot be read, must not be used, or holds no such thing.
    """
    key = _read_bytes(key_file, KEY_SIZES.values(), "an AES key of 16 or 32 bytes")
    return FixedKey(key, _read_bytes(iv_file, [CBC_BLOCK_SIZE], "an IV of 16 bytes"))


def read_password_key(
    password_file: Path, *, cipher: str, digest: str, iterations: int
) -> PasswordKey:
    """Return what makes keys of the password.

    Args:
        password_file: its first line is the password.
        cipher: a name in `KEY_SIZES`.
        digest: see `PasswordKey`.
        iterations: see `PasswordKey`.

    Raises:
        KeyFileError: the file cannot be read, must not be used, or is empty.
    """
    password = _read(password_file).partition(b"\n")[0]
    if not password:
        raise KeyFileError(f"the first line of {quoted(password_file)} is empty")
    return PasswordKey(
        password, key_size=KEY_SIZES[cipher], digest=digest, iterations=iterations
    )


def _read_bytes(path: Path, sizes: Collection[int], what: str) -> bytes:
    data = _read(path)
    text = data.strip()
    if len(text) // 2 in sizes and _HEX.fullmatch(text):
        return bytes.fromhex(text.decode())
    if len(data) in sizes:
        return data
    digits = " or ".join(f"{2 * size}" for size in sizes)
    raise KeyFileError(
        f"{quoted(path)} is not {what}",
        hint=f"{digits} hexadecimal digits, or the bytes themselves and nothing else",
    )


def _read(path: Path) -> bytes:
    try:
        return read_secret(path)
    except OSError as error:
        raise KeyFileError(f"{quoted(path)}: {error.strerror}") from None
