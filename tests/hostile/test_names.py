"""Hostile names of directories, models and files: all shown harmlessly."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.cli import terminal
from ovfuse.quote import printable, quoted
from ovfuse.serve.logs import _Formatter, _TerminalFormatter
from tests.hostile.measured import check_shown, run_measured
from tests.hostile.published import publish, write
from tests.support.encryptor import Edits, Json, Plain
from tests.support.mounting import ENGINES, Home, mounted, run_ovfuse

NAMES = {
    "escape": b"\x1b[31mred\x1b[0m",
    "title": b"\x1b]0;title\x07",
    "newline": b"two\nlines",
    "return": b"over\rwrite",
    "fake error": b"x\novfuse: error: nothing is wrong",
    "control": bytes(range(1, 32)),
    "delete": b"\x7f\x08\x08",
    "C1": "\u009b31m".encode(),
    "bidi": "\u202egnp.exe\u2066".encode(),
    "invisible": "a\u200b\ufeff\u00ad".encode(),
    "separator": "a\u2028b\u2029c".encode(),
    "tags": "\U000e0041\U000e0042".encode(),
    "unassigned": "\U000e1000\ue000".encode(),
    "255 bytes": b"n" * 255,
    "255 bytes of escapes": b"\x1b" * 255,
    "quotes": b'it\'s \\ "quoted"',
    "options": b"--help",
    "invalid UTF-8": b"\xff\xfe\x80",
    "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\xae\xc0\xae",
}
VALID = {
    case: raw.decode()
    for case, raw in NAMES.items()
    if case not in {"invalid UTF-8", "surrogate", "overlong"}
}
FEW = ("escape", "fake error", "C1", "bidi", "255 bytes of escapes")  # one by one


@pytest.mark.parametrize("case", NAMES)
def test_quoted_and_printable(case: str) -> None:
    raw = NAMES[case]
    for value in (raw, os.fsdecode(raw), Path(os.fsdecode(raw))):
        shown = quoted(value)
        assert shown.isprintable()
        assert shown[0] == shown[-1] == "'"
        assert len(shown) <= 303
        inner = shown[1:-1].replace("\\\\", "").replace("\\'", "")
        assert "'" not in inner
    assert printable(os.fsdecode(raw)).isprintable()


@pytest.mark.parametrize("case", NAMES)
def test_last_step_before_a_terminal_or_a_log(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgot to quote a name is caught here."""
    text = os.fsdecode(NAMES[case])
    for show in (terminal.say, terminal.note, terminal.warning, terminal.error):
        show(text)
    terminal.hint(text)
    terminal.say_json({text: text})
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 4
    record = logging.makeLogRecord({"msg": "%s", "args": (text,), "levelno": 30})
    logged = [made.format(record) for made in (_Formatter(), _TerminalFormatter())]

    assert all(line.isprintable() for line in logged)
    check_shown(shown.out, shown.err)


@pytest.fixture(scope="module")
def tree(shared: Path, home: Home) -> Iterator[Path]:
    """Models in places of every name; of every signed name; with files of every name.

    Each also a second time, damaged, so that errors speak of it.
    """
    top = shared / "names"
    for raw in NAMES.values():
        place = os.fsdecode(raw)
        name = place if raw.decode(errors="ignore").encode() == raw else "model"
        made = publish(Plain(files={"a": b"a"}, name=name), "names")
        made.add_key_file(home.recipient)
        write(made.files, top / "place" / place)
        made.files["model.ovfuse"] = b"damaged"
        write(made.files, top / "damaged" / place)
    for number, text in enumerate(VALID.values()):

        def rename(manifest: Json, text: str = text) -> None:
            manifest["name"] = text

        files = {text: b"a", f"d/{text}": b"b"}
        made = publish(Plain(files=files), f"names {text}", Edits(manifest=rename))
        made.add_key_file(home.recipient)
        write(made.files, top / "signed" / f"{number}")
    yield top
    shutil.rmtree(top)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_commands(home: Home, tree: Path, command: str, options: list[str]) -> None:
    done = run_measured(home, command, *options, tree)
    done.check_modest()

    assert done.status == 13
    assert "red" in done.stdout
    skipped = done.stderr.count("skipped a directory that no model can be in")
    assert skipped == 2 * (len(NAMES) - len(VALID))


@pytest.mark.parametrize("case", FEW)
def test_one_model(home: Home, tree: Path, case: str) -> None:
    """A single model may be anywhere; its place is then in every message."""
    place = VALID[case]
    for command in ("inspect", "verify"):
        assert run_measured(home, command, tree / "place" / place).status == 0
        assert run_measured(home, command, tree / "damaged" / place).status == 13
    done = run_measured(home, "mount", tree / "damaged" / place, tree / "nowhere")
    assert done.status == 20
    done = run_measured(home, "mount", tree / "none" / place, home.directory)
    assert done.status == 20


def test_signed_name_that_does_not_fit(home: Home, tree: Path) -> None:
    done = run_measured(home, "verify", tree / "signed")

    assert done.status == 14
    assert done.stdout.count("its signed name is '") == len(VALID)


@pytest.mark.fuse
@pytest.mark.parametrize("engine", ENGINES)
def test_mount_its_log_and_its_status(
    home: Home, tree: Path, scratch: Path, engine: str
) -> None:
    log = scratch / "log"
    options = ("-o", f"log={log}")
    with mounted(home, tree, scratch / "mnt", *options, engine=engine) as mount:
        for text in VALID.values():
            assert (mount.mountpoint / "place" / text / "a").read_bytes() == b"a"
            with pytest.raises(OSError, match="Input/output error"):
                (mount.mountpoint / "damaged" / text / "a").stat()
            assert not (mount.mountpoint / text).exists()
        for number in range(len(VALID)):
            with pytest.raises(OSError, match="Input/output error"):
                os.listdir(mount.mountpoint / "signed" / f"{number}")
        said = [run_ovfuse(home, "status", *json) for json in ([], ["--json"])]
        mount.status()

    check_shown(log.read_text("utf-8"), *(done.stdout + done.stderr for done in said))
    assert "red" in log.read_text("utf-8")
    assert "red" in said[0].stdout


@pytest.mark.parametrize("case", FEW)
def test_words_of_the_user(home: Home, scratch: Path, case: str) -> None:
    """What was typed comes back in errors, just as harmless."""
    word = VALID[case]
    for command in (
        ("inspect", "--", scratch / word),
        ("verify", "-i", scratch / word, scratch),
        ("mount", "-o", f"engine={word}", scratch, scratch),
        ("mount", "-o", word.replace(",", ""), scratch, scratch),
        ("trust", "remove", "--", word),
        ("--", word),
    ):
        done = run_measured(home, *command)
        assert done.status != 0 or word == "--help"
