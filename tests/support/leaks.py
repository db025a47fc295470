"""Searches files for the plaintext of a directory.

`PlaintextIndex` is for directories of any size, `PlaintextWindows` for small ones: it
finds whatever has 32 bytes in common with them, wherever these begin.

The index: every 32 bytes of plaintext at a multiple of 32 are looked for at every
offset of what is searched, so a leaked run of 63 bytes or more is always found, a
shorter one often. Left out are pieces that begin with 8 equal bytes (runs of zeros):
they identify nothing. Names are looked for in the same pass.

It takes seconds for 256 MiB: the first 8 bytes of each piece set a bit in a bitmap,
all offsets are asked there, and what the bitmap does not rule out is compared in full.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]

PIECE_SIZE = 32
KEY_SIZE = 8
SCAN_SIZE = 1 << 20
BITMAP_BITS = 30
HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd, and its product has well mixed upper bits (Knuth's golden ratio)."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Plaintext that was found: where, and what it is."""

    path: Path
    offset: int
    what: str

    def __str__(self) -> str:
        """Say it on one line."""
        return f"{self.path} holds {self.what} at byte {self.offset}"


class PlaintextIndex:
    """The pieces of all files of a directory, and names, ready to be looked for."""

    def __init__(self, directory: Path, names: Iterable[str] = ()) -> None:
        """Index the files below `directory`, and `names` of at least 8 bytes."""
        self.piece_count = 0
        self._sources: list[tuple[Path, int]] = []
        self._pieces: list[Bytes] = []
        self._names = [name.encode() for name in names]
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.stat().st_size >= PIECE_SIZE:
                self._add(path)
        keys = np.concatenate(
            [_keys(pieces[:, :KEY_SIZE].ravel()) for pieces in self._pieces]
            + [_keys(_as_array(name[:KEY_SIZE])) for name in self._names]
        )
        telling = np.flatnonzero(keys != _rotate(keys))
        order = telling[np.argsort(keys[telling])]
        self._keys, self._needles = keys[order], order
        self._bitmap = np.zeros(1 << (BITMAP_BITS - 3), dtype=np.uint8)
        byte_number, bit = _hash(self._keys)
        np.bitwise_or.at(self._bitmap, byte_number, bit)

    def _add(self, path: Path) -> None:
        data: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
        count = len(data) // PIECE_SIZE
        self._sources.append((path, self.piece_count))
        self._pieces.append(data[: count * PIECE_SIZE].reshape(count, PIECE_SIZE))
        self.piece_count += count

    def search(self, paths: Iterable[Path]) -> list[Leak]:
        """Return the first leak of each file that has one."""
        found = (next(self._leaks(path), None) for path in paths)
        return [leak for leak in found if leak is not None]

    def _leaks(self, path: Path) -> Iterator[Leak]:
        if path.stat().st_size < KEY_SIZE:
            return
        data: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
        for start in range(0, len(data), SCAN_SIZE):
            for offset, key in self._candidates(data, start):
                yield from self._compare(path, data, offset, key)

    def _candidates(self, data: Bytes, start: int) -> Iterator[tuple[int, np.uint64]]:
        """Yield the offsets at which 8 bytes equal the start of some needle."""
        for shift in range(start, start + KEY_SIZE):
            keys = _keys(data[shift : shift + SCAN_SIZE])
            byte_number, bit = _hash(keys)
            maybe = np.flatnonzero(self._bitmap[byte_number] & bit)
            places = np.searchsorted(self._keys, keys[maybe])
            places = np.minimum(places, len(self._keys) - 1)
            for number in maybe[self._keys[places] == keys[maybe]]:
                yield shift + KEY_SIZE * int(number), keys[number]

    def _compare(
        self, path: Path, data: Bytes, offset: int, key: np.uint64
    ) -> Iterator[Leak]:
        """Yield a leak for each needle with this key that is there in full."""
        first, end = (
            int(np.searchsorted(self._keys, key, side="left")),
            int(np.searchsorted(self._keys, key, side="right")),
        )
        for needle_number in self._needles[first:end]:
            needle, what = self._needle(int(needle_number))
            if data[offset : offset + len(needle)].tobytes() == needle:
                yield Leak(path=path, offset=offset, what=what)

    def _needle(self, number: int) -> tuple[bytes, str]:
        if number >= self.piece_count:
            name = self._names[number - self.piece_count]
            return name, f"the name {name.decode()}"
        file_number = max(
            file_number
            for file_number, (_, first) in enumerate(self._sources)
            if first <= number
        )
        source, first = self._sources[file_number]
        piece = self._pieces[file_number][number - first]
        return piece.tobytes(), f"bytes of {source.name}"


class Found(NamedTuple):
    """Plaintext in something: where in it, and what it is."""

    offset: int
    what: str


class PlaintextWindows:
    """Every 32 bytes in a row in the files of a small directory, at every offset.

    Compared by hashes of 64 bits, and then in full: what is found is there, and what
    is there is found but for a chance of one in a million that two hashes are equal.
    """

    def __init__(self, directory: Path, twin: Path) -> None:
        """Take what `directory` has, without what is no secret of it.

        Args:
            directory: a few MiB.
            twin: what was made in the same way from other secrets. What it holds as
                well is the formats' own: headers, runs of zeros, XML.
        """
        self._contents = _contents(directory)
        common = np.sort(
            np.concatenate([_all_hashes(c)[1] for c in _contents(twin).values()])
        )
        hashes, keys = [], []
        for content in self._contents.values():
            keys_of_file, hashes_of_file = _all_hashes(content)
            secret = ~_are_in(common, hashes_of_file)
            hashes.append(hashes_of_file[secret])
            # Wherever a window begins: within 7 bytes there is a multiple of 8.
            near = np.zeros(len(keys_of_file), dtype=np.bool_)
            for distance in range(KEY_SIZE):
                near[distance : distance + len(secret)] |= secret
            keys.append(keys_of_file[near])
        self._hashes, self._keys = (np.sort(np.concatenate(x)) for x in (hashes, keys))
        self._bitmap = np.zeros(1 << (BITMAP_BITS - 3), dtype=np.uint8)
        np.bitwise_or.at(self._bitmap, *_hash(self._keys))

    @property
    def count(self) -> int:
        """The number of windows that are looked for."""
        return len(self._hashes)

    def found_in(self, data: bytes | bytearray) -> Found | None:
        """Return what of the plaintext is in `data`, if anything is."""
        for start in range(0, len(data), SCAN_SIZE):
            piece = memoryview(data)[start : start + SCAN_SIZE + PIECE_SIZE - 1]
            if len(piece) >= PIECE_SIZE and (found := self._found_in_piece(piece)):
                return Found(start + found.offset, found.what)
        return None

    def _found_in_piece(self, data: memoryview) -> Found | None:
        keys = _keys(np.frombuffer(data, dtype=np.uint8))
        byte_number, bit = _hash(keys)
        maybe = np.flatnonzero(self._bitmap[byte_number] & bit)
        maybe = maybe[_are_in(self._keys, keys[maybe])]
        offsets = (KEY_SIZE * maybe[:, np.newaxis] - np.arange(KEY_SIZE)).ravel()
        offsets = offsets[(offsets >= 0) & (offsets <= len(data) - PIECE_SIZE)]
        hashes = _window_hashes(_keys_everywhere(data), offsets)
        for offset in offsets[_are_in(self._hashes, hashes)]:
            window = bytes(data[offset : offset + PIECE_SIZE])
            for path, content in self._contents.items():
                if (place := content.find(window)) >= 0:
                    return Found(int(offset), f"byte {place} of {path.name}")
        return None

    def search(self, paths: Iterable[Path]) -> list[Leak]:
        """Return the first leak of each file that has one.

        The files may be anybody's, and change or go away meanwhile.
        """
        found = (self._search_file(path) for path in paths)
        return [leak for leak in found if leak is not None]

    def _search_file(self, path: Path) -> Leak | None:
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            size, offset, tail = os.fstat(file.fileno()).st_size, 0, b""
            # No further than that: somebody may write to it all the time.
            while offset < size and (piece := file.read(SCAN_SIZE)):
                if found := self.found_in(tail + piece):
                    place = offset - len(tail) + found.offset
                    return Leak(path=path, offset=place, what=found.what)
                offset += len(piece)
                tail = (tail + piece)[1 - PIECE_SIZE :]
        return None


def _contents(directory: Path) -> dict[Path, bytes]:
    """Return the files of at least one window."""
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file())
    contents = {path: path.read_bytes() for path in paths}
    return {path: data for path, data in contents.items() if len(data) >= PIECE_SIZE}


def _all_hashes(content: bytes) -> tuple[Keys, Keys]:
    """Return the 8 bytes at each offset, and the hash of each window."""
    keys = _keys_everywhere(content)
    return keys, _window_hashes(keys, np.arange(len(content) - PIECE_SIZE + 1))


def _keys_everywhere(data: bytes | memoryview) -> Keys:
    """Return the 8 bytes at each offset as numbers."""
    count = max(0, len(data) - KEY_SIZE + 1)
    overlapping = np.ndarray((count,), dtype=np.uint64, buffer=data, strides=(1,))
    return overlapping.copy()


def _window_hashes(keys: Keys, offsets: npt.NDArray[np.int64]) -> Keys:
    """Return a hash of each of the windows at these offsets."""
    hashes = np.zeros(len(offsets), dtype=np.uint64)
    for start in range(0, PIECE_SIZE, KEY_SIZE):
        hashes ^= keys[offsets + start]
        hashes *= HASH_MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _are_in(ascending: Keys, hashes: Keys) -> npt.NDArray[np.bool_]:
    """Return for each hash whether it is one of the others, which are not none."""
    order = np.argsort(hashes)  # many times faster, as the places are then in order
    places = np.searchsorted(ascending, hashes[order])
    found = np.empty(len(hashes), dtype=np.bool_)
    found[order] = ascending[np.minimum(places, len(ascending) - 1)] == hashes[order]
    return found


def _as_array(data: bytes) -> Bytes:
    if len(data) != KEY_SIZE:
        message = f"a name to look for has fewer than {KEY_SIZE} bytes"
        raise ValueError(message)
    return np.frombuffer(data, dtype=np.uint8)


def _keys(data: Bytes) -> Keys:
    """Return the data as numbers of 8 bytes; a rest is cut off."""
    whole = data[: len(data) // KEY_SIZE * KEY_SIZE]
    return np.array(whole).view(np.uint64)


def _rotate(keys: Keys) -> Keys:
    """Rotate by one byte: only 8 equal bytes stay as they are."""
    return (keys << np.uint64(8)) | (keys >> np.uint64(56))


def _hash(keys: Keys) -> tuple[npt.NDArray[np.int64], Bytes]:
    """Return each key's place in the bitmap: the byte, and the bit in it."""
    place = (keys * HASH_MULTIPLIER) >> np.uint64(64 - BITMAP_BITS)
    bit = np.left_shift(1, place & np.uint64(7), dtype=np.uint8, casting="unsafe")
    return (place >> np.uint64(3)).astype(np.int64), bit
