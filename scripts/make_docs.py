"""The man page and the shell completions, from the commands' own definitions.

One source: what `ovfuse COMMAND --help` shows. A test holds the committed files equal
to what this makes.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from ovfuse import errors
from ovfuse.cli import app

_ROOT = Path(__file__).resolve().parent.parent
_SEE_ALSO = """.SH SEE ALSO
.BR mount (8),
.BR fusermount3 (1),
.BR age (1),
.BR systemd-creds (1)
"""


def generated() -> dict[Path, str]:
    """Return every generated file and its text."""
    commands = dict(_commands())
    return {
        _ROOT / "docs/man/ovfuse.1": _man_page(commands),
        _ROOT / "completion/ovfuse.bash": _bash(commands),
        _ROOT / "completion/_ovfuse": _zsh(commands),
        _ROOT / "completion/ovfuse.fish": _fish(commands),
    }


def _commands() -> Iterator[tuple[str, Any]]:
    """Yield `name` or `group name`, and the command, in the order of the help."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined] # a group
        if hasattr(command, "commands"):
            for below, sub in command.commands.items():
                yield f"{name} {below}", sub
        else:
            yield name, command


def _arguments(command: Any) -> list[Any]:  # noqa: ANN401 - typer's own classes are private
    return [p for p in command.params if p.param_type_name == "argument"]


def _options(command: Any) -> list[Any]:  # noqa: ANN401 - likewise
    return [p for p in command.params if p.param_type_name == "option"]


def _metavar(argument: Any) -> str:  # noqa: ANN401 - likewise
    return str(argument.metavar or argument.name.upper())


def _roff(text: str) -> str:
    """Escape what troff would interpret, at the start of a line and in it."""
    for character, name in (("\\", "e"), ("-", "-"), ("'", "(aq"), ("`", "(ga")):
        text = text.replace(character, f"\\{name}")
    return re.sub(r"^\.", r"\&.", text, flags=re.MULTILINE)


def _man_page(commands: dict[str, Any]) -> str:
    lines = [
        '.TH OVFUSE 1 "" "ovfuse" "User Commands"',
        ".SH NAME",
        "ovfuse \\- encrypted model directories on disk, plaintext only in memory",
        ".SH SYNOPSIS",
        ".B ovfuse",
        ".I COMMAND",
        "[option ...] [argument ...]",
        ".SH COMMANDS",
    ]
    for name, command in commands.items():
        metavars = " ".join(_metavar(p) for p in _arguments(command))
        lines += [".SS " + _roff(f"ovfuse {name} [OPTION]... {metavars}".rstrip())]
        lines += _paragraphs(command.help or "")
        for argument in _arguments(command):
            lines += [
                ".TP",
                f".I {_roff(_metavar(argument))}",
                _roff(argument.help or ""),
            ]
        for option in _options(command):
            words = f".B {_roff(_option_text(option))}"
            lines += [".TP", words, _roff(option.help or "")]
    return "\n".join([*lines, *_exit_status()]) + "\n" + _SEE_ALSO


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield _roff(" ".join(paragraph.split()))


def _exit_status() -> Iterator[str]:
    """The table at the head of errors.py."""
    yield from (".SH EXIT STATUS", ".TP", ".B 0", "done")
    for code, meaning in re.findall(r"Error +(\d+) +(.+)", str(errors.__doc__)):
        yield from (".TP", f".B {code}", _roff(meaning))


def _option_text(option: Any) -> str:  # noqa: ANN401 - likewise
    value = "" if option.is_flag else f" {option.metavar or 'VALUE'}"
    return ", ".join(option.opts) + value


def _words(command: Any) -> list[str]:  # noqa: ANN401 - likewise
    return [word for option in _options(command) for word in option.opts]


def _groups(commands: dict[str, Any]) -> dict[str, list[str]]:
    """Return the names below each group."""
    groups: dict[str, list[str]] = {}
    for first, _, second in (name.partition(" ") for name in commands):
        if second:
            groups.setdefault(first, []).append(second)
    return groups


def _first_words(commands: dict[str, Any]) -> str:
    return " ".join(sorted({name.split()[0] for name in commands}))


def _bash(commands: dict[str, Any]) -> str:
    groups = _groups(commands)
    below = [f'    "{g} ") words="{" ".join(s)}" ;;' for g, s in groups.items()]
    options = [
        f'    "{name}") words="{" ".join(_words(command))} --help" ;;'
        for name, command in commands.items()
    ]
    lines = [
        "# bash completion for ovfuse; made by scripts/make-docs",
        "_ovfuse() {",
        '  local current=${COMP_WORDS[COMP_CWORD]} name=${COMP_WORDS[1]-} words=""',
        '  if [ "$COMP_CWORD" = 1 ]; then',
        f'    words="{_first_words(commands)} --help --version"',
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
        "    return",
        "  fi",
        "  case $name in",
        f"    {'|'.join(groups)})",
        '      if [ "$COMP_CWORD" = 2 ]; then name="$name "',
        '      else name="$name ${COMP_WORDS[2]}"; fi ;;',
        "  esac",
        "  COMPREPLY=()",
        "  case $name in",
        *below,
        *options,
        "  esac",
        '  if [[ $current == -* || $name == *" " ]]; then',
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
        "  fi",
        "}",
        "complete -o default -F _ovfuse ovfuse",
    ]
    return "\n".join(lines) + "\n"


def _zsh(commands: dict[str, Any]) -> str:
    groups = _groups(commands)
    below = [
        f'  "{g} ") compadd -- {" ".join(s)}; return ;;' for g, s in groups.items()
    ]
    options = [
        f'  "{name}") options=({" ".join(_words(command))} --help) ;;'
        for name, command in commands.items()
    ]
    lines = [
        "#compdef ovfuse",
        "# made by scripts/make-docs",
        "local name=$words[2]",
        "local -a options",
        "if (( CURRENT == 2 )); then",
        f"  compadd -- {_first_words(commands)} --help --version",
        "  return",
        "fi",
        "case $name in",
        f"  {'|'.join(groups)})",
        '    if (( CURRENT == 3 )); then name="$name "',
        '    else name="$name $words[3]"; fi ;;',
        "esac",
        "case $name in",
        *below,
        *options,
        "esac",
        "if [[ $PREFIX == -* ]]; then compadd -- $options; else _files; fi",
    ]
    return "\n".join(lines) + "\n"


def _fish(commands: dict[str, Any]) -> str:
    lines = ["# fish completion for ovfuse; made by scripts/make-docs"]
    for group, below in _groups(commands).items():
        seen = f"__fish_seen_subcommand_from {group}"
        missing = f"not __fish_seen_subcommand_from {' '.join(below)}"
        lines.append(f"complete -c ovfuse -n __fish_use_subcommand -a {group}")
        lines.append(
            f"complete -c ovfuse -f -n '{seen}; and {missing}' -a '{' '.join(below)}'"
        )
    for name, command in commands.items():
        first, _, second = name.partition(" ")
        condition = f"__fish_seen_subcommand_from {first}"
        if second:
            condition += f"; and __fish_seen_subcommand_from {second}"
        else:
            lines.append(
                f"complete -c ovfuse -n __fish_use_subcommand -a {first} "
                f"-d {_quoted(_summary(command))}"
            )
        lines += [_fish_option(condition, option) for option in _options(command)]
    return "\n".join(lines) + "\n"


def _fish_option(condition: str, option: Any) -> str:  # noqa: ANN401 - likewise
    words = "".join(
        f" -l {word[2:]}" if word.startswith("--") else f" -s {word[1:]}"
        for word in option.opts
    )
    value = "" if option.is_flag else " -r"
    about = _quoted(option.help or "")
    return f"complete -c ovfuse -n '{condition}'{words}{value} -d {about}"


def _summary(command: Any) -> str:  # noqa: ANN401 - likewise
    return (command.help or "").split("\n\n", 1)[0]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def main() -> None:
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"make-docs: {path.relative_to(_ROOT)}")


if __name__ == "__main__":
    main()
