"""For all tests of the format."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for everything that anybody wrote to the test's disk."""
    monkeypatch.setattr("ovfuse.sealed.sealer.sync_filesystem", lambda _: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
