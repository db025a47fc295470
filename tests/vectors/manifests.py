"""The manifest: tree, sizes, name, extensions, terms; and no going back."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.support.encryptor import Edits, Json, Plain, block_list, canonical
from tests.vectors.build import (
    BASE,
    Vector,
    as_is,
    damaged,
    newer,
    rollback,
    sealed,
    success,
    terms,
    untrusted,
    with_manifest,
    with_options,
    with_plain,
)

NFC, NFD = "\u00e9", "e\u0301"
MACHINE_ID = "0123456789abcdef0123456789abcdef"
MACHINE = "025338a97c301d1b7ab80e0bfc6c327cea7797d9fadf04bbe23c8aa0d951b44f"
OTHER_MACHINE = "f" * 64


def with_files(*paths: str, directories: tuple[str, ...] = ()) -> Vector:
    """A model with files of these paths, and only the directories that are named."""
    plain = Plain(files={path: path.encode() for path in paths})
    return with_manifest(lambda m: m.update(directories=list(directories)), plain)


def with_directories(*directories: str) -> Vector:
    plain = Plain(files={"a": b"abc"})
    return with_manifest(lambda m: m.update(directories=list(directories)), plain)


# Paths


@damaged
def path_empty() -> Vector:
    """A file has an empty path."""
    return with_files("")


@damaged
def path_dot() -> Vector:
    """A file has the path `.`."""
    return with_files(".")


@damaged
def path_dot_dot() -> Vector:
    """A file has the path `..`."""
    return with_files("..")


@damaged
def path_dot_dot_in_a_directory() -> Vector:
    """A file of a directory has the name `..`."""
    return with_files("d/..", directories=("d",))


@damaged
def path_absolute() -> Vector:
    """A path begins with `/`."""
    return with_files("/a")


@damaged
def path_slash_at_the_end() -> Vector:
    """The path of a file ends with `/`."""
    return with_files("d/", directories=("d",))


@damaged
def path_zero_byte() -> Vector:
    """A path has U+0000 in it."""
    return with_files("a\0b")


@damaged
def path_component_too_long() -> Vector:
    """A component has 256 bytes, in 128 characters."""
    return with_files("é" * 128)


@success
def path_component_longest() -> Vector:
    """A component has 255 bytes."""
    return with_files("é" * 127 + "a")


def deep(count: int) -> Vector:
    """A path of `count` components."""
    return with_plain(files={"/".join("d" * (count - 1) + "f"): b"x"})


@damaged
def path_too_deep() -> Vector:
    """A path has 65 components."""
    return deep(65)


@success
def path_deepest() -> Vector:
    """A path has 64 components."""
    return deep(64)


def long(size: int) -> Vector:
    """A path of `size` bytes, in 17 components."""
    parents = ["x" * 240] * 16
    rest = size - 16 * 241
    return with_plain(files={"/".join([*parents, "y" * rest]): b"x"})


@damaged
def path_too_long() -> Vector:
    """A path has 4,096 bytes."""
    return long(4096)


@success
def path_longest() -> Vector:
    """A path has 4,095 bytes."""
    return long(4095)


@success
def paths_that_are_odd() -> Vector:
    """Paths of other systems' special names, of controls, and of spaces."""
    names = ("...", " ", "\n", "\x01", "\x7f", "\\", "C:\\x", "CON", "-rf", "~", "a\tb")
    return with_plain(files={name: name.encode() for name in names})


@success
def paths_not_normalised() -> Vector:
    """Paths differ in case or in Unicode's normal form only."""
    names = ("MODEL", "Model", "model", NFC, NFD, f"{NFC}.d/{NFD}")
    return with_plain(files={name: name.encode() for name in names})


SORTED_PATHS = ("\uff5e", "\U0001f600")
"""By UTF-8. By UTF-16, as some languages compare strings, it is the other way round."""


@success
def paths_sorted_by_utf_8() -> Vector:
    """Paths are sorted by UTF-8, which by UTF-16 would be otherwise."""
    return with_files(*SORTED_PATHS)


@damaged
def paths_sorted_by_utf_16() -> Vector:
    """Paths are sorted by UTF-16."""
    return with_lists_in_order(lambda m: m["files"].reverse(), SORTED_PATHS)


@success
def paths_sorted_as_a_whole() -> Vector:
    """`d-x` comes before `d/x`, though `d` comes before `d-x`."""
    return with_files("d-x", "d/x", directories=("d",))


@damaged
def paths_sorted_by_component() -> Vector:
    """`d/x` comes before `d-x`: sorted by components, not by bytes."""
    plain = ("d-x", "d/x")
    return with_lists_in_order(lambda m: m["files"].reverse(), plain)


def with_lists_in_order(edit: Any, paths: tuple[str, ...]) -> Vector:
    """A model with the files in another order, in which the lists are, too."""
    made = with_manifest(edit, Plain(files=dict.fromkeys(paths, b"abc")))
    (path,) = (p for p in made.files if p.endswith("/blocks"))
    data = made.files[path]
    made.files[path] = data[32:] + data[:32]
    return made


@damaged
def files_not_sorted() -> Vector:
    """Two files are in the wrong order, and so are their lists."""
    return with_lists_in_order(lambda m: m["files"].reverse(), ("a", "b"))


@damaged
def files_same_path() -> Vector:
    """Two files have the same path."""
    plain = Plain(files={"a": b"abc", "b": b"abc"})
    return with_manifest(lambda m: m["files"][1].update(path="a"), plain)


@damaged
def directories_not_sorted() -> Vector:
    """Two directories are in the wrong order."""
    return with_directories("e", "d")


@damaged
def directories_same_path() -> Vector:
    """Two directories have the same path."""
    return with_directories("d", "d")


@damaged
def directories_root() -> Vector:
    """The root is among the directories."""
    return with_directories("")


@damaged
def directories_dot_dot() -> Vector:
    """A directory has the path `..`."""
    return with_directories("..")


@damaged
def directories_orphan() -> Vector:
    """A directory's parent is not among the directories."""
    return with_directories("d/e")


@damaged
def directories_and_file_of_one_path() -> Vector:
    """A file and a directory have the same path."""
    return with_directories("a")


@damaged
def files_orphan() -> Vector:
    """A file's directory is not among the directories."""
    return with_files("d/a")


@damaged
def files_below_a_file() -> Vector:
    """A file is below another file, which is no directory."""
    return with_files("a", "a/b")


@success
def directories_empty() -> Vector:
    """Two directories, one in the other, hold no file."""
    return with_directories("d", "d/e")


# Files


@damaged
def object_id_twice() -> Vector:
    """Two files, the same in every way, have one object."""

    def edit(manifest: Json) -> None:
        first = manifest["files"][0]
        manifest["files"][1] = first | {"path": "b"}

    made = sealed(Plain(files={"a": b"abc", "b": b"abc"}), Edits(manifest=edit))
    object_id = made.manifest["files"][0]["object_id"]
    entries = block_list(made.files[made.path_of(f"objects/{object_id}")])
    made.files[made.path_of("blocks")] = entries * 2
    return as_is(made)


def with_first_file(**members: object) -> Vector:
    return with_manifest(lambda m: m["files"][0].update(members))


@damaged
def object_id_upper_case() -> Vector:
    """An object id is in upper case."""
    return with_first_file(object_id="A" * 32)


@damaged
def object_id_leads_elsewhere() -> Vector:
    """An object id is a path of 32 characters."""
    return with_first_file(object_id="../objects/".rjust(32, "."))


@damaged
def block_list_hash_short() -> Vector:
    """A block-list hash has 62 characters."""
    return with_manifest(
        lambda m: m["files"][0].update(
            block_list_hash=m["files"][0]["block_list_hash"][:-2]
        )
    )


@damaged
def plaintext_hash_upper_case() -> Vector:
    """The hash of a file is in upper case."""
    return with_manifest(
        lambda m: m["files"][0].update(
            plaintext_sha256=m["files"][0]["plaintext_sha256"].upper()
        )
    )


@damaged
def size_above_padded_size() -> Vector:
    """A size is larger than the padded size."""
    return with_first_file(size=4)


@damaged
def padded_size_above_the_cap() -> Vector:
    """A padded size is 2^40+1; the object is not that large."""
    return with_first_file(padded_size=2**40 + 1)


@damaged
def padded_sizes_above_the_cap() -> Vector:
    """The padded sizes of 17 files are 2^40 each; the objects are not that large."""

    def edit(manifest: Json) -> None:
        for entry in manifest["files"]:
            entry["padded_size"] = 2**40

    return with_manifest(edit, Plain(files={f"{n:02}": b"abc" for n in range(17)}))


# Name


@damaged
def name_empty() -> Vector:
    """The name is empty."""
    return with_plain(name="")


@damaged
def name_dot_dot() -> Vector:
    """A component of the name is `..`."""
    return with_plain(name="x/../model")


@damaged
def name_absolute() -> Vector:
    """The name begins with `/`."""
    return with_plain(name="/model")


@damaged
def name_two_slashes() -> Vector:
    """The name has two `/` in a row."""
    return with_plain(name="x//model")


@damaged
def name_zero_byte() -> Vector:
    """The name has U+0000 in it."""
    return with_plain(name="mod\0el")


@damaged
def name_component_too_long() -> Vector:
    """A component of the name has 256 bytes."""
    return with_plain(name="x" * 256)


@damaged
def name_too_deep() -> Vector:
    """The name has 65 components."""
    return with_plain(name="/".join("x" * 65))


@damaged
def name_too_long() -> Vector:
    """The name has 1,025 bytes."""
    return with_plain(name="/".join(["x" * 204] * 5) + "x")


@success
def name_longest() -> Vector:
    """The name has 1,024 bytes."""
    return with_plain(name="/".join(["x" * 204] * 5))


@damaged
def name_with_version() -> Vector:
    """The name ends in @ and a digit."""
    return with_plain(name="model@1")


@damaged
def name_of_a_version_only() -> Vector:
    """The name is @ and two digits."""
    return with_plain(name="@12")


@success
def name_with_at() -> Vector:
    """The name has @ and digits, but a letter after them."""
    return with_plain(name="a@1/model@1b")


@success
def name_with_at_and_nothing() -> Vector:
    """The name ends in @."""
    return with_plain(name="model@")


@success
def name_with_other_digits() -> Vector:
    """The name ends in @ and a digit that is not ASCII."""
    return with_plain(name="model@\u0661")


@success
def name_with_version_and_line_feed() -> Vector:
    """The name ends in @, a digit and a line feed."""
    return with_plain(name="model@1\n")


@success
def name_demanded() -> Vector:
    """The user asks for the name that was signed."""
    return with_options(name="model")


@untrusted
def name_demanded_other() -> Vector:
    """The user asks for another name than was signed."""
    return with_options(name="Model")


@success
def name_in_its_place() -> Vector:
    """In a tree, the model is in a place that ends with its name."""
    return moved("fleet/x/model", "x/model")


@untrusted
def name_in_another_place() -> Vector:
    """In a tree, the model is in a place that does not end with its name."""
    return moved("fleet/y/model", "x/model")


@untrusted
def name_in_a_place_of_the_same_end() -> Vector:
    """In a tree, the place ends with the letters of the name, but not its component."""
    return moved("fleet/submodel", "model")


@untrusted
def name_longer_than_its_place() -> Vector:
    """In a tree, the name has one component more than the place."""
    return moved("model", "x/model")


def moved(place: str, name: str) -> Vector:
    """A tree of one model, which is at `place`."""
    made = with_plain(name=name)
    made.files = {f"{place}/{path}": data for path, data in made.files.items()}
    made.options = {"place": place}
    return made


# Extensions


def with_extensions(*critical: str, **extensions: object) -> Vector:
    return with_manifest(
        lambda m: m.update(critical=list(critical), extensions=extensions)
    )


@success
def extension_unknown() -> Vector:
    """There is an extension that is not known and not critical."""
    return with_extensions(x="anything")


@newer
def extension_unknown_critical() -> Vector:
    """There is an extension that is not known and critical."""
    return with_extensions("x", x="anything")


@damaged
def extension_critical_without_value() -> Vector:
    """A critical extension is not among the extensions."""
    return with_extensions("x")


@damaged
def extensions_critical_not_sorted() -> Vector:
    """The names of the critical extensions are not sorted."""
    return with_extensions("y", "x", x="", y="")


@damaged
def extensions_critical_twice() -> Vector:
    """The name of a critical extension is there twice."""
    return with_extensions("x", "x", x="")


@damaged
def extension_value_of_another_type() -> Vector:
    """The value of an extension is a number."""
    return with_extensions(x=1)


def named_extension(name: str) -> Vector:
    return with_extensions(**{name: ""})


@damaged
def extension_name_empty() -> Vector:
    """The name of an extension is empty."""
    return named_extension("")


@damaged
def extension_name_upper_case() -> Vector:
    """The name of an extension has an upper-case letter."""
    return named_extension("xY")


@damaged
def extension_name_begins_with_dot() -> Vector:
    """The name of an extension begins with a dot."""
    return named_extension(".x")


@damaged
def extension_name_with_line_feed() -> Vector:
    """The name of an extension ends with a line feed."""
    return named_extension("x\n")


@damaged
def extension_name_too_long() -> Vector:
    """The name of an extension has 65 characters."""
    return named_extension("x" * 65)


@success
def extension_name_longest() -> Vector:
    """The name of an extension has 64 characters, of every kind."""
    return named_extension("0az9.-_".ljust(64, "x"))


@success
def extensions_64() -> Vector:
    """There are 64 extensions."""
    return with_extensions(**{f"x{n}": "" for n in range(64)})


@damaged
def extensions_65() -> Vector:
    """There are 65 extensions, one more than is allowed."""
    return with_extensions(**{f"x{n}": "" for n in range(65)})


# The sealing before


def with_previous(**members: object) -> Vector:
    previous: Json = {"payload_sha256": "0" * 64, "seal_id": "0" * 32}
    return with_plain(version=2, previous=previous | members)


@success
def previous_gone() -> Vector:
    """The sealing before is named, and is not there any more."""
    return with_previous()


@damaged
def previous_hash_short() -> Vector:
    """The payload hash of the sealing before has 63 characters."""
    return with_previous(payload_sha256="0" * 63)


@damaged
def previous_seal_id_upper_case() -> Vector:
    """The seal id of the sealing before is in upper case."""
    return with_previous(seal_id="A" * 32)


@damaged
def previous_unknown_member() -> Vector:
    """The sealing before has a member that is not known."""
    return with_previous(version=1)


# Terms


def with_terms(options: Json | None = None, **members: object) -> Vector:
    made = with_manifest(lambda m: m["terms"].update(members))
    made.options = options or {}
    return made


@success
def terms_all() -> Vector:
    """The terms have all that they can have, and allow use."""
    return with_terms(
        {"machine_id": MACHINE_ID, "now": 1500},
        machines=[MACHINE, OTHER_MACHINE],
        not_before=1000,
        not_after=2000,
        text="For tests only.",
    )


@success
def terms_first_second() -> Vector:
    """Now is `not_before`."""
    return with_terms({"now": 1000}, not_before=1000)


@terms
def terms_too_early() -> Vector:
    """Now is one second before `not_before`."""
    return with_terms({"now": 999}, not_before=1000)


@success
def terms_last_second() -> Vector:
    """Now is one second before `not_after`."""
    return with_terms({"now": 1999}, not_after=2000)


@terms
def terms_too_late() -> Vector:
    """Now is `not_after`."""
    return with_terms({"now": 2000}, not_after=2000)


@terms
def terms_year_9999_and_later() -> Vector:
    """`not_before` is beyond the years that most calendars know."""
    return with_terms({"now": 2000}, not_before=2**53 - 1)


@terms
def terms_other_machine() -> Vector:
    """The terms name machines, and this is another one."""
    return with_terms({"machine_id": MACHINE_ID}, machines=[OTHER_MACHINE])


@damaged
def terms_never() -> Vector:
    """`not_before` is `not_after`."""
    return with_terms({"now": 1000}, not_before=1000, not_after=1000)


@damaged
def terms_time_negative() -> Vector:
    """`not_before` is before 1970."""
    return with_terms(not_before=-1)


@damaged
def terms_time_as_text() -> Vector:
    """`not_before` is a date."""
    return with_terms(not_before="2020-01-01")


@damaged
def terms_machines_not_sorted() -> Vector:
    """Two machines are in the wrong order; one is this."""
    machines = [OTHER_MACHINE, MACHINE]
    return with_terms({"machine_id": MACHINE_ID}, machines=machines)


@damaged
def terms_machine_twice() -> Vector:
    """A machine is there twice; it is this one."""
    return with_terms({"machine_id": MACHINE_ID}, machines=[MACHINE, MACHINE])


@damaged
def terms_machine_upper_case() -> Vector:
    """A machine is in upper case."""
    machines = [MACHINE, OTHER_MACHINE.upper()]
    return with_terms({"machine_id": MACHINE_ID}, machines=sorted(machines))


@damaged
def terms_machine_id_itself() -> Vector:
    """A machine is the 32 characters of its machine-id."""
    return with_terms({"machine_id": MACHINE_ID}, machines=[MACHINE_ID])


# A manifest whose final chunk is empty


def with_manifest_of(size: int) -> Json:
    """Return the manifest of a model, filled up to `size` bytes."""
    manifest = sealed().manifest
    text = "x" * (size - len(canonical(manifest)))
    manifest["terms"] = manifest["terms"] | {"text": text}
    assert len(canonical(manifest)) == size
    return manifest


@success
def manifest_final_chunk_empty() -> Vector:
    """The manifest has 16,384 bytes, and so an empty final chunk."""
    whole = with_manifest_of(16384)
    return with_manifest(lambda m: m.update(whole))


@damaged
def manifest_final_chunk_full() -> Vector:
    """The manifest has 16,384 bytes in one chunk, which no empty one follows."""
    whole = with_manifest_of(16384)
    edits = Edits(
        manifest=lambda m: m.update(whole),
        manifest_message=lambda data: data[: 56 + 16400],
    )
    return as_is(sealed(BASE, edits))


# No going back


def after(**seen: object) -> Vector:
    """Version 5 of a model, in a place where something was seen before."""
    made = sealed(Plain(files=BASE.files, version=5))
    default = {
        "model_id": made.model_id,
        "payload_sha256": hashlib.sha256(made.payload).hexdigest(),
        "version": 5,
    }
    return as_is(made, options={"seen": default | seen})


@success
def seen_the_same() -> Vector:
    """What was seen in this place before is this very sealing."""
    return after()


@success
def seen_an_older_one() -> Vector:
    """What was seen in this place before is version 4."""
    return after(version=4, payload_sha256="0" * 64)


@rollback
def seen_a_newer_one() -> Vector:
    """What was seen in this place before is version 6."""
    return after(version=6, payload_sha256="0" * 64)


@rollback
def seen_another_of_the_same_version() -> Vector:
    """What was seen in this place before is version 5, with another payload."""
    return after(payload_sha256="0" * 64)


@rollback
def seen_another_model() -> Vector:
    """What was seen in this place before is version 1 of another model."""
    return after(model_id="0" * 32, version=1, payload_sha256="0" * 64)
