"""Files as people have them who followed OpenVINO's example: made by `openssl enc`."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "PUBLISHED_CIPHER",
    "PUBLISHED_KEY",
    "PUBLISHED_NAMES",
    "Content",
    "encrypt",
    "encrypt_with_password",
    "secret_file",
]

# As in "Use Encrypted Model with OpenVINO" (OpenVINO's blog, November 2023): key and
# IV are both the text "openvino encrypt".
PUBLISHED_CIPHER = "aes-128-cbc"
PUBLISHED_KEY = "6f70656e76696e6f20656e6372797074"
PUBLISHED_NAMES = {
    "openvino_model.xml": "openvino_model_enc.xml",
    "openvino_model.bin": "openvino_model_enc.bin",
}


@dataclass
class Content:
    """A file that is decrypted already."""

    path: str
    data: bytes

    def __post_init__(self) -> None:
        """Say what a reader says."""
        self.name = f"{self.path}.enc"
        self.size = len(self.data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`."""
        return self.data[offset : offset + size]

    @contextmanager
    def plaintext(self) -> Iterator["Content"]:
        """Open it."""
        yield self


def encrypt(
    source: Path,
    target: Path,
    *,
    key: str = PUBLISHED_KEY,
    iv: str = PUBLISHED_KEY,
    cipher: str = PUBLISHED_CIPHER,
) -> None:
    """Encrypt a file with a key and an IV in hex."""
    _openssl(source, target, f"-{cipher}", "-K", key, "-iv", iv)


def encrypt_with_password(
    source: Path, target: Path, password_file: Path, *options: str
) -> None:
    """Encrypt a file with a password; the options are those of `openssl enc`."""
    _openssl(source, target, "-pbkdf2", "-pass", f"file:{password_file}", *options)


def secret_file(path: Path, content: str | bytes) -> Path:
    """Write a file that only its owner can read."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


def _openssl(source: Path, target: Path, *options: str) -> None:
    files = ("-in", os.fspath(source), "-out", os.fspath(target))
    subprocess.run(["openssl", "enc", "-e", *options, *files], check=True)
