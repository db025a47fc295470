"""The files that hold keys, IVs and passwords of `openssl enc`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.openssl import read_fixed_key, read_password_key
from tests.support.openssl import secret_file

KEY = bytes(range(200, 216))
IV = bytes(range(100, 116))
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda value: value,
    "hex": lambda value: value.hex().encode(),
    "upper case": lambda value: value.hex().upper().encode(),
    "line": lambda value: value.hex().encode() + b"\n",
    "line of Windows": lambda value: value.hex().encode() + b"\r\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", [KEY, KEY + IV])
def test_forms_of_keys(tmp_path: Path, form: str, key: bytes) -> None:
    found = read_fixed_key(
        secret_file(tmp_path / "key", FORMS[form](key)),
        secret_file(tmp_path / "iv", FORMS[form](IV)),
    )

    with found.derive(b"") as secret:
        assert bytes(secret.view) == key + IV
    found.wipe()
    assert not any(found.derive(b"").view)


NO_KEYS = {
    "empty": b"",
    "short": KEY.hex()[:-2].encode(),
    "an odd digit": KEY.hex()[:-1].encode(),
    "between the sizes": KEY + bytes(8),
    "raw with a line feed": KEY + b"\n",
    "with a prefix": b"0x" + KEY.hex().encode(),
    "with colons": KEY.hex(":").encode(),
    "other letters": b"g" * 31,
    "two lines": KEY.hex().encode() + b"\n" + KEY.hex().encode(),
    "long": bytes(70_000),
}


@pytest.mark.parametrize("case", NO_KEYS)
def test_what_is_no_key(tmp_path: Path, case: str) -> None:
    iv = secret_file(tmp_path / "iv", IV)
    key = secret_file(tmp_path / "key", NO_KEYS[case])
    with pytest.raises(KeyFileError) as caught:
        read_fixed_key(key, iv)

    assert "key'" in caught.value.message
    assert KEY.hex() not in caught.value.message + caught.value.hint
    with pytest.raises(KeyFileError):
        read_fixed_key(iv, key)


def test_iv_has_16_bytes(tmp_path: Path) -> None:
    key = secret_file(tmp_path / "key", KEY)
    with pytest.raises(KeyFileError, match="IV of 16 bytes"):
        read_fixed_key(key, secret_file(tmp_path / "iv", IV + IV))


def test_files_that_others_can_read_or_that_are_missing(tmp_path: Path) -> None:
    good = secret_file(tmp_path / "good", KEY)
    bad = secret_file(tmp_path / "bad", KEY)
    bad.chmod(0o644)

    for path in (bad, tmp_path / "missing", tmp_path):
        for pair in ((good, path), (path, good)):
            with pytest.raises(KeyFileError):
                read_fixed_key(*pair)
        with pytest.raises(KeyFileError):
            read_password_key(path, cipher="aes-256-cbc", digest="sha256", iterations=1)


@pytest.mark.parametrize("content", ["", "\n", "\nsecond"])
def test_empty_password(tmp_path: Path, content: str) -> None:
    path = secret_file(tmp_path / "password", content)
    with pytest.raises(KeyFileError, match="is empty"):
        read_password_key(path, cipher="aes-256-cbc", digest="sha256", iterations=1)
