"""Every bit of every small file flipped, and every file cut at every byte."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovfuse.errors import DamagedError, NewerFormatError, OvfuseError
from ovfuse.sealed.envelope import parse_envelope
from ovfuse.sealed.pointer import parse_pointer
from ovfuse.sealed.wrapping import Identity, stanza_types, unwrap
from tests.hostile.published import (
    PARTS,
    Found,
    Published,
    bits_of,
    permissive,
    publish,
    read_each,
    write,
)
from tests.support.encryptor import Plain, SealedFiles
from tests.support.sealed import recipient_of

FILES = {"a": b"abc", "d/e": b""}
ON_DISK: dict[str, Callable[[SealedFiles], str]] = {
    "pointer": lambda made: "model.ovfuse",
    "blocks": PARTS["blocks"],
    "object": PARTS["object a"],
    "empty object": lambda made: made.object_path("d/e"),
}


@pytest.fixture(scope="module")
def made(identity: Identity) -> SealedFiles:
    made = publish(Plain(files=FILES), "bits")
    made.add_key_file(recipient_of(identity).canonical)
    return made


def cuts_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield every beginning of it but the whole, and its length."""
    for size in range(len(data)):
        yield size, data[:size]


EDITS = {"bits": bits_of, "cuts": cuts_of}
edits = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
Edit = Callable[[bytes], Iterator[tuple[int, bytes]]]


@edits
def test_envelope(made: SealedFiles, edit: Edit) -> None:
    data = made.files[made.envelope_path]
    parse_envelope(data, made.seal_id)
    count = 0
    for number, changed in edit(data):
        count += 1
        try:
            parse_envelope(changed, made.seal_id)
        except DamagedError:
            continue
        pytest.fail(f"accepted: {number}")

    assert count in {len(data), 8 * len(data)}


@edits
def test_key_file(made: SealedFiles, identity: Identity, edit: Edit) -> None:
    data = made.files[PARTS["key file"](made)]
    for number, changed in edit(data):
        try:
            stanza_types(changed)
        except DamagedError:
            continue
        candidate = unwrap(changed, [identity])
        assert candidate is None or bytes(candidate.view) == made.model_key, number


@edits
def test_pointer(made: SealedFiles, edit: Edit) -> None:
    data = made.files["model.ovfuse"]
    for number, changed in edit(data):
        try:
            found = parse_pointer(changed)
        except (DamagedError, NewerFormatError):
            continue
        assert found != made.seal_id, number  # of a sealing that is not there


@edits
@pytest.mark.parametrize("part", ON_DISK)
def test_file_on_disk(
    tmp_path: Path, made: SealedFiles, identity: Identity, part: str, edit: Edit
) -> None:
    directory = write(made.files, tmp_path)
    unlocker = permissive(identity, Published(made, made, made))
    path = ON_DISK[part](made)

    assert read_each(directory, unlocker) == FILES
    for number, changed in edit(made.files[path]):
        (directory / path).write_bytes(changed)
        found = read_each(directory, unlocker)
        assert is_damage(found), (number, found)


def is_damage(found: Found | OvfuseError) -> bool:
    """Say whether everything or one file is refused, and the rest is right."""
    kinds = (DamagedError, NewerFormatError)
    if isinstance(found, OvfuseError):
        return isinstance(found, kinds)
    wrong = [path for path, data in found.items() if data != FILES[path]]
    return len(wrong) == 1 and isinstance(found[wrong[0]], kinds)
