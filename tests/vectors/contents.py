"""Block lists and objects: damage, forgery by somebody with the key, padding, sizes."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.encryptor import (
    Edits,
    Plain,
    SealedFiles,
    block_list,
    encrypt_message,
    object_context,
)
from tests.vectors.build import (
    BLOCK,
    Vector,
    as_is,
    damaged,
    flipped,
    pattern,
    sealed,
    success,
    swapped,
    with_edits,
    with_file,
    with_object,
    with_plain,
)

CHUNK = 16384
TWINS = Plain(files={"f": b"one", "g": b"two"})
TWO_CHUNKS = Plain(files={"f": pattern(CHUNK + 5), "g": b"whole"})
THREE_CHUNKS = Plain(files={"f": pattern(2 * CHUNK + 5), "g": b"whole"})
TWO_BLOCKS = Plain(files={"f": pattern(BLOCK + 5), "g": b"whole"})


# Block lists


@damaged
def blocks_empty() -> Vector:
    """The file `blocks` is empty."""
    return with_file("blocks", lambda _: b"")


@damaged
def blocks_one_byte_short() -> Vector:
    """The file `blocks` lacks its last byte."""
    return with_file("blocks", lambda data: data[:-1])


@damaged
def blocks_one_entry_short() -> Vector:
    """The file `blocks` lacks its last entry."""
    return with_file("blocks", lambda data: data[:-32])


@damaged
def blocks_one_byte_long() -> Vector:
    """A zero byte follows in the file `blocks`."""
    return with_file("blocks", lambda data: data + b"\0")


@damaged
def blocks_one_entry_long() -> Vector:
    """An entry follows in the file `blocks`."""
    return with_file("blocks", lambda data: data + data[-32:])


@damaged
def blocks_lists_swapped() -> Vector:
    """The lists of two files of the same size are swapped."""
    return with_file("blocks", swapped(32), TWINS)


@damaged
def blocks_entry_flipped() -> Vector:
    """A bit of the list of one file is another; the other file is whole."""
    return with_file("blocks", flipped(0), TWINS, released=["g"])


@damaged
def block_list_hash_other() -> Vector:
    """The block-list hash of one file in the manifest is another."""

    def edit(path: str, entries: bytes) -> bytes:
        return entries if path == "g" else flipped(0)(entries)

    made = sealed(TWINS, Edits(blocks=edit))
    right = sealed(TWINS)
    made.files[made.path_of("blocks")] = right.files[right.path_of("blocks")]
    return as_is(made, released=["g"])


@damaged
def block_hash_signed_wrong() -> Vector:
    """The list of one file was signed with a hash that is not its block's."""

    def edit(path: str, entries: bytes) -> bytes:
        return entries if path == "g" else flipped(0)(entries)

    return as_is(sealed(TWINS, Edits(blocks=edit)), released=["g"])


# Objects that somebody without the key changed


def changed(edit: Callable[[bytes], bytes], plain: Plain = TWINS) -> Vector:
    """A model in which the object of the file f is another than was signed."""
    return with_object("f", edit, plain, released=["g"])


@damaged
def object_empty() -> Vector:
    """The object of the file f is empty."""
    return changed(lambda _: b"")


@damaged
def object_cut_in_the_prefix() -> Vector:
    """The object of the file f has 55 bytes."""
    return changed(lambda data: data[:55])


@damaged
def object_without_chunks() -> Vector:
    """The object of the file f has 56 bytes."""
    return changed(lambda data: data[:56])


@damaged
def object_cut() -> Vector:
    """The object of the file f lacks its last byte."""
    return changed(lambda data: data[:-1])


@damaged
def object_longer() -> Vector:
    """A zero byte follows the object of the file f."""
    return changed(lambda data: data + b"\0")


@damaged
def object_second_final_chunk() -> Vector:
    """The bytes of the final chunk of the file f follow once more."""
    return changed(lambda data: data + data[56:])


@damaged
def object_salt() -> Vector:
    """A bit of the salt of the file f is another."""
    return changed(flipped(0))


@damaged
def object_commitment() -> Vector:
    """A bit of the commitment of the file f is another."""
    return changed(flipped(55))


@damaged
def object_ciphertext() -> Vector:
    """A bit of the ciphertext of the file f is another."""
    return changed(flipped(56))


@damaged
def object_tag() -> Vector:
    """A bit of the last tag of the file f is another."""
    return changed(flipped(-1))


@damaged
def object_cut_before_the_end_of_a_chunk() -> Vector:
    """The object of the file f lacks its final chunk, and a byte more."""
    return changed(lambda data: data[: 56 + 16400 - 1], TWO_CHUNKS)


@damaged
def object_cut_at_the_end_of_a_chunk() -> Vector:
    """The object of the file f lacks its final chunk."""
    return changed(lambda data: data[: 56 + 16400], TWO_CHUNKS)


@damaged
def object_cut_after_the_end_of_a_chunk() -> Vector:
    """The object of the file f has one byte of its final chunk."""
    return changed(lambda data: data[: 56 + 16400 + 1], TWO_CHUNKS)


@damaged
def objects_swapped() -> Vector:
    """The objects of two files of the same size are swapped."""
    made = sealed(TWINS)
    f, g = made.object_path("f"), made.object_path("g")
    made.files[f], made.files[g] = made.files[g], made.files[f]
    return as_is(made)


@damaged
def object_of_another_sealing() -> Vector:
    """The object of the file f is that of an older sealing with the same content."""
    old = sealed(TWINS, seed="older")
    return changed(lambda _: old.files[old.object_path("f")])


# Objects that the publisher signed so: hashes are right


def signed(edit: Callable[[bytes], bytes], plain: Plain = TWINS) -> Vector:
    """A model in which the object of the file f is wrong, but hashed as it is."""

    def message(path: str, data: bytes) -> bytes:
        return edit(data) if path == "f" else data

    return as_is(sealed(plain, Edits(message=message)), released=["g"])


@damaged
def signed_salt() -> Vector:
    """Hashes are right; a bit of the salt of the file f is another."""
    return signed(flipped(0))


@damaged
def signed_commitment() -> Vector:
    """Hashes are right; a bit of the commitment of the file f is another."""
    return signed(flipped(55))


@damaged
def signed_ciphertext() -> Vector:
    """Hashes are right; a bit of the ciphertext of the file f is another."""
    return signed(flipped(56))


@damaged
def signed_tag() -> Vector:
    """Hashes are right; a bit of the tag of the file f is another."""
    return signed(flipped(-1))


@damaged
def signed_chunks_swapped() -> Vector:
    """Hashes are right; two chunks of the file f are swapped."""
    return signed(swapped(16400, 56), THREE_CHUNKS)


@damaged
def signed_final_chunk_full() -> Vector:
    """Hashes are right; the file f has 16,384 bytes and no empty final chunk."""
    plain = Plain(files={"f": pattern(CHUNK), "g": b"whole"})
    return signed(lambda data: data[: 56 + 16400], plain)


def encrypted_anew(key: bytes, seal_id: str, object_id: str) -> Callable[..., bytes]:
    """An edit that encrypts the right content under something else."""
    context = object_context(seal_id, object_id)
    return lambda data: encrypt_message(key, data[:24], context, b"one")


def ids_of_f() -> tuple[bytes, str, str]:
    made = sealed(TWINS)
    return made.model_key, made.seal_id, made.object_path("f")[-32:]


@damaged
def signed_under_another_key() -> Vector:
    """Hashes are right; the file f is encrypted under another key."""
    _, seal_id, object_id = ids_of_f()
    return signed(encrypted_anew(b"x" * 32, seal_id, object_id))


@damaged
def signed_under_another_seal_id() -> Vector:
    """Hashes are right; the context of the file f has another seal id."""
    key, _, object_id = ids_of_f()
    return signed(encrypted_anew(key, "0" * 32, object_id))


@damaged
def signed_under_another_object_id() -> Vector:
    """Hashes are right; the context of the file f has another object id."""
    key, seal_id, _ = ids_of_f()
    return signed(encrypted_anew(key, seal_id, "0" * 32))


@damaged
def plaintext_hash_other() -> Vector:
    """The plaintext hash of the file f in the manifest is another: whoever reads
    the whole file finds it."""

    def edit(manifest: dict[str, list[dict[str, str]]]) -> None:
        manifest["files"][0]["plaintext_sha256"] = "0" * 64

    made = with_edits(Edits(manifest=edit), TWINS)
    made.released = ["f", "g"]
    made.options = {"damaged_when_whole": ["f"]}
    return made


# Somebody who knows the model key, but does not sign


def forged(made: SealedFiles, content: bytes, salt: bytes = b"") -> bytes:
    """Return a valid object for the file f with another content."""
    right = made.files[made.object_path("f")]
    context = object_context(made.seal_id, made.object_path("f")[-32:])
    return encrypt_message(made.model_key, salt or right[:24], context, content)


@damaged
def insider_object() -> Vector:
    """The file f is encrypted anew, with the same key, ids and salt."""
    made = sealed(TWINS)
    made.files[made.object_path("f")] = forged(made, b"bad")
    return as_is(made, released=["g"])


@damaged
def insider_object_and_list() -> Vector:
    """The file f is encrypted anew, with the same key, ids and salt, and its list."""
    made = sealed(TWINS)
    made.files[made.object_path("f")] = data = forged(made, b"bad")
    lists = made.files[made.path_of("blocks")]
    made.files[made.path_of("blocks")] = block_list(data) + lists[32:]
    return as_is(made, released=["g"])


@damaged
def insider_object_and_salt() -> Vector:
    """The file f is encrypted anew with another salt, content and key the same."""
    made = sealed(TWINS)
    salt = b"another salt of 24 bytes"
    made.files[made.object_path("f")] = forged(made, b"one", salt)
    return as_is(made, released=["g"])


@damaged
def insider_second_block() -> Vector:
    """The second block of the file f is encrypted anew; the first is the same."""
    made = sealed(TWO_BLOCKS)
    content = TWO_BLOCKS.files["f"][:BLOCK] + b"wrong"
    made.files[made.object_path("f")] = forged(made, content)
    return as_is(made, released=["g"], blocks={"f": [0]})


# Padding and sizes


PADDED = Plain(files={"f": b"one", "g": b"two"}, padded={"f": 40})


@success
def padded() -> Vector:
    """The file f has 3 bytes, and 37 zero bytes after them."""
    return as_is(sealed(PADDED))


@success
def padded_from_nothing() -> Vector:
    """The file f is empty, and 7 zero bytes are encrypted."""
    return with_plain(files={"f": b""}, padded={"f": 7})


@success
def padded_beyond_a_chunk() -> Vector:
    """The file f has 3 bytes, and is padded to 16,384: the final chunk is empty."""
    return with_plain(files={"f": b"one"}, padded={"f": CHUNK})


def with_padding(at: int) -> Vector:
    """A model in which one byte of the padding of the file f is not zero."""

    def content(path: str, data: bytes) -> bytes:
        return flipped(at)(data) if path == "f" else data

    made = as_is(sealed(PADDED, Edits(content=content)), released=["f", "g"])
    made.options = {"damaged_when_whole": ["f"]}
    return made


@damaged
def padding_first_byte() -> Vector:
    """The first byte of the padding of the file f is 1: whoever reads the whole
    file finds it."""
    return with_padding(3)


@damaged
def padding_last_byte() -> Vector:
    """The last byte of the padding of the file f is 1: whoever reads the whole
    file finds it."""
    return with_padding(39)


@success
def no_files() -> Vector:
    """The model has no file and no directory; `blocks` is empty."""
    made = sealed(Plain(files={}))
    made.files[made.path_of("objects/README")] = b"git keeps no empty directory\n"
    return as_is(made)


@success
def files_same_content() -> Vector:
    """Two files have the same content, in two objects."""
    return with_plain(files={"a": b"same", "b": b"same"})


@success
def sizes_around_a_chunk() -> Vector:
    """Files have 16,383, 16,384 and 16,385 bytes: the second's final chunk is empty."""
    return with_sizes(CHUNK - 1, CHUNK, CHUNK + 1)


@success
def size_of_a_block_less_1() -> Vector:
    """The file has 65,535 bytes: one block, and its fourth chunk is the final one."""
    return with_sizes(BLOCK - 1)


@success
def size_of_a_block() -> Vector:
    """The file has 65,536 bytes: the second block is an empty final chunk."""
    return with_sizes(BLOCK)


def with_sizes(*sizes: int) -> Vector:
    return with_plain(files={str(size): pattern(size) for size in sizes})
