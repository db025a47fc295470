"""What this machine has that a mount needs, what it has that leaks, and its units.

Used by the doctor command. Each check is one function that reads the system and
returns findings; nothing is changed. Any thread.
"""

from collections.abc import Callable, Iterator
from typing import Final

from ovfuse.serve.doctor import leaks, machine, units
from ovfuse.serve.doctor.finding import Finding

__all__ = ["Finding", "examine"]

_CHECKS: Final[tuple[Callable[[], Iterator[Finding]], ...]] = (
    machine.kernel,
    machine.device,
    machine.helper,
    machine.library,
    machine.limits,
    leaks.swap,
    leaks.hibernation,
    leaks.core_dumps,
    machine.clock,
    machine.readahead,
    units.units,
)


def examine() -> list[Finding]:
    """Return the findings of all checks, in a fixed order."""
    return [finding for check in _CHECKS for finding in check()]
