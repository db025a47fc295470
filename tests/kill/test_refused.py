"""Any call that changes the disk may fail: one proper error, and nothing lost or left.

Where a call was not needed for what was asked, the command may also go on without it.
"""

from pathlib import Path

import pytest

from tests.kill.scenarios import SCENARIOS, World, again, prepared
from tests.support.faults import Call, Faults, Server, fails
from tests.support.mounting import check_error_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tools,
]

_REMOVING = {"unlink", "unlinkat", "rmdir"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_refused_at_every_call(
    name: str, world: World, server: Server, tmp_path: Path
) -> None:
    scenario = SCENARIOS[name]
    action = fails("EIO")
    with Faults.serving(action, world.directory, tmp_path / "trace") as faults:
        for call in prepared(world, scenario, faults):
            world.reset()
            arguments = scenario.arguments(world)
            finished = faults.run(world.home.environment, *arguments, at=call)
            done = scenario.holds(world)
            if finished.status == 0:
                assert done or not scenario.refusals, (call, finished)
            else:
                codes = [kind.exit_code for kind in scenario.refusals]
                assert finished.status in codes, (call, finished)
                check_error_lines(finished.stderr)
            # What was done already is kept: whether it will last is not known.
            kept = done and finished.status != 0
            if call.name not in _REMOVING and not kept:
                assert world.leftovers() == [], call
            again(world, scenario, server, call, done=done)


def test_files_without_a_name_are_not_needed(
    world: World, server: Server, tmp_path: Path
) -> None:
    """Some filesystems have none: key files are then made with a temporary name."""
    scenario = SCENARIOS["keygen"]
    action = fails("EOPNOTSUPP")
    with Faults.serving(action, world.directory, tmp_path / "trace") as faults:
        calls = prepared(world, scenario, faults)
        nameless = [call for call in calls if "O_TMPFILE" in call.arguments]
        assert len(nameless) == 4
        for call in nameless:
            world.reset()
            finished = faults.run(world.home.environment, "keygen", at=call)
            assert finished.status == 0, finished
            assert scenario.holds(world)
            assert world.leftovers() == []


def test_the_call_is_the_one_that_was_meant(
    world: World, server: Server, tmp_path: Path
) -> None:
    """What the tests here rest on."""
    scenario = SCENARIOS["keygen -o"]
    with Faults.serving(fails("EIO"), world.directory, tmp_path / "trace") as faults:
        calls = prepared(world, scenario, faults)
        for name in ("linkat", "write", "fsync"):
            (call,) = (call for call in calls if call.name == name)
            world.reset()
            finished = faults.run(
                world.home.environment, *scenario.arguments(world), at=call
            )
            assert "Input/output error" in finished.stderr
            assert not world.device.exists()
            other = Call(name, call.number + 50, "")
            finished = faults.run(
                world.home.environment, *scenario.arguments(world), at=other
            )
            assert finished.status == 0
            assert scenario.holds(world)
