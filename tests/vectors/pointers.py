"""The pointer, and the directories that it leads through."""

from __future__ import annotations

from tests.support.encryptor import Plain
from tests.vectors.build import (
    BASE,
    Vector,
    as_is,
    damaged,
    key_path,
    linked,
    newer,
    replaced,
    sealed,
    success,
    with_pointer,
    without,
)


@damaged
def pointer_empty() -> Vector:
    """The pointer is an empty file."""
    return with_pointer(lambda _: b"")


@damaged
def pointer_without_line_feed() -> Vector:
    """The pointer lacks its line feed."""
    return with_pointer(lambda data: data[:-1])


@damaged
def pointer_two_line_feeds() -> Vector:
    """The pointer ends with two line feeds."""
    return with_pointer(lambda data: data + b"\n")


@damaged
def pointer_crlf() -> Vector:
    """The pointer ends with carriage return and line feed."""
    return with_pointer(lambda data: data[:-1] + b"\r\n")


@damaged
def pointer_trailing_space() -> Vector:
    """The pointer has a space before the line feed."""
    return with_pointer(lambda data: data[:-1] + b" \n")


@damaged
def pointer_two_spaces() -> Vector:
    """The pointer has two spaces before the seal id."""
    return with_pointer(replaced(b" 1 ", b" 1  "))


@damaged
def pointer_other_word() -> Vector:
    """The pointer begins with another word."""
    return with_pointer(replaced(b"ovfuse", b"Ovfuse"))


@damaged
def pointer_byte_order_mark() -> Vector:
    """The pointer begins with a byte order mark."""
    return with_pointer(lambda data: b"\xef\xbb\xbf" + data)


@damaged
def pointer_upper_case_id() -> Vector:
    """The seal id in the pointer is in upper case."""
    return with_pointer(lambda data: data[:9] + data[9:].upper())


@damaged
def pointer_short_id() -> Vector:
    """The seal id in the pointer has 31 characters."""
    return with_pointer(lambda data: data[:-2] + b"\n")


@damaged
def pointer_long_id() -> Vector:
    """The seal id in the pointer has 33 characters."""
    return with_pointer(lambda data: data[:-1] + b"0\n")


@damaged
def pointer_id_leads_elsewhere() -> Vector:
    """What stands for the seal id is a path to the sealing."""
    return with_pointer(lambda data: data[:9] + b"../seals/" + data[9:])


@damaged
def pointer_leading_zero() -> Vector:
    """The format number in the pointer has a leading zero."""
    return with_pointer(replaced(b" 1 ", b" 01 "))


@damaged
def pointer_format_zero() -> Vector:
    """The format number in the pointer is 0, which never was one."""
    return with_pointer(replaced(b" 1 ", b" 0 "))


@damaged
def pointer_negative_format() -> Vector:
    """The format number in the pointer is negative."""
    return with_pointer(replaced(b" 1 ", b" -1 "))


@damaged
def pointer_without_format() -> Vector:
    """The pointer has no format number."""
    return with_pointer(replaced(b" 1 ", b" "))


@damaged
def pointer_long() -> Vector:
    """The pointer is right, but for 100 bytes after it."""
    return with_pointer(lambda data: data + b"#" * 100)


@newer
def pointer_format_2() -> Vector:
    """The format number in the pointer is 2."""
    return with_pointer(replaced(b" 1 ", b" 2 "))


@newer
def pointer_format_10() -> Vector:
    """The format number in the pointer begins with a 1."""
    return with_pointer(replaced(b" 1 ", b" 10 "))


@newer
def pointer_format_large() -> Vector:
    """The format number in the pointer is larger than 64 bits."""
    return with_pointer(replaced(b" 1 ", b" 99999999999999999999 "))


@newer
def pointer_format_2_of_another_form() -> Vector:
    """The pointer of format 2 has another form, and more than 128 bytes."""
    return with_pointer(lambda _: b"ovfuse 2\n" + b"something else\n" * 20)


@damaged
def pointer_missing() -> Vector:
    """There is a directory `seals` and no pointer."""
    made = sealed()
    del made.files["model.ovfuse"]
    return as_is(made)


@damaged
def pointer_to_nothing() -> Vector:
    """The pointer names a sealing that is not there."""
    return with_pointer(lambda data: data[:9] + b"0" * 32 + b"\n")


@damaged
def sealing_under_another_id() -> Vector:
    """Pointer and directory have another seal id than the clear facts."""
    made = sealed()
    files = {
        path.replace(made.seal_id, "0" * 32): data for path, data in made.files.items()
    }
    files["model.ovfuse"] = b"ovfuse 1 " + b"0" * 32 + b"\n"
    return Vector(files=files, plain=made.plain)


@success
def older_sealing_kept() -> Vector:
    """Beside the current sealing there are the one before, and half of another."""
    made = sealed()
    old = sealed(Plain(files={"a": b"old"}), seed="older")
    made.files = old.files | made.files
    made.files[f"seals/{'f' * 32}/blocks"] = b""
    return as_is(made)


@success
def entries_that_mean_nothing() -> Vector:
    """Entries that nothing names are in every directory but the model's own."""
    made = sealed()
    for name in ("objects/README", f"objects/{'0' * 32}", "keys/README", "README"):
        made.files[made.path_of(name)] = b"x"
    made.files["seals/README"] = made.files["README"] = b"x"
    return as_is(made)


@damaged
def missing_envelope() -> Vector:
    """The sealing has no envelope."""
    return without("manifest.dsse.json")


@damaged
def missing_keys() -> Vector:
    """The sealing has no directory `keys`."""
    return without("keys")


@damaged
def missing_blocks() -> Vector:
    """The sealing has no file `blocks`."""
    return without("blocks")


@damaged
def missing_objects() -> Vector:
    """The sealing has no directory `objects`."""
    return without("objects")


@damaged
def missing_object() -> Vector:
    """The object of the file a is missing."""
    made = sealed()
    del made.files[made.object_path("a")]
    return as_is(made, released=["d/e"])


@damaged
def blocks_is_a_directory() -> Vector:
    """There is a directory in the place of the file `blocks`."""
    made = sealed()
    data = made.files.pop(made.path_of("blocks"))
    made.files[made.path_of("blocks/blocks")] = data
    return as_is(made)


@damaged
def object_is_a_directory() -> Vector:
    """There is a directory in the place of the object of the file a."""
    made = sealed()
    path = made.object_path("a")
    made.files[f"{path}/object"] = made.files.pop(path)
    return as_is(made, released=["d/e"])


@damaged
def link_pointer() -> Vector:
    """The pointer is a symbolic link to the right one."""
    return linked("model.ovfuse", sealed())


@damaged
def link_seals() -> Vector:
    """`seals` is a symbolic link to the right directory."""
    return linked("seals", sealed())


@damaged
def link_sealing() -> Vector:
    """The sealing is a symbolic link to the right directory."""
    made = sealed()
    return linked(f"seals/{made.seal_id}", made)


@damaged
def link_envelope() -> Vector:
    """The envelope is a symbolic link to the right one."""
    made = sealed()
    return linked(made.envelope_path, made)


@damaged
def link_keys() -> Vector:
    """`keys` is a symbolic link to the right directory."""
    made = sealed()
    return linked(made.path_of("keys"), made)


@damaged
def link_blocks() -> Vector:
    """`blocks` is a symbolic link to the right file."""
    made = sealed()
    return linked(made.path_of("blocks"), made)


@damaged
def link_objects() -> Vector:
    """`objects` is a symbolic link to the right directory."""
    made = sealed()
    return linked(made.path_of("objects"), made)


@damaged
def link_object() -> Vector:
    """The object of the file a is a symbolic link to the right one."""
    made = sealed()
    return linked(made.object_path("a"), made, released=["d/e"])


@success
def link_key_file_beside_the_right_one() -> Vector:
    """A key file is a symbolic link; the right one is there too."""
    made = sealed()
    name = made.path_of(f"keys/{'0' * 32}.age")
    target = key_path(made).rpartition("/")[2]
    return Vector(files=made.files, plain=BASE, links={name: target})
