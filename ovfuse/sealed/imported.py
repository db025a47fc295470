"""A directory that `openssl enc` encrypted file by file, listed for sealing.

Used by `import-openssl`. Which file gets which name, and a first pass over all of
them: their sizes, and whether the key is right, before anything is sealed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ovfuse.errors import UsageError
from ovfuse.quote import quoted
from ovfuse.sealed.evidence import check_contents
from ovfuse.sealed.openssl import EncryptedFile, OpensslKey
from ovfuse.sealed.paths import is_path, parent_of, sort_key
from ovfuse.sealed.source import SourceFile, SourceTree, scan

__all__ = ["default_name", "list_encrypted"]


def list_encrypted(
    directory: Path,
    *,
    key: OpensslKey,
    names: Mapping[str, str],
    plain: Sequence[str] = (),
) -> SourceTree:
    """List a directory of encrypted files by what is to be sealed of them.

    Args:
        directory: with nothing in it but encrypted files, and `plain` ones.
        key: of all of them.
        names: the paths of some in the model, by their paths in the directory.
        plain: patterns of paths that are not encrypted.

    Raises:
        SourceError: a file cannot be what `openssl enc` wrote, or see `scan`.
        NoUsableKeyError: a file does not decrypt to what its name says.
        UsageError: the names do not fit.
    """
    tree = scan(directory)
    paths = _paths(tree, names, plain)
    encrypted: list[EncryptedFile] = []
    others: list[SourceFile] = []
    for file in tree.files:
        if _matches(file.path, plain):
            others.append(file)
        else:
            encrypted.append(_measured(file, paths[file.path], key))
    check_contents(encrypted, [file.path for file in others])
    files = sorted([*encrypted, *others], key=lambda file: sort_key(file.path))
    return SourceTree(tree.directories, tuple(files))


def default_name(path: str) -> str:
    """Return a path without the `_enc` or `.enc` that says that it is encrypted."""
    place = PurePosixPath(path)
    if place.suffix == ".enc" and place.stem.strip("."):
        return str(place.with_name(place.stem))
    stem = place.stem.removesuffix("_enc")
    return str(place.with_name(stem + place.suffix)) if stem.strip(".") else path


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _paths(
    tree: SourceTree, names: Mapping[str, str], plain: Sequence[str]
) -> dict[str, str]:
    """Return the path in the model of every file."""
    sources = {file.path for file in tree.files}
    for source in names:
        if source not in sources or _matches(source, plain):
            raise UsageError(f"--map: there is no encrypted file {quoted(source)}")
    paths: dict[str, str] = {}
    taken = set(tree.directories)
    for source in sorted(sources, key=sort_key):
        own = source if _matches(source, plain) else default_name(source)
        path = names.get(source, own)
        if not is_path(path) or parent_of(path) not in {"", *tree.directories}:
            raise UsageError(f"--map: {quoted(path)} is no path of a file here")
        if path in taken:
            raise UsageError(
                f"two files would be named {quoted(path)}",
                hint="move plaintext elsewhere, or give names with --map ENC=NAME",
            )
        taken.add(path)
        paths[source] = path
    return paths


def _measured(file: SourceFile, path: str, key: OpensslKey) -> EncryptedFile:
    """Return the file with the size of its plaintext."""
    encrypted = EncryptedFile(
        path=path,
        location=file.location,
        size=0,
        signature=file.signature,
        encrypted_path=file.path,
        key=key,
    )
    with encrypted.plaintext() as plaintext:
        return replace(encrypted, size=plaintext.size)
