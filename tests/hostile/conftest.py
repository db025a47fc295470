"""What the tests of hostile cipherdirs share: places, people, a published model."""

from pathlib import Path

import pytest

from ovfuse.sealed.wrapping import Identity
from tests.hostile.published import make_published
from tests.support import places
from tests.support.mounting import Home, succeed
from tests.support.sealed import make_identity

scratch, shared = places.scratch, places.shared


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here."""
    monkeypatch.setattr("ovfuse.sealed.sealer.sync_filesystem", lambda _: None)
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="session")
def identity() -> Identity:
    """Who may open everything here."""
    return make_identity()


@pytest.fixture(scope="session")
def home(shared: Path) -> Home:
    """An account with an identity, which trusts the publisher below."""
    home = Home(directory=shared / "home")
    succeed(home, "keygen")
    key = make_published().signer
    trusted = home.config / "trusted" / "publisher.pub"
    trusted.write_text(f"{key.line}\n")
    trusted.chmod(0o644)
    return home
