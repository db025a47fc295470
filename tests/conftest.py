"""Set-up of every run: components that tests need, and Hypothesis."""

import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.support import known_secrets, requirements

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True
)

_REQUIRED = pytest.StashKey[frozenset[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Read the environment once; a misspelt OVFUSE_REQUIRE ends the run."""
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")
    try:
        config.stash[_REQUIRED] = requirements.required(os.environ)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(known_secrets.Plugin(), "secrets in output")


@pytest.fixture(scope="session", autouse=True)
def _state_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures of several tests, which come before what a test has of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _own_state(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen and compiled before is of one test: never of who runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose component is missing, or fail it where it is required."""
    for component in requirements.COMPONENTS:
        if item.get_closest_marker(component) is None:
            continue
        reason = requirements.missing(component)
        if reason and component in item.config.stash[_REQUIRED]:
            pytest.fail(f"required here: {component}: {reason}", pytrace=False)
        elif reason:
            pytest.skip(f"{component}: {reason}")
