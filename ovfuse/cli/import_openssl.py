"""`ovfuse import-openssl`: seal what `openssl enc` encrypted."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ovfuse.cli.encrypt import SealingOptions, seal_directory
from ovfuse.cli.parameters import (
    Machines,
    ModelName,
    NewModel,
    NotAfter,
    NotBefore,
    Passphrase,
    Recipients,
    RecipientsFiles,
    SignKey,
    TargetCipherdir,
)
from ovfuse.errors import UsageError
from ovfuse.keys.openssl import read_fixed_key, read_password_key
from ovfuse.quote import quoted
from ovfuse.sealed.imported import list_encrypted
from ovfuse.sealed.openssl import FixedKey, PasswordKey

__all__ = ["import_openssl"]

_DEFAULT_ITERATIONS = 10_000  # those of `openssl enc -pbkdf2`


class _Cipher(StrEnum):
    AES_128 = "aes-128-cbc"
    AES_256 = "aes-256-cbc"


class _Digest(StrEnum):
    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"


_Source = Annotated[
    Path,
    typer.Argument(
        metavar="SRC", help="A directory of encrypted files.", readable=False
    ),
]
_KeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The key, as for -K in hexadecimal, or its 16 or 32 bytes.",
        readable=False,
    ),
]
_IvFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The IV, as for -iv in hexadecimal, or its 16 bytes.",
        readable=False,
    ),
]
_PasswordFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Instead of a key: the password, for -pbkdf2, in the first line.",
        readable=False,
    ),
]
_CipherOption = Annotated[
    _Cipher | None,
    typer.Option("--cipher", help="With a password. [default: aes-256-cbc]"),
]
_Iterations = Annotated[
    int | None,
    typer.Option(
        "--iter", metavar="N", min=1, help="With a password. [default: 10000]"
    ),
]
_DigestOption = Annotated[
    _Digest | None, typer.Option("--md", help="With a password. [default: sha256]")
]
_NamesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="ENC=NAME",
        help="Seal the file ENC of SRC as NAME. [default: without _enc or .enc] "
        "Repeatable.",
    ),
]
_Plain = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help="Files of SRC that are not encrypted. Repeatable."
    ),
]


def import_openssl(
    src: _Source,
    cipherdir: TargetCipherdir,
    key_file: _KeyFile = None,
    iv_file: _IvFile = None,
    password_file: _PasswordFile = None,
    cipher: _CipherOption = None,
    iterations: _Iterations = None,
    digest: _DigestOption = None,
    names: _NamesOption = None,
    plain: _Plain = None,
    recipient: Recipients = None,
    recipients_file: RecipientsFiles = None,
    passphrase: Passphrase = False,
    sign_key: SignKey = None,
    name: ModelName = None,
    new_model: NewModel = False,
    not_before: NotBefore = None,
    not_after: NotAfter = None,
    machine: Machines = None,
) -> None:
    """Seal into CIPHERDIR what `openssl enc` encrypted with AES-CBC in SRC."""
    options = SealingOptions(
        recipient=recipient,
        recipients_file=recipients_file,
        passphrase=passphrase,
        sign_key=sign_key,
        name=name,
        new_model=new_model,
        not_before=not_before,
        not_after=not_after,
        machine=machine,
    )
    key = _key(key_file, iv_file, password_file, cipher, iterations, digest)
    sources = _names(names or [])
    list_source = partial(list_encrypted, key=key, names=sources, plain=plain or [])
    try:
        seal_directory(src, cipherdir, options, list_source)
    finally:
        key.wipe()


def _key(
    key_file: Path | None,
    iv_file: Path | None,
    password_file: Path | None,
    cipher: _Cipher | None,
    iterations: int | None,
    digest: _Digest | None,
) -> FixedKey | PasswordKey:
    if (key_file is None) == (password_file is None):
        raise UsageError("either --key-file or --password-file must be given")
    if password_file is not None:
        if iv_file is not None:
            raise UsageError("--iv-file belongs to --key-file: a password makes the IV")
        return read_password_key(
            password_file,
            cipher=cipher or _Cipher.AES_256,
            digest=digest or _Digest.SHA256,
            iterations=iterations or _DEFAULT_ITERATIONS,
        )
    if cipher or iterations or digest:
        raise UsageError("--cipher, --iter and --md belong to --password-file")
    if key_file is None or iv_file is None:
        raise UsageError(
            "--key-file needs --iv-file", hint="what `openssl enc` was given as -iv"
        )
    return read_fixed_key(key_file, iv_file)


def _names(texts: list[str]) -> dict[str, str]:
    """Return the new name of each file that was named; see `--map`."""
    names: dict[str, str] = {}
    for text in texts:
        source, equals, name = text.partition("=")
        if not (source and equals and name) or source in names:
            raise UsageError(
                f"--map {quoted(text)} names no file, or one again",
                hint="--map model_enc.xml=model.xml",
            )
        names[source] = name
    return names
