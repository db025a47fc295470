"""Every rule about the manifest, each broken alone in a sealing that is else whole."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import DamagedError, NewerFormatError
from ovfuse.sealed import layout
from ovfuse.sealed.manifest import Manifest, Terms, parse_clear_facts, parse_manifest
from ovfuse.sealed.wrapping import Identity
from tests.sealed.test_paths import BAD_PATHS, GOOD_PATHS
from tests.support.encryptor import Edits, Json, Plain, SealedFiles, canonical, encrypt
from tests.support.sealed import make_identity, opened, write_sealed

PLAIN = Plain(
    name="org/small",
    files={"a": b"a", "d/b": b"bb", "d/c": b""},
    directories=["e"],
    padded={"a": 10},
)
HEX = "0123456789abcdef"
DIGEST, OTHER_DIGEST = HEX * 4, HEX[::-1] * 4


@pytest.fixture(scope="module")
def identity() -> Identity:
    return make_identity()


def seal_edited(edit: Callable[[Json], object]) -> SealedFiles:
    return encrypt(copy.deepcopy(PLAIN), "manifest", Edits(manifest=edit))


def parse_edited(edit: Callable[[Json], object]) -> Manifest:
    """Return what a reader makes of an edited manifest, without going to the disk."""
    made = seal_edited(edit)
    facts = parse_clear_facts(made.clear_facts, made.seal_id)
    return parse_manifest(canonical(made.manifest), facts)


def replace(**members: object) -> Callable[[Json], None]:
    return lambda manifest: manifest.update(members)


def remove(
    name: str, of: Callable[[Json], Json] = lambda m: m
) -> Callable[[Json], None]:
    def edit(manifest: Json) -> None:
        del of(manifest)[name]

    return edit


def in_file(number: int, **members: object) -> Callable[[Json], None]:
    return lambda manifest: manifest["files"][number].update(members)


def in_terms(**members: object) -> Callable[[Json], None]:
    return lambda manifest: manifest["terms"].update(members)


def in_facts(**members: object) -> Callable[[Json], None]:
    return lambda manifest: manifest["facts"].update(members)


def test_whole_manifest_is_parsed(tmp_path: Path, identity: Identity) -> None:
    directory = write_sealed(seal_edited(lambda _: None), tmp_path, identity)

    with opened(directory, identity) as sealing:
        manifest = sealing.manifest
    assert manifest.name == "org/small"
    assert manifest.directories == ("d", "e")
    assert [(e.path, e.size, e.padded_size) for e in manifest.files] == [
        ("a", 1, 10),
        ("d/b", 2, 2),
        ("d/c", 0, 0),
    ]
    assert manifest.previous is None
    assert manifest.terms == Terms()
    assert manifest.blocks_size == 3 * 32


MEMBERS = (
    "critical",
    "directories",
    "extensions",
    "facts",
    "files",
    "name",
    "previous",
    "terms",
)
FILE_MEMBERS = (
    "block_list_hash",
    "object_id",
    "padded_size",
    "path",
    "plaintext_sha256",
    "size",
)
TERMS_MEMBERS = ("machines", "not_after", "not_before", "text")

BROKEN: dict[str, Callable[[Json], object]] = {
    **{f"without {name}": remove(name) for name in MEMBERS},
    **{
        f"file without {name}": remove(name, lambda m: m["files"][0])
        for name in FILE_MEMBERS
    },
    **{
        f"terms without {name}": remove(name, lambda m: m["terms"])
        for name in TERMS_MEMBERS
    },
    "unknown member": replace(zeal=1),
    "unknown member of a file": in_file(0, zeal=1),
    "unknown member of the terms": in_terms(zeal=1),
    "unknown member of the facts": in_facts(zeal=1),
    # facts
    "other seal id in the facts": in_facts(seal_id="00" * 16),
    "other model id in the facts": in_facts(model_id="00" * 16),
    "other version in the facts": in_facts(version=2),
    "other time in the facts": in_facts(sealed_at=1),
    "other format in the facts": in_facts(format=2),
    "facts null": replace(facts=None),
    # the name
    "name empty": replace(name=""),
    "name with a version": replace(name="small@1"),
    "name with ..": replace(name="../small"),
    "name with / at the end": replace(name="small/"),
    "name of 1,025 bytes": replace(name="/".join([*["n" * 255] * 4, "n"])),
    "name null": replace(name=None),
    # files
    "padded size smaller": in_file(1, padded_size=1),
    "padded size above the cap": in_file(1, padded_size=2**40 + 1),
    "size above the cap": in_file(1, padded_size=2**53 - 1, size=2**53 - 1),
    "size negative": in_file(1, size=-1),
    "size a float": in_file(1, size=2.0),
    "size a string": in_file(1, size="2"),
    "size null": in_file(1, size=None),
    "object id used twice": lambda m: m["files"][0].update(
        object_id=m["files"][1]["object_id"]
    ),
    "object id in capitals": in_file(0, object_id="AB" * 16),
    "object id a path": in_file(0, object_id="../../../../../etc/passwd"),
    "object id short": in_file(0, object_id="ab"),
    "object id with a line feed": in_file(0, object_id="ab" * 16 + "\n"),
    "hash in capitals": in_file(0, plaintext_sha256=DIGEST.upper()),
    "hash short": in_file(0, plaintext_sha256=DIGEST[:-1]),
    "hash with a line feed": in_file(0, block_list_hash=DIGEST + "\n"),
    "block-list hash empty": in_file(0, block_list_hash=""),
    "files an object": replace(files={}),
    "file a string": replace(files=["a"]),
    # the tree
    "file in a directory that is missing": in_file(2, path="x/c"),
    "files unsorted": lambda m: m["files"].reverse(),
    "path twice": in_file(1, path="a"),
    "file as a directory": in_file(2, path="a/c"),
    "file and directory": lambda m: m["directories"].insert(0, "a"),
    "directories unsorted": lambda m: m["directories"].reverse(),
    "directory twice": lambda m: m["directories"].insert(0, "d"),
    "directory without its own": replace(directories=["d", "e", "f/g"]),
    "the root as a directory": lambda m: m["directories"].insert(0, ""),
    # terms
    "machines unsorted": in_terms(machines=[OTHER_DIGEST, DIGEST]),
    "machine twice": in_terms(machines=[DIGEST, DIGEST]),
    "machine in capitals": in_terms(machines=[DIGEST.upper()]),
    "machine short": in_terms(machines=[DIGEST[1:]]),
    "machines null": in_terms(machines=None),
    "not_before later": in_terms(not_before=2, not_after=1),
    "not_before equal": in_terms(not_before=1, not_after=1),
    "not_before negative": in_terms(not_before=-1),
    "not_before too large": in_terms(not_before=2**53),
    "not_after a float": in_terms(not_after=1.0),
    "not_after a string": in_terms(not_after="1"),
    "text of 65,537 bytes": in_terms(text="x" * 65537),
    "text of 65,538 bytes in fewer characters": in_terms(text="é" * 32769),
    "text null": in_terms(text=None),
    # previous
    "previous an id": replace(previous="00" * 16),
    "previous without an id": replace(previous={"payload_sha256": DIGEST}),
    "previous without a hash": replace(previous={"seal_id": "00" * 16}),
    "previous with a short id": replace(
        previous={"payload_sha256": DIGEST, "seal_id": "00"}
    ),
    "previous with a short hash": replace(
        previous={"payload_sha256": "00", "seal_id": "00" * 16}
    ),
    # extensions
    "extension without a name": replace(extensions={"": ""}),
    "extension in capitals": replace(extensions={"A": ""}),
    "extension that begins with a dot": replace(extensions={".a": ""}),
    "extension with a space": replace(extensions={"a b": ""}),
    "extension of 65 characters": replace(extensions={"a" * 65: ""}),
    "extension with a line feed": replace(extensions={"a\n": ""}),
    "extension with a number": replace(extensions={"a": 1}),
    "extension with an object": replace(extensions={"a": {}}),
    "extension with 65,537 bytes": replace(extensions={"a": "x" * 65537}),
    "65 extensions": replace(extensions={f"e{n:02}": "" for n in range(65)}),
    "extensions an array": replace(extensions=[]),
    "critical extension that is missing": replace(critical=["a"]),
    "critical extensions unsorted": replace(
        critical=["b", "a"], extensions={"a": "", "b": ""}
    ),
    "critical extension twice": replace(critical=["a", "a"], extensions={"a": ""}),
    "critical null": replace(critical=None),
}


@pytest.mark.parametrize("edit", BROKEN.values(), ids=BROKEN)
def test_broken_rule(
    edit: Callable[[Json], object], tmp_path: Path, identity: Identity
) -> None:
    directory = write_sealed(seal_edited(edit), tmp_path, identity)

    with pytest.raises(DamagedError), opened(directory, identity):
        pytest.fail("it was opened")


@pytest.mark.parametrize("path", [p for p in BAD_PATHS if p.isascii() or "\0" in p])
def test_bad_path(path: str) -> None:
    with pytest.raises(DamagedError):
        parse_edited(lambda m: m.update(files=[{**m["files"][0], "path": path}]))


@pytest.mark.parametrize("path", [p for p in GOOD_PATHS if "/" not in p])
def test_good_path(path: str) -> None:
    manifest = parse_edited(
        lambda m: m.update(files=[{**m["files"][0], "path": path}], directories=[])
    )

    assert manifest.files[0].path == path


AT_THE_LIMIT: dict[str, Callable[[Json], object]] = {
    "padded size": in_file(1, padded_size=2**40, size=2**40),
    "sum of sizes": lambda m: m.update(files=many_files(m, 16, 2**40)),
    "text": in_terms(text="é" * 32768),
    "extensions": replace(extensions={f"{n:02}" + "e" * 62: "" for n in range(64)}),
    "extension": replace(extensions={"a._-": "x" * 65536}),
    "machines": in_terms(machines=[f"{n:064x}" for n in range(10_000)]),
    "times": in_terms(not_before=2**53 - 2, not_after=2**53 - 1),
    "directories": lambda m: m.update(files=[], directories=many_directories(100_000)),
}
ABOVE_THE_LIMIT: dict[str, Callable[[Json], object]] = {
    "padded size": in_file(1, padded_size=2**40 + 1),
    "sum of sizes": lambda m: m.update(files=many_files(m, 17, 2**40)),
    "machines": in_terms(machines=[f"{n:064x}" for n in range(10_001)]),
    "directories": lambda m: m.update(files=[], directories=many_directories(100_001)),
}


def many_files(manifest: Json, count: int, size: int) -> list[Json]:
    return [
        {
            **manifest["files"][0],
            "object_id": f"{number:032x}",
            "padded_size": size,
            "path": f"{number:06}",
            "size": size,
        }
        for number in range(count)
    ]


def many_directories(count: int) -> list[str]:
    return [f"{number:06}" for number in range(count)]


@pytest.mark.parametrize("edit", AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
def test_at_a_cap(edit: Callable[[Json], object]) -> None:
    assert parse_edited(edit).name == "org/small"


@pytest.mark.parametrize("edit", ABOVE_THE_LIMIT.values(), ids=ABOVE_THE_LIMIT)
def test_above_a_cap(edit: Callable[[Json], object]) -> None:
    with pytest.raises(DamagedError):
        parse_edited(edit)


def with_files(count: int) -> tuple[bytes, SealedFiles]:
    """Return the JSON of a manifest with many files, without dictionaries of it."""
    made = seal_edited(lambda m: m.update(files=many_files(m, 1, 0)))
    data = canonical(made.manifest)
    file = canonical(made.manifest["files"][0])
    number = b"%06d"
    template = file.replace(b"0" * 32, b"0" * 26 + number).replace(
        b'"000000"', b'"' + number + b'"'
    )
    return data.replace(file, b",".join(template % (n, n) for n in range(count))), made


def test_100_000_files() -> None:
    data, made = with_files(100_000)
    facts = parse_clear_facts(made.clear_facts, made.seal_id)

    assert len(parse_manifest(data, facts).files) == 100_000


def test_100_001_files_are_too_many() -> None:
    data, made = with_files(100_001)
    facts = parse_clear_facts(made.clear_facts, made.seal_id)

    with pytest.raises(DamagedError):
        parse_manifest(data, facts)


def test_unknown_extension_is_ignored() -> None:
    manifest = parse_edited(replace(extensions={"future": "\0value"}))

    assert manifest.extensions == {"future": "\0value"}


def test_unknown_critical_extension_is_of_a_newer_version(
    tmp_path: Path, identity: Identity
) -> None:
    edit = replace(critical=["future"], extensions={"future": "", "more": ""})
    directory = write_sealed(seal_edited(edit), tmp_path, identity)

    with (
        pytest.raises(NewerFormatError, match="the extension future"),
        opened(directory, identity),
    ):
        pytest.fail("it was opened")


def test_known_critical_extension_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovfuse.sealed.manifest._KNOWN_EXTENSIONS", {"known"})
    manifest = parse_edited(replace(critical=["known"], extensions={"known": ""}))

    assert manifest.critical == ("known",)


@pytest.mark.parametrize(
    "edit",
    [lambda j: j + b"\n", lambda j: j.replace(b":", b": "), lambda j: j[:-1]],
    ids=["line feed", "spaces", "cut"],
)
def test_manifest_must_be_canonical(
    edit: Callable[[bytes], bytes], tmp_path: Path, identity: Identity
) -> None:
    made = encrypt(PLAIN, "manifest", Edits(manifest_json=edit))
    directory = write_sealed(made, tmp_path, identity)

    with pytest.raises(DamagedError, match="the manifest is"):
        opened(directory, identity).__enter__()


@pytest.mark.parametrize(
    "edit",
    [lambda m: m + bytes(1), lambda m: m[:-1], lambda m: m[:56] + m[56:][::-1]],
    ids=["longer", "shorter", "other"],
)
def test_manifest_message_must_be_whole(
    edit: Callable[[bytes], bytes], tmp_path: Path, identity: Identity
) -> None:
    made = encrypt(PLAIN, "manifest", Edits(manifest_message=edit))
    directory = write_sealed(made, tmp_path, identity)

    with pytest.raises(DamagedError, match="corrupted or tampered with"):
        opened(directory, identity).__enter__()


def test_caps_are_those_of_the_document() -> None:
    assert layout.ENVELOPE_MAX_SIZE == 2**27
    assert layout.PADDED_MAX_SIZE == 2**40
    assert layout.MODEL_MAX_SIZE == 2**44
