"""The documents say what the program does: options, numbers, links, examples.

Nothing here reads prose: it reads tables, code, links and headings.
"""

import ast
import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_command

from ovfuse import cli, errors
from ovfuse.errors import OvfuseError, UsageError, ViewError
from ovfuse.serve.errnos import errno_of
from ovfuse.serve.options import parse_options

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
CLI: Final = ROOT / "docs" / "cli.md"
PAGES: Final = tuple(
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
# About the command line as it is now; others speak of history, or of other commands.
MANUAL: Final = (README, ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md")))
README_MAX_LINES: Final = 150
TIMEOUT_SECONDS: Final = 120

FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN: Final = re.compile(r"`([^`\n]+)`")
OPTION: Final = re.compile(r"--?[A-Za-z][\w-]*")


# Markdown


def prose_of(text: str) -> str:
    return FENCED.sub("", text)


def slug_of(heading: str) -> str:
    """The anchor that a heading gets."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.strip().replace(" ", "-")


def anchors_of(text: str) -> set[str]:
    return {slug_of(h) for h in re.findall(r"^#+ (.+)$", prose_of(text), re.MULTILINE)}


def sections_of(text: str) -> dict[str, str]:
    """What is below each heading of the second level."""
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of all tables whose first heading this is."""
    rows: list[list[str]] = []
    wanted = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            wanted = False
        elif wanted:
            rows.append(cells)
        elif cells[0] == heading:
            wanted = True
    return [row for row in rows if not row[0].startswith("---")]


def code_of(text: str) -> Iterator[str]:
    """Every piece of code, in spans and blocks; continued lines are one."""
    for _, block in FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from SPAN.findall(prose_of(text))


def test_markdown_is_read_as_it_is_meant() -> None:
    text = "# A `b`: c\n## D\n`-x` `y`\n| k | v |\n| --- | --- |\n| 1 | 2 |\n"
    text += "```sh\na \\\n  b\n```\n"

    assert anchors_of(text) == {"a-b-c", "d"}
    assert list(sections_of(text)) == ["D"]
    assert rows_of(text, "k") == [["1", "2"]]
    assert list(code_of(text)) == ["a    b", "b", "-x", "y"]


# Links


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page

        assert linked.is_relative_to(ROOT), target
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked.read_text(encoding="utf-8")), target


def test_readme_is_short_and_names_the_scripts() -> None:
    text = README.read_text(encoding="utf-8")

    assert len(text.splitlines()) < README_MAX_LINES
    for script in ("scripts/demo", "scripts/test", "scripts/setup"):
        assert f"`{script}`" in text
        assert os.access(ROOT / script, os.X_OK)


# Commands and options


@dataclass(frozen=True)
class Command:
    """What typer knows of a command."""

    options: frozenset[str]
    arguments: tuple[str, ...]


def command_of(raw: Any) -> Command:
    options: set[str] = set()
    arguments = []
    for parameter in raw.params:
        if parameter.param_type_name == "argument":
            arguments.append(parameter.metavar or parameter.name.upper())
        else:
            options.update(parameter.opts, parameter.secondary_opts)
    return Command(frozenset(options), tuple(arguments))


def commands_below(raw: Any, name: str) -> Iterator[tuple[str, Command]]:
    """Every command that can be run, by its full name."""
    if not hasattr(raw, "commands"):
        yield name, command_of(raw)
        return
    for word, child in raw.commands.items():
        yield from commands_below(child, f"{name} {word}")


ROOT_COMMAND: Final[Any] = get_command(cli.app)
COMMANDS: Final[Mapping[str, Command]] = dict(commands_below(ROOT_COMMAND, "ovfuse"))
GENERAL: Final = frozenset({"-h", "--help"})
ALL_OPTIONS: Final = GENERAL.union(
    command_of(ROOT_COMMAND).options, *(c.options for c in COMMANDS.values())
)


def described_options(section: str) -> set[str]:
    """`-o` and `--output` for a row that begins with `-o FILE`, `--output FILE`."""
    rows = rows_of(section, "option")
    return {span.split()[0] for row in rows for span in SPAN.findall(row[0])}


def test_every_command_has_a_section() -> None:
    sections = sections_of(CLI.read_text(encoding="utf-8"))

    described = {name for name in sections if name.startswith("ovfuse ")}
    assert described == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_section_has_the_options_and_arguments_of_its_command(name: str) -> None:
    section = sections_of(CLI.read_text(encoding="utf-8"))[name]
    command = COMMANDS[name]

    assert described_options(section) == command.options
    usage = SPAN.findall(section)[0]
    assert usage.startswith(name)
    for argument in command.arguments:
        assert argument in re.sub(r"[\[\]]", "", usage).split()


def test_general_options_are_described() -> None:
    section = sections_of(CLI.read_text(encoding="utf-8"))["ovfuse"]

    assert described_options(section) == command_of(ROOT_COMMAND).options | GENERAL


def ovfuse_calls(code: str) -> Iterator[list[str]]:
    """The words after `ovfuse`, for each call of it in a line of code."""
    without_comment = re.sub(r"(^|\s)#.*", "", code)
    for part in re.split(r"&&|\|", without_comment):
        if match := re.search(r"(?:^|[\s/=])ovfuse\s+(.*)", part):
            yield shlex.split(re.sub(r"[\[\]]", "", match[1]))


def name_of(words: list[str]) -> str:
    """The full name of the command that the words call, or of a group of them."""
    name, commands = "ovfuse", dict(ROOT_COMMAND.commands)
    for word in words:
        if word not in commands:
            break
        name += f" {word}"
        commands = getattr(commands[word], "commands", {})
    return name


def findings_in(code: str) -> Iterator[str]:
    """What is wrong with a line of code, as far as it is about ovfuse."""
    if (match := OPTION.match(code)) and match[0] not in ALL_OPTIONS:
        yield f"no such option: {code}"
    for words in ovfuse_calls(code):
        name = name_of(words)
        depth = len(name.split()) - 1
        if name not in COMMANDS and words[depth:] and words[depth][0].islower():
            yield f"no such command: {code}"
        known = COMMANDS[name].options if name in COMMANDS else ALL_OPTIONS
        mentioned = {match[0] for word in words if (match := OPTION.match(word))}
        if unknown := mentioned - known - GENERAL:
            yield f"{name} has no {sorted(unknown)}: {code}"


@pytest.mark.parametrize("page", MANUAL, ids=page_id)
def test_every_command_and_option_in_code_exists(page: Path) -> None:
    code = code_of(page.read_text(encoding="utf-8"))

    assert [finding for line in code for finding in findings_in(line)] == []


@pytest.mark.parametrize(
    "code",
    [
        "--nonesuch",
        "ovfuse nonesuch a",
        "a && ovfuse trust nonesuch",
        "X=/opt/bin/ovfuse mount -f --lazy a b",
        "ovfuse encrypt a b && ovfuse mount --mode=x a b",
    ],
)
def test_what_does_not_exist_is_noticed(code: str) -> None:
    assert list(findings_in(code)) != []


@pytest.mark.parametrize(
    "code",
    ["--lazy", "ovfuse", "ovfuse trust", "ovfuse [--version] COMMAND", "a # ovfuse b"],
)
def test_what_exists_is_let_through(code: str) -> None:
    assert list(findings_in(code)) == []


def test_mount_options_are_those_that_are_parsed() -> None:
    rows = rows_of(CLI.read_text(encoding="utf-8"), "mount option")
    spans = [span for row in rows for span in SPAN.findall(row[0])]

    with pytest.raises(UsageError) as unknown:
        parse_options(["nonesuch"])

    known = unknown.value.hint.partition(": ")[2].split(", ")
    assert {re.sub("=.*", "=", span) for span in spans} == set(known)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_mount_options_in_examples_are_parsed(page: Path) -> None:
    code = "\n".join(code_of(page.read_text(encoding="utf-8")))

    for text in re.findall(r"(?:-o |\bOPTIONS=)([a-z]\w*[=,]\S*)", code):
        # That group is there where scripts/install was run.
        parse_options([text.replace("gid=ovfuse", "gid=root")])


# Environment


def variables_read() -> Iterator[str]:
    """The environment variables that the sources name."""
    for path in sorted((ROOT / "ovfuse").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            source = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if match := re.match(r"os\.(?:environ\.\w+|getenv)\('(\w+)'", source):
                yield match[1]


def test_environment_variables_are_those_that_are_read() -> None:
    rows = rows_of(CLI.read_text(encoding="utf-8"), "variable")

    described = {span for row in rows for span in SPAN.findall(row[0])}
    assert described == set(variables_read())


# Exit codes and errno


def error_tree() -> dict[str, tuple[str, str]]:
    """Number and purpose of every class in the tree at the head of errors.py."""
    pattern = r"(\w+Error) +(\d+|-) +(.+)"
    found = re.findall(pattern, str(errors.__doc__))
    return {name: (number, purpose) for name, number, purpose in found}


def error_classes(parent: type[OvfuseError] = OvfuseError) -> Iterator[str]:
    """Every class that has an exit code of its own."""
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__ and not issubclass(child, ViewError):
            yield child.__name__
            yield from error_classes(child)


def test_tree_of_errors_has_every_class_and_its_number() -> None:
    numbers = {
        name: int(number) for name, (number, _) in error_tree().items() if number != "-"
    }

    assert set(numbers) == set(error_classes())
    assert len(set(numbers.values())) == len(numbers)
    for name, number in numbers.items():
        assert getattr(errors, name).exit_code == number, name


def test_table_of_exit_codes_is_the_tree_of_errors() -> None:
    rows = rows_of(CLI.read_text(encoding="utf-8"), "code")

    described = {name.strip("`"): (code, text) for code, name, text in rows if name}
    expected = {name: row for name, row in error_tree().items() if row[0] != "-"}
    assert described == expected
    others = [int(code) for code, name, _ in rows if not name]
    assert others == [0, OvfuseError.exit_code, 128 + signal.SIGINT]
    codes = [int(code) for code, _, _ in rows]
    assert codes == sorted(set(codes))


def test_table_of_errnos_says_what_the_engines_answer() -> None:
    rows = rows_of(CLI.read_text(encoding="utf-8"), "errno")

    named = 0
    for row in rows:
        for name in re.findall(r"`(\w+Error)`", row[1]):
            code = errno_of(getattr(errors, name)(""))
            assert f"`{errno.errorcode[code]}`" in row[0], name
            named += 1
    assert named > 0


# Examples


def runnable_blocks() -> list[tuple[str, str]]:
    """What each block of the README that is marked needs, and its commands."""
    text = README.read_text(encoding="utf-8")
    marked = r"^<!-- runs(?:: (\w+))? -->\n```sh\n(.*?)^```$"
    return re.findall(marked, text, re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Publisher:
    """Somebody who follows the README: a home, and a directory to work in."""

    home: Path
    directory: Path

    def run(self, script: str) -> str:
        """Run commands as a shell does; return their output."""
        programs = Path(sys.executable).parent
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.directory,
            env={
                "HOME": str(self.home),
                "LANG": "C.UTF-8",
                "PATH": f"{programs}:{os.environ['PATH']}",
                "XDG_RUNTIME_DIR": str(self.home),
                "XDG_STATE_HOME": str(self.home / "state"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    """A model and a list of recipients, as the README assumes them."""
    # Elsewhere: the path of a socket in it has to be short.
    with tempfile.TemporaryDirectory(prefix="ovfuse-docs-") as home:
        reader = Publisher(Path(home), tmp_path)
        (tmp_path / "mnt").mkdir()
        model = tmp_path / "resnet"
        model.mkdir()
        (model / "resnet.xml").write_text("<net/>\n")
        (model / "resnet.bin").write_bytes(os.urandom(300_000))
        own = reader.run("ovfuse keygen")
        device = reader.run("ovfuse keygen -o device.txt")
        recipients = re.findall("^recipient: (.+)$", own + device, re.MULTILINE)
        (tmp_path / "recipients.txt").write_text("\n".join(recipients) + "\n")
        yield reader


def test_readme_marks_blocks_of_both_kinds() -> None:
    assert {needs for needs, _ in runnable_blocks()} == {"", "fuse"}


def test_readme_seals_verifies_and_inspects(publisher: Publisher) -> None:
    for needs, script in runnable_blocks():
        if not needs:
            output = publisher.run(script)

            assert "ok     'resnet.bin'" in output
            assert "(trusted)" in output


def test_device_opens_what_the_readme_seals(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.run("".join(script for needs, script in runnable_blocks() if not needs))
    key = publisher.home / ".config" / "ovfuse" / "signing_key.pub"
    with tempfile.TemporaryDirectory(prefix="ovfuse-docs-") as home:
        device = Publisher(Path(home), tmp_path)

        device.run(f"ovfuse trust add {key}")
        output = device.run("ovfuse verify -i device.txt sealed")

    assert "ok     'resnet.bin'" in output


@pytest.mark.fuse
def test_readme_mounts(publisher: Publisher, tmp_path: Path) -> None:
    (script,) = [script for needs, script in runnable_blocks() if needs == "fuse"]
    try:
        publisher.run(script)

        for name in ("resnet.xml", "resnet.bin"):
            mounted = (tmp_path / "mnt" / name).read_bytes()
            assert mounted == (tmp_path / "resnet" / name).read_bytes()
    finally:
        publisher.run("mountpoint -q mnt && ovfuse unmount mnt")
