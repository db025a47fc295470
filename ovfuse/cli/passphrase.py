"""Asking for a passphrase on the terminal; nothing of it is shown or kept on disk."""

import getpass
import sys

from ovfuse.cli import terminal
from ovfuse.errors import UsageError

__all__ = ["Prompt", "ask_new_passphrase", "ask_passphrase"]


class Prompt:
    """Asks for the passphrase of a model, as long as there is a terminal to ask on."""

    def __init__(self) -> None:
        self._open = _is_terminal()

    def __call__(self, model: str) -> str | None:
        """Return what was typed, or None if nobody can be asked."""
        return ask_passphrase(model) if self._open else None

    def close(self) -> None:
        """Ask no more: the command serves now, perhaps in the background."""
        self._open = False


def ask_passphrase(about: str) -> str | None:
    """Return what was typed, or None if nobody can be asked."""
    return _typed(f"passphrase for {about}: ") if _is_terminal() else None


def ask_new_passphrase() -> str:
    """Return a new passphrase, typed twice.

    Raises:
        UsageError: there is no terminal, it is empty, or both differ.
    """
    if not _is_terminal():
        raise UsageError("-p asks for a passphrase, and there is no terminal")
    terminal.note("a passphrase that can be guessed protects nothing: use a long one")
    first = _typed("new passphrase: ")
    if not first:
        raise UsageError("the passphrase is empty")
    if first != _typed("the same again: "):
        raise UsageError("both passphrases differ")
    return first


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _typed(prompt: str) -> str | None:
    """Return what is typed, without showing it; None at the end of input."""
    try:
        return getpass.getpass(prompt)
    except EOFError:
        return None
    except UnicodeDecodeError:
        raise UsageError("what was typed is not UTF-8 text") from None
