"""Paths and names: what may be one, and what is a tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovfuse.errors import DamagedError
from ovfuse.sealed.paths import check_tree, is_model_name, is_path, parent_of, sort_key

DEEPEST = "/".join(["d"] * 64)
LONGEST = "/".join([*["d" * 255] * 15, "d" * 253, "x"])
LONGEST_NAME = "/".join([*["n" * 255] * 3, "n" * 253, "xx"])

GOOD_PATHS = [
    "a",
    "a/b",
    "...",
    ".hidden",
    "..a/b..",
    "a b",
    " ",
    "a\nb",
    "\x01",
    "\x7f",
    "a\\b",
    "A",
    "c:con",
    "é",  # one code point
    "e\u0301",  # two: not the same path
    "日本語/🦊",
    "\u202e",
    "-",
    "~",
    "d" * 255,
    "é" * 127,
    DEEPEST,
    LONGEST,
    "model@1",
]
BAD_PATHS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/.",
    "a/..",
    "./a",
    "../a",
    "a/../b",
    "\0",
    "a\0b",
    "a/b\0/c",
    "d" * 256,
    "é" * 128,
    f"{DEEPEST}/d",
    f"{LONGEST}x",
    "\ud800",
    "a/\udcff",
]


def test_the_limits_are_those_of_the_table() -> None:
    assert (len(LONGEST), len(LONGEST_NAME), DEEPEST.count("/")) == (4095, 1024, 63)
    assert max(map(len, LONGEST.split("/"))) == 255


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_good_path(path: str) -> None:
    assert is_path(path)


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_path(path: str) -> None:
    assert not is_path(path)


@pytest.mark.parametrize(
    "name",
    [
        "m",
        "org/m",
        "m@",
        "m@1x",
        "@1x",
        "m@1/v",
        "m@x1",
        "m@\u0661",  # a digit, but not one of ASCII
        LONGEST_NAME,
    ],
)
def test_good_name(name: str) -> None:
    assert is_model_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "m@1",
        "@0",
        "org/m@12",
        "m@@3",
        "",
        "../m",
        "m/",
        f"{LONGEST_NAME}x",
    ],
)
def test_bad_name(name: str) -> None:
    assert not is_model_name(name)


@pytest.mark.parametrize(
    ("path", "parent"), [("a", ""), ("a/b", "a"), ("a/b/c", "a/b"), ("ä/ö", "ä")]
)
def test_parent(path: str, parent: str) -> None:
    assert parent_of(path) == parent


def test_paths_are_sorted_by_bytes_and_not_by_code_units() -> None:
    paths = ["a", "a-b", "a/b", "a0", "\uffff", "\U00010000"]

    assert sorted({*paths}, key=sort_key) == paths


@pytest.mark.parametrize(
    ("directories", "files"),
    [
        ([], []),
        (["a"], []),
        (["a", "a/b"], ["a/b/c", "b"]),
        (["a", "a-b", "a/b"], ["a-b/x", "a/b/x", "a/x"]),
        (["é"], ["e\u0301", "é/x"]),
    ],
)
def test_tree(directories: list[str], files: list[str]) -> None:
    check_tree(directories, files)


@pytest.mark.parametrize(
    ("directories", "files"),
    [
        (["a/b"], []),  # orphans
        ([], ["a/b"]),
        (["a"], ["b/c"]),
        (["a/b", "a"], []),
        (["b", "a"], []),  # unsorted
        ([], ["b", "a"]),
        ([], ["\U00010000", "\uffff"]),
        (["a", "a"], []),  # twice
        ([], ["a", "a"]),
        (["a"], ["a"]),  # file and directory
        ([], ["a", "a/b"]),  # a file as a directory
        *(([path], []) for path in BAD_PATHS),
        *(([], [path]) for path in BAD_PATHS),
    ],
)
def test_no_tree(directories: list[str], files: list[str]) -> None:
    with pytest.raises(DamagedError):
        check_tree(directories, files)


@given(st.text(min_size=1, max_size=300))
def test_path_of_one_component_is_what_linux_can_have(text: str) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raw = b""
    possible = 1 <= len(raw) <= 255 and b"\0" not in raw and b"/" not in raw

    assert is_path(text) == (possible and text not in {".", ".."}) or "/" in text
