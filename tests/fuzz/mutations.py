"""Mutations of inputs: plain ones of bytes, and ones that keep a structure.

Each is a function of a `random.Random`, so that a seed repeats it. Under atheris its
own mutations of bytes take the place of `mutate_bytes`.
"""

import json
import random
from collections.abc import Callable
from typing import Any

from tests.fuzz.age import with_right_mac

BytesMutator = Callable[[bytes, int], bytes]
"""Takes bytes and the largest size that the result may have."""

Mutator = Callable[[bytes, random.Random, int, BytesMutator], bytes]
"""Takes an input, and what mutates the bytes inside of its structure."""

_INTERESTING_BYTES = b"\0\n\r\t \"\\'#-/,:{}[]=\x7f\x80\xc0\xed\xff0919azAZ"
_INTERESTING_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", [], {}, 0, 1, -1, 0.5, 1e300),
    *(2**31, 2**32, 2**33 + 1, 2**40 + 1, 2**44, 2**53 - 1, 2**53, 2**63, 2**64),
    *(10**30, "0" * 32, "f" * 64, "a/b", "..", "a//b", "/", "a\0b", "\xe9", "e\u0301"),
    *(
        "\ud800",
        "\U0001f600",
        "a@1",
        "a@\u0661",
        "x" * 256,
        "a/" * 64 + "a",
        "\x7f\x1f",
    ),
)


def byte_mutator(rng: random.Random) -> BytesMutator:
    """Return a mutator of bytes that repeats itself for a seed."""

    def mutate(data: bytes, max_size: int) -> bytes:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _change_somewhere(changed, rng)
        return bytes(changed[:max_size])

    return mutate


def _change_somewhere(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((0, 1, 1, 2, 4, 16, 64)))
    kind = rng.randrange(6)
    if kind == 0:
        data[start:end] = b""
    elif kind == 1:
        data[start:start] = data[rng.randrange(len(data) + 1) :][: end - start]
    elif kind == 2:
        data[start:end] = rng.randbytes(end - start)
    elif kind == 3:
        data[start:end] = bytes(rng.choices(_INTERESTING_BYTES, k=rng.randrange(1, 4)))
    elif kind == 4 and start < len(data):
        data[start] ^= 1 << rng.randrange(8)
    else:
        del data[start:]


def mutate_json(
    data: bytes, rng: random.Random, max_size: int, mutate: BytesMutator
) -> bytes:
    """Change a JSON text in its structure, and mostly write it canonically."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate(data, max_size)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _changed(value, rng, mutate)
    if rng.random() < 0.5:
        _sort_lists(value)
    compact = rng.random() < 0.95
    text = json.dumps(
        value,
        ensure_ascii=False,
        sort_keys=compact,
        separators=(",", ":") if compact else None,
    )
    return text.encode("utf-8", "surrogatepass")[:max_size]


def _changed(value: Any, rng: random.Random, mutate: BytesMutator) -> Any:
    """Return a value with one place in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.9:
            return {**value, key: _changed(value[key], rng, mutate)}
        rest = {k: v for k, v in value.items() if k != key}
        return rest | ({_text(key, mutate): value[key]} if rng.random() < 0.5 else {})
    if isinstance(value, list) and rng.random() < 0.9:
        return _changed_list(value, rng, mutate)
    if isinstance(value, str) and rng.random() < 0.6:
        return _text(value, mutate)
    if type(value) is int and rng.random() < 0.6:
        return value + rng.choice((-1, 1, 2**8, 2**16, 2**32))
    return rng.choice(_INTERESTING_VALUES)


def _changed_list(values: list[Any], rng: random.Random, mutate: BytesMutator) -> Any:
    values = list(values)
    place = rng.randrange(len(values) + 1)
    kind = rng.randrange(5)
    if kind == 0 or not values:
        values.insert(place, rng.choice((*_INTERESTING_VALUES, *values)))
    elif kind == 1:
        del values[place - 1]
    elif kind == 2:
        rng.shuffle(values)
    else:
        values[place - 1] = _changed(values[place - 1], rng, mutate)
    return values


def _text(text: str, mutate: BytesMutator) -> str:
    changed = mutate(text.encode("utf-8", "surrogatepass"), len(text) + 32)
    return changed.decode("utf-8", "replace")


def _sort_lists(value: Any) -> None:
    """Sort what the manifest wants sorted, at random places as well as in it."""
    if not isinstance(value, dict):
        return
    for key in ("critical", "directories", "files"):
        if isinstance(value.get(key), list):
            value[key].sort(key=_sorting_key)
    terms = value.get("terms")
    if isinstance(terms, dict) and isinstance(terms.get("machines"), list):
        terms["machines"].sort(key=_sorting_key)


def _sorting_key(value: Any) -> bytes:
    path = value.get("path") if isinstance(value, dict) else value
    return str(path).encode("utf-8", "surrogatepass")


def mutate_age_file(
    data: bytes, rng: random.Random, max_size: int, mutate: BytesMutator
) -> bytes:
    """Change an age file; mostly the header's MAC fits again."""
    changed = mutate(data, max_size)
    return changed if rng.random() < 0.1 else with_right_mac(changed)
