"""The containers that all tests of units share."""

from collections.abc import Iterator

import pytest

from tests.boot.service import installed
from tests.support.container import SUITES, Container


@pytest.fixture(scope="session", params=SUITES)
def container(request: pytest.FixtureRequest) -> Iterator[Container]:
    """One for each version of Debian; see `installed`."""
    suite: str = request.param
    with installed(suite) as container:
        yield container
