"""Where configuration lives."""

from pathlib import Path

import pytest

from ovfuse.keys.places import SYSTEM_DIRECTORY, state_directory, user_directory


@pytest.mark.parametrize(
    ("xdg", "home", "expected"),
    [
        ("/xdg", "/home/me", "/xdg/ovfuse"),
        ("/xdg", "", "/xdg/ovfuse"),
        ("", "/home/me", "/home/me/.config/ovfuse"),
        ("relative", "/home/me", "/home/me/.config/ovfuse"),
        ("relative", "relative", None),
        ("", "", None),
    ],
)
def test_user_directory(
    monkeypatch: pytest.MonkeyPatch, xdg: str, home: str, expected: str | None
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", xdg)
    monkeypatch.setenv("HOME", home)

    assert user_directory() == (None if expected is None else Path(expected))


@pytest.mark.parametrize(
    ("uid", "xdg", "home", "expected"),
    [
        (0, "", "/root", "/var/lib/ovfuse"),
        (0, "relative", "/home/me", "/var/lib/ovfuse"),
        (0, "/xdg", "", "/xdg/ovfuse"),
        (1000, "", "/home/me", "/home/me/.local/state/ovfuse"),
        (1000, "relative", "/home/me", "/home/me/.local/state/ovfuse"),
        (1000, "/xdg", "/home/me", "/xdg/ovfuse"),
        (1000, "", "", None),
    ],
)
def test_state_directory(
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    xdg: str,
    home: str,
    expected: str | None,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setenv("XDG_STATE_HOME", xdg)
    monkeypatch.setenv("HOME", home)

    assert state_directory() == (None if expected is None else Path(expected))


def test_no_environment_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("HOME")

    assert user_directory() is None


def test_system_directory() -> None:
    assert Path("/etc/ovfuse") == SYSTEM_DIRECTORY
