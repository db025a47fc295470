"""Killed at any call that changes the disk, a command leaves the old or the new.

Never anything between; and the next run of it goes through and leaves nothing behind.
"""

import random
import signal
from pathlib import Path

import pytest

from tests.kill.scenarios import SCENARIOS, World, again, prepared
from tests.support.faults import KILL, Faults, Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tools,
]

_TWICE = 25


@pytest.mark.parametrize("name", [n for n, s in SCENARIOS.items() if s.goes_on])
def test_killed_at_every_call(
    name: str, world: World, server: Server, tmp_path: Path
) -> None:
    scenario = SCENARIOS[name]
    with Faults.serving(KILL, world.directory, tmp_path / "trace") as faults:
        for call in prepared(world, scenario, faults):
            world.reset()
            arguments = scenario.arguments(world)
            killed = faults.run(world.home.environment, *arguments, at=call)
            assert killed.status == -signal.SIGKILL, call
            again(world, scenario, server, call, done=scenario.holds(world))


@pytest.mark.parametrize("name", ["encrypt, first", "encrypt, third", "keygen"])
def test_killed_twice(name: str, world: World, server: Server, tmp_path: Path) -> None:
    """What cleans up after a run that was killed is killed itself."""
    scenario = SCENARIOS[name]
    rng = random.Random(name)
    with Faults.serving(KILL, world.directory, tmp_path / "trace") as faults:
        calls = prepared(world, scenario, faults)
        for _ in range(_TWICE):
            world.reset()
            pair = rng.choices(calls, k=2)
            for call in pair:
                arguments = scenario.arguments(world)
                faults.run(world.home.environment, *arguments, at=call)
                done = scenario.holds(world)
            again(world, scenario, server, pair, done=done)
