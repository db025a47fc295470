"""The man page and the completions: made anew, they are what is committed."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
BASH = ROOT / "completion" / "ovfuse.bash"


def load() -> ModuleType:
    path = ROOT / "scripts" / "make_docs.py"
    spec = importlib.util.spec_from_file_location("make_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_files_are_what_is_made() -> None:
    made = load().generated()

    assert len(made) == 4
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run scripts/make-docs"


@pytest.mark.parametrize(
    ("page", "part"),
    [
        ("ovfuse.1", "ovfuse recipients remove [OPTION]... CIPHERDIR"),
        ("mount.fuse.ovfuse.8", "identity=IDENTITY"),
    ],
)
def test_man_page_has_no_mistakes(page: str, part: str) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("there is no man")
    done = subprocess.run(
        ["man", "--warnings", "-l", ROOT / "docs" / "man" / page],
        env={"PATH": os.environ["PATH"], "MANWIDTH": "80", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr == ""
    assert part in done.stdout
    assert ".PP" not in done.stdout


def completed(*words: str) -> list[str]:
    """What bash offers after these words, the last of which is being typed."""
    script = (
        f'source {BASH}; COMP_WORDS=(ovfuse "$@"); COMP_CWORD=$#; _ovfuse; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-euc", script, "bash", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["enc"], ["encrypt"]),
        (["--v"], ["--version"]),
        (["recipients", ""], ["add", "remove", "list"]),
        (["trust", "re"], ["remove"]),
        (["trust", "add", "--s"], ["--system"]),
        (["recipients", "add", "--s"], []),
        (["encrypt", "--not-"], ["--not-before", "--not-after"]),
        (["mount", "-o", "x", "--fore"], ["--foreground"]),
        (["mount", ""], []),  # then files
        (["nonesuch", "-"], []),
    ],
)
def test_bash_completes(words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


@pytest.mark.parametrize(
    ("shell", "name"),
    [("bash", "ovfuse.bash"), ("zsh", "_ovfuse"), ("fish", "ovfuse.fish")],
)
def test_shells_read_it(shell: str, name: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([shell, "-n", ROOT / "completion" / name], check=True)


def test_make_docs_writes_what_it_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ovfuse", tmp_path / "ovfuse")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "make_docs.py", tmp_path / "scripts")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.make_docs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.count("make-docs: ") == 4
    assert (tmp_path / "completion" / "ovfuse.bash").read_text() == BASH.read_text()
