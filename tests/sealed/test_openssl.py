"""What the real `openssl enc` wrote, decrypted: sizes, places, ciphers, wrong keys."""

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from ovfuse.errors import NoUsableKeyError, OvfuseError, SourceError, UsageError
from ovfuse.sealed.imported import default_name, list_encrypted
from ovfuse.sealed.openssl import (
    DIGESTS,
    CbcReader,
    EncryptedFile,
    FixedKey,
    OpensslKey,
    PasswordKey,
)
from ovfuse.sealed.source import SourceTree, scan
from tests.support.openssl import (
    PUBLISHED_KEY,
    PUBLISHED_NAMES,
    encrypt,
    encrypt_with_password,
    secret_file,
)

pytestmark = pytest.mark.tools

RAW_KEY = bytes.fromhex(PUBLISHED_KEY)
SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 1000, (1 << 20) - 16, (1 << 20) + 1)
XML = b"""<?xml version="1.0"?><net><layers><layer type="Const">
<data offset="16" size="40"/></layer></layers></net>"""


@pytest.fixture
def key() -> Iterator[FixedKey]:
    key = FixedKey(RAW_KEY, RAW_KEY)
    yield key
    key.wipe()


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    """A directory with the files of the published example."""
    directory, plain = tmp_path / "ir", tmp_path / "plain"
    directory.mkdir()
    for name, data in (("openvino_model.xml", XML), ("openvino_model.bin", bytes(60))):
        plain.write_bytes(data)
        encrypt(plain, directory / PUBLISHED_NAMES[name])
    return directory


def decrypted(path: Path, key: OpensslKey, step: int = 4096) -> bytes:
    buffer = memoryview(bytearray(step))
    found = bytearray()
    with path.open("rb") as file, CbcReader(file.fileno(), path.name, key) as reader:
        while count := reader.read_into(buffer):
            found += buffer[:count]
        assert reader.size == len(found)
    return bytes(found)


def contents(tree: SourceTree) -> dict[str, bytes]:
    found = {}
    for file in tree.files:
        buffer = memoryview(bytearray(100))
        data = bytearray()
        with file.open() as read_into:
            while count := read_into(buffer):
                data += buffer[:count]
        found[file.path] = bytes(data)
        assert file.size == len(data)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_every_size_comes_back(tmp_path: Path, key: FixedKey, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "plain").write_bytes(data)
    encrypt(tmp_path / "plain", tmp_path / "encrypted")

    for step in (32, 33, 47, 100, 1 << 20):
        if size / step < 5000:
            assert decrypted(tmp_path / "encrypted", key, step) == data


def test_any_place_can_be_read(tmp_path: Path, key: FixedKey) -> None:
    data = random.Random(2).randbytes(70)
    (tmp_path / "plain").write_bytes(data)
    encrypt(tmp_path / "plain", tmp_path / "encrypted")
    with (tmp_path / "encrypted").open("rb") as file:
        reader = CbcReader(file.fileno(), "name", key)

        for offset, size in product(range(80), range(80)):
            assert reader.read_at(offset, size) == data[offset : offset + size]


def test_longer_key(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(XML)
    iv = "00112233445566778899aabbccddeeff"
    long_key = PUBLISHED_KEY + iv
    encrypt(
        *(tmp_path / "plain", tmp_path / "encrypted"),
        key=long_key,
        iv=iv,
        cipher="aes-256-cbc",
    )
    key = FixedKey(bytes.fromhex(long_key), bytes.fromhex(iv))

    assert decrypted(tmp_path / "encrypted", key) == XML


@pytest.mark.parametrize("cipher", ["aes-128-cbc", "aes-256-cbc"])
@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("iterations", [1, 10_000])
def test_password(tmp_path: Path, cipher: str, digest: str, iterations: int) -> None:
    (tmp_path / "plain").write_bytes(XML)
    file = secret_file(tmp_path / "password", "p\u00e4ss word\nsecond line\n")
    options = (f"-{cipher}", "-md", digest, "-iter", str(iterations))
    encrypt_with_password(tmp_path / "plain", tmp_path / "encrypted", file, *options)
    key = PasswordKey(
        "p\u00e4ss word".encode(),
        key_size=int(cipher[4:7]) // 8,
        digest=digest,
        iterations=iterations,
    )

    assert decrypted(tmp_path / "encrypted", key) == XML


def test_published_example_is_listed(ir: Path, key: FixedKey) -> None:
    tree = list_encrypted(ir, key=key, names={})

    assert contents(tree) == {
        "openvino_model.bin": bytes(60),
        "openvino_model.xml": XML,
    }


def test_two_thousand_wrong_keys_are_refused(ir: Path) -> None:
    numbers = random.Random(3)
    for _ in range(2000):
        wrong = FixedKey(numbers.randbytes(16), RAW_KEY)
        with pytest.raises(NoUsableKeyError):
            list_encrypted(ir, key=wrong, names={})


def test_wrong_keys_that_fit_the_padding_are_refused(ir: Path) -> None:
    """Of the .xml: it alone is what shows the key."""
    (ir / PUBLISHED_NAMES["openvino_model.bin"]).unlink()
    (xml,) = scan(ir).files
    numbers = random.Random(4)
    passed = 0
    for _ in range(2000):
        wrong = FixedKey(numbers.randbytes(16), RAW_KEY)
        file = EncryptedFile(
            path="m.xml",
            location=xml.location,
            size=0,
            signature=xml.signature,
            encrypted_path="m",
            key=wrong,
        )
        try:
            with file.plaintext():
                passed += 1
        except NoUsableKeyError:
            continue
        with pytest.raises(NoUsableKeyError, match="not XML"):
            list_encrypted(ir, key=wrong, names={})

    assert passed > 0  # or nothing was shown


def test_wrong_iv_is_noticed_in_an_ir(ir: Path) -> None:
    for bit in range(128):
        wrong = (int.from_bytes(RAW_KEY, "big") ^ 1 << bit).to_bytes(16, "big")
        with pytest.raises(NoUsableKeyError):
            list_encrypted(ir, key=FixedKey(RAW_KEY, wrong), names={})


@pytest.mark.parametrize("size", [0, 1, 15, 17, 100])
def test_what_is_no_ciphertext(ir: Path, key: FixedKey, size: int) -> None:
    (ir / "more_enc.txt").write_bytes(bytes(size))

    with pytest.raises(SourceError, match="no whole blocks of 16"):
        list_encrypted(ir, key=key, names={})


@pytest.mark.parametrize("name", PUBLISHED_NAMES.values())
@pytest.mark.parametrize("damage", ["cut", "garbage", "longer"])
def test_damage_is_noticed(ir: Path, key: FixedKey, name: str, damage: str) -> None:
    path = ir / name
    data = path.read_bytes()
    noise = random.Random(5).randbytes(len(data))
    changed = {"cut": data[:-16], "garbage": noise, "longer": data + noise[:16]}
    path.write_bytes(changed[damage])

    with pytest.raises(NoUsableKeyError):
        list_encrypted(ir, key=key, names={})


def test_weights_must_be_long_enough(ir: Path, key: FixedKey, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(bytes(55))
    encrypt(tmp_path / "plain", ir / PUBLISHED_NAMES["openvino_model.bin"])

    with pytest.raises(SourceError, match="needs 56"):
        list_encrypted(ir, key=key, names={})


def test_file_that_changes_is_noticed(ir: Path, key: FixedKey) -> None:
    tree = list_encrypted(ir, key=key, names={})
    path = ir / PUBLISHED_NAMES["openvino_model.bin"]
    path.write_bytes(path.read_bytes())

    with pytest.raises(SourceError, match="changed"):
        contents(tree)


def test_file_that_ends_while_it_is_read(ir: Path, key: FixedKey) -> None:
    path = ir / PUBLISHED_NAMES["openvino_model.bin"]
    with path.open("r+b") as file:
        reader = CbcReader(file.fileno(), "model.bin", key)
        file.truncate(16)
        with pytest.raises(SourceError, match="ends too early"):
            reader.read_at(32, 1)


def test_file_that_cannot_be_read(ir: Path, key: FixedKey) -> None:
    path = ir / PUBLISHED_NAMES["openvino_model.bin"]
    with path.open("rb") as file:
        reader = CbcReader(file.fileno(), "model.bin", key)
    with pytest.raises(SourceError, match="Bad file descriptor"):
        reader.read_at(0, 1)


def test_key_and_password_are_told_apart(tmp_path: Path, key: FixedKey) -> None:
    (tmp_path / "plain").write_bytes(XML)
    file = secret_file(tmp_path / "password", "x")
    encrypt_with_password(tmp_path / "plain", tmp_path / "salted", file, "-aes256")
    encrypt(tmp_path / "plain", tmp_path / "keyed")
    password = PasswordKey(b"x", key_size=32, digest="sha256", iterations=10_000)

    assert decrypted(tmp_path / "salted", password) == XML
    with pytest.raises(SourceError, match="with a password"):
        decrypted(tmp_path / "salted", key)
    with pytest.raises(SourceError, match="not encrypted with a password"):
        decrypted(tmp_path / "keyed", password)
    (tmp_path / "short").write_bytes(b"Salted__1234567")
    with pytest.raises(SourceError):
        decrypted(tmp_path / "short", password)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/model_enc.xml", "a/model.xml"),
        ("model.xml.enc", "model.xml"),
        ("model_enc.xml.enc", "model_enc.xml"),
        ("model.xml", "model.xml"),
        ("model_enc", "model"),
        ("model_encoder.xml", "model_encoder.xml"),
        ("a/.enc", "a/.enc"),
        ("_enc", "_enc"),
        ("_enc.xml", "_enc.xml"),
        ("..enc", "..enc"),
    ],
)
def test_default_names(path: str, expected: str) -> None:
    assert default_name(path) == expected


def test_names_can_be_given(ir: Path, key: FixedKey) -> None:
    (ir / "sub").mkdir()
    (ir / "sub" / "labels.txt").write_text("cat")
    names = {
        "openvino_model_enc.xml": "sub/a.xml",
        "openvino_model_enc.bin": "sub/a.bin",
    }
    tree = list_encrypted(ir, key=key, names=names, plain=["*.txt"])

    assert contents(tree) == {
        "sub/a.bin": bytes(60),
        "sub/a.xml": XML,
        "sub/labels.txt": b"cat",
    }
    assert tree.directories == ("sub",)


WRONG_NAMES: dict[str, dict[str, str]] = {
    "of no file": {"model.xml": "a.xml"},
    "of a plain file": {"labels.txt": "a.txt"},
    "no path": {"openvino_model_enc.xml": "../a.xml"},
    "in no directory": {"openvino_model_enc.xml": "a/b.xml"},
    "of another one": {"openvino_model_enc.xml": "openvino_model.bin"},
    "of a plain one": {"openvino_model_enc.xml": "labels.txt"},
    "of a directory": {"openvino_model_enc.xml": "sub"},
}


@pytest.mark.parametrize("case", WRONG_NAMES)
def test_names_that_do_not_fit(ir: Path, key: FixedKey, case: str) -> None:
    (ir / "sub").mkdir()
    (ir / "labels.txt").write_text("cat")

    with pytest.raises(UsageError):
        list_encrypted(ir, key=key, names=WRONG_NAMES[case], plain=["*.txt"])


def test_names_that_no_longer_pair(ir: Path, key: FixedKey) -> None:
    with pytest.raises(SourceError, match="there is no"):
        list_encrypted(ir, key=key, names={"openvino_model_enc.xml": "a.xml"})


def test_errors_hold_no_key(ir: Path) -> None:
    wrong = FixedKey(RAW_KEY[::-1], RAW_KEY)
    with pytest.raises(OvfuseError) as caught:
        list_encrypted(ir, key=wrong, names={})

    said = f"{caught.value.message}{caught.value.hint}{wrong!r}"
    assert PUBLISHED_KEY not in said
    assert RAW_KEY[::-1].hex() not in said
