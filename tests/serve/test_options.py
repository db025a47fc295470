"""The words after -o."""

import grp
from pathlib import Path

import pytest

from ovfuse.errors import UsageError
from ovfuse.serve.options import (
    MountOptions,
    escaped,
    parse_options,
    split_options,
)


def test_nothing_asked_is_the_default() -> None:
    assert parse_options([]) == MountOptions()
    assert parse_options(["", ",,"]) == MountOptions()
    assert MountOptions().engine == "kernel"


def test_every_word_is_understood() -> None:
    options = parse_options(
        [
            "allow_other,uid=7,gid=8,umask=027,noexec",
            "strict,allow_untrusted,allow_rollback,model=vision/detector",
            "engine=libfuse,log=/var/log/ovfuse.log,audit=no",
        ]
    )

    assert options == MountOptions(
        allow_other=True,
        uid=7,
        gid=8,
        umask=0o027,
        noexec=True,
        strict=True,
        allow_untrusted=True,
        allow_rollback=True,
        model="vision/detector",
        engine="libfuse",
        audit=False,
        log=Path("/var/log/ovfuse.log"),
    )


@pytest.mark.parametrize(
    "words",
    [
        "ro,nosuid,nodev,noatime,nodiratime,relatime,async",
        "_netdev,auto,noauto,nofail,user,users,nouser,owner,group,defaults",
        "x-systemd.requires=a.service,X-mount.mkdir,comment=models",
        "user,noexec,exec",
    ],
)
def test_words_of_fstab_are_swallowed(words: str) -> None:
    assert parse_options([words]) == MountOptions()


def test_accounts_have_names_and_numbers() -> None:
    group = grp.getgrgid(1)
    options = parse_options([f"uid=root,gid={group.gr_name}"])

    assert (options.uid, options.gid) == (0, 1)
    assert parse_options(["uid=4294967294"]).uid == 4294967294  # whose it ever is


def test_the_last_of_a_repeated_word_holds() -> None:
    assert parse_options(["uid=1,uid=2", "uid=3"]).uid == 3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (r"model=a\,b", "a,b"),
        (r"model=a\\b", "a\\b"),
        (r"model=a\\,strict", "a\\"),
        (r"model=a\=b", "a=b"),
        ("model=a=b", "a=b"),
        (r"strict,model=\ a", " a"),
        ("model=a\nb", "a\nb"),
    ],
)
def test_backslash_takes_the_meaning_off_a_character(text: str, name: str) -> None:
    assert parse_options([text]).model == name


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("3K", 3 << 10), ("2G", 2 << 30), ("1T", 1 << 40)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    options = parse_options([f"resident_max={text},resident_user_max={text}"])

    assert (options.resident_max, options.resident_user_max) == (size, size)


def test_log_file_is_absolute() -> None:
    assert parse_options(["log=mount.log"]).log == Path.cwd() / "mount.log"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("alow_other", "'alow_other'"),
        ("allow_other=1", "'allow_other=1'"),
        ("strict=", "'strict='"),
        ("rw", "read-only"),
        ("x", "'x'"),
        ("uid", "takes a value"),
        ("uid=", "no such account"),
        ("uid=no one", "'no one': no such account"),
        ("uid=-1", "no such account"),
        ("uid=4294967295", "no number of an account"),
        ("uid=00000000001", "no number of an account"),
        ("gid=²", "no such group"),
        ("gid=a\0b", "no such group"),
        ("gid=\udcff", "no such group"),
        ("audit=", "'' is not known"),
        ("audit=off", "'off' is not known"),
        ("audit", "takes a value"),
        ("umask=8", "octal"),
        ("umask=01777", "octal"),
        ("umask=", "octal"),
        ("umask=0o22", "octal"),
        ("model=", "lacks its value"),
        ("log=", "lacks its value"),
        ("engine=warp", "'warp'"),
        ("resident=some", "'some'"),
        ("resident_max=", "a size"),
        ("resident_max=1g", "a size"),
        ("resident_max=-1", "a size"),
        ("resident_user_max=1.5G", "a size"),
        ("model=a\\", "backslash"),
        ("\x1b[31m", "\\x1b"),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(["strict", text])

    assert part in caught.value.message
    assert caught.value.message.isprintable()


def test_unknown_word_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(["alow_other"])

    for word in ("allow_other", "uid=", "strict", "engine=", "log="):
        assert word in caught.value.hint


@pytest.mark.parametrize(
    "option", ["model=a,b", "model=a\\", "model=\\,", "strict", ""]
)
def test_what_is_escaped_is_found_again(option: str) -> None:
    assert list(split_options(f"{escaped(option)},noexec")) == [
        *filter(None, [option]),
        "noexec",
    ]
