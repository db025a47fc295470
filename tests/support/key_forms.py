"""Every form in which a key could be found where it must not be."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.apps.insider import model_key_of
from tests.support.mounting import Home
from tests.vectors.age import bech32_data

__all__ = ["Forms", "forms_found", "forms_of_key", "forms_of_mount"]

Forms = Mapping[str, bytes]
"""What each is, without the key itself, and its bytes."""


def forms_of_mount(home: Home, sealed: Path) -> dict[str, bytes]:
    """Return the model key and the identity of who mounts, in every form.

    Whoever calls it has both in its own memory from then on.
    """
    (line,) = (
        line
        for line in home.identity.read_text("ascii").splitlines()
        if line.startswith("AGE-SECRET-KEY-1")
    )
    return {
        **forms_of_key("model key", model_key_of(home, sealed)),
        **forms_of_key("identity", bech32_data(line.lower())),
        # The checksum aside, in case that it is cut.
        "identity, bech32": line[:-6].encode(),
        "identity, bech32 in lower case": line[:-6].lower().encode(),
    }


def forms_of_key(name: str, key: bytes) -> dict[str, bytes]:
    """Return the bytes of a key, and the texts that it could be written as."""
    return {
        name: key,
        f"{name}, hex": key.hex().encode(),
        f"{name}, HEX": key.hex().upper().encode(),
        f"{name}, base64": base64.b64encode(key).rstrip(b"="),
        f"{name}, base64 for URLs": base64.urlsafe_b64encode(key).rstrip(b"="),
    }


def forms_found(forms: Forms, data: bytes) -> Iterator[str]:
    """Yield what is in the data."""
    return (name for name, form in forms.items() if form in data)
