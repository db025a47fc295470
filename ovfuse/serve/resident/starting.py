"""Whether a mount keeps files in memory: the user's word, and what the kernel can.

Used by the engine, once.
"""

import errno
import logging
from typing import TYPE_CHECKING

from ovfuse.serve.resident.budget import Budget
from ovfuse.serve.resident.files import ResidentFiles, make_resident_files
from ovfuse.serve.resident.policy import ALWAYS, NEVER

if TYPE_CHECKING:
    from ovfuse.serve.engine import Setup

__all__ = ["start_resident_files"]

_log = logging.getLogger(__name__)


def start_resident_files(
    setup: "Setup", connection: int, *, has_passthrough: bool
) -> ResidentFiles | None:
    """Return what keeps them; None if nothing is to be, or can be, kept.

    Args:
        setup: of the mount.
        connection: the descriptor on which the kernel sends its requests.
        has_passthrough: whether the kernel agreed to read from files of ours.
    """
    options = setup.options
    if options.resident == NEVER:
        return None
    budget = Budget(options.resident_max, options.resident_user_max)
    try:
        if not has_passthrough:
            raise OSError(errno.ENOSYS, "the kernel is older than Linux 6.9")
        resident = make_resident_files(connection, budget, setup.keeping)
    except OSError as error:
        if options.resident == ALWAYS:
            _log.warning("files are not kept in memory: %s", error.strerror)
        return None
    setup.usage.follow(resident.usage)
    return resident
