"""The pointer: one line, and what a newer version may have put there."""

import pytest

from ovfuse.errors import DamagedError, NewerFormatError, OvfuseError
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.pointer import make_pointer, parse_pointer

SEAL_ID = "0123456789abcdef" * 2
LINE = f"ovfuse 1 {SEAL_ID}\n".encode()


def test_pointer_has_42_bytes() -> None:
    assert make_pointer(SEAL_ID) == LINE
    assert len(LINE) == 42
    assert parse_pointer(LINE) == SEAL_ID


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ovfuse",
        b"ovfuse ",
        b"ovfuse 1",
        b"ovfuse 1\n",
        b"ovfuse 1 \n",
        LINE[:-1],
        LINE + b"\n",
        LINE + b"x",
        b" " + LINE,
        b"\xef\xbb\xbf" + LINE,
        LINE[:-1] + b"\r\n",
        LINE[:-1] + b"\0",
        LINE.replace(b" 1 ", b"  1 "),
        LINE.replace(b" 1 ", b" 1  "),
        LINE.replace(b" 1 ", b"\t1\t"),
        LINE.replace(b" 1 ", b" 01 "),
        LINE.replace(b" 1 ", b" 0 "),
        LINE.replace(b" 1 ", b" -1 "),
        LINE.replace(b" 1 ", b" +1 "),
        LINE.replace(b" 1 ", b" 1.0 "),
        LINE.replace(b" 1 ", b" one "),
        LINE.replace(b" 1 ", " ² ".encode()),
        LINE.replace(b"ovfuse", b"OVFUSE"),
        LINE.replace(b"a", b"A"),
        LINE.replace(b"0", b"g"),
        LINE.replace(b"0", b""),
        LINE.replace(b"0", b"00"),
        LINE.replace(b"01", b".."),
        LINE.replace(b"01", b"a/"),
        b"\xff" * 42,
    ],
)
def test_malformed_pointer(data: bytes) -> None:
    with pytest.raises(DamagedError):
        parse_pointer(data)


@pytest.mark.parametrize(
    "data",
    [
        b"ovfuse 2",
        b"ovfuse 2\n",
        b"ovfuse 2 " + SEAL_ID.encode() + b"\n",
        b"ovfuse 2\r\n",
        b"ovfuse 2;anything",
        b"ovfuse 2 \xff\0\n\n",
        b"ovfuse 10 x",
        b"ovfuse 12",
        b"ovfuse 1234567890 x",
        b"ovfuse " + b"9" * 121,
    ],
)
def test_rest_of_a_newer_pointer_is_not_judged(data: bytes) -> None:
    with pytest.raises(NewerFormatError, match="made by a newer ovfuse"):
        parse_pointer(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (LINE + b"\0" * 87, DamagedError),
        (LINE + b"\0" * (2**20), DamagedError),
        (b"ovfuse 2 " + b"x" * (2**20), NewerFormatError),
        (b"x" * (2**20), DamagedError),
    ],
)
def test_only_128_bytes_are_read(
    data: bytes,
    expected: type[OvfuseError],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("model")
    (directory / "model.ovfuse").write_bytes(data)
    with SealedModel.open(directory) as model, pytest.raises(expected):
        model.pointer()
