"""Every `--json` output has the form that docs/json.md gives."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import key_files
from tests.support.mounting import ENGINES, Home, mounted, run_ovfuse, succeed

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "integer or null": (int, type(None)),
    "string or null": (str, type(None)),
}


def forms() -> dict[str, Any]:
    """The form of the output of each command."""
    pattern = r"^## ovfuse ([a-z ]+)\n.*?^```json\n(.*?)^```$"
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(pattern, text, re.DOTALL | re.MULTILINE)
    return {command: json.loads(form) for command, form in found}


def differences(value: object, form: Any, where: str = "") -> list[str]:
    """Where a value is not of a form."""
    if isinstance(form, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        pairs = enumerate(value)
        return [d for n, v in pairs for d in differences(v, form[0], f"{where}[{n}]")]
    if isinstance(form, dict):
        if not isinstance(value, dict) or set(value) != set(form):
            return [f"{where} has other fields"]
        return [d for k in form for d in differences(value[k], form[k], f"{where}.{k}")]
    if form in KINDS:
        is_right = isinstance(value, KINDS[form])
        is_right &= not (isinstance(value, bool) and form != "boolean")
    else:
        is_right = value in form.split("|")
    return [] if is_right else [f"{where} is {value!r}"]


def check(home: Home, command: str, *arguments: str | Path) -> Any:
    """Run it, compare, return what it printed."""
    done = run_ovfuse(home, *command.split(), "--json", *arguments)
    assert done.stdout.isascii()
    printed = json.loads(done.stdout)
    assert differences(printed, forms()[command]) == []
    return printed


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (1, ["string"]),
        ([1], ["string"]),
        ({}, {"a": "string"}),
        ({"a": "", "b": ""}, {"a": "string"}),
        (True, "integer"),
        (None, "string"),
        ("", "string or integer"),
        ("bad", "ok|warning"),
    ],
)
def test_differences_are_noticed(value: object, form: object) -> None:
    assert differences(value, form) != []


def test_every_command_with_json_is_described(home: Home) -> None:
    for command in ("status", "verify", "inspect", "recipients list", "doctor"):
        assert command in forms()
        assert "--json" in succeed(home, *command.split(), "--help")
    assert len(forms()) == 5


def test_good_and_bad_models(home: Home, plain: Path, scratch: Path) -> None:
    (scratch / "tree").mkdir()
    for name in ("a", "b"):
        succeed(home, "encrypt", plain, scratch / "tree" / name)
    check(home, "recipients list", scratch / "tree" / "a")
    check(home, "verify", scratch / "tree" / "a")
    check(home, "doctor", scratch / "tree")
    (scratch / "tree" / "b" / "model.ovfuse").write_text("rubbish")

    good, bad = check(home, "verify", scratch / "tree")["models"]
    assert (bool(good["error"]), bool(bad["error"])) == (False, True)
    good, bad = check(home, "inspect", scratch / "tree")["models"]
    assert (bool(good["error"]), bool(bad["error"])) == (False, True)
    file = key_files(scratch / "tree" / "a")[0].name
    assert good["key_files"] == [{"file": file, "types": ["X25519"]}]


@pytest.mark.fuse
def test_mounts(home: Home, plain: Path, scratch: Path) -> None:
    (scratch / "tree").mkdir()
    for name in ("a", "b"):
        succeed(home, "encrypt", plain, scratch / "tree" / name)
    with mounted(home, scratch / "tree", scratch / "mnt", engine=ENGINES[0]):
        assert check(home, "status")
    check(home, "status")
