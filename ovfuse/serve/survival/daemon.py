"""A daemon from its fork to its end, as a child of the keeper.

Used by the keeper alone, in the child.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from ovfuse.errors import MountFailedError, OvfuseError, describe
from ovfuse.keeping import Keeping
from ovfuse.serve.background import Launch, describe_error
from ovfuse.serve.survival.channel import Channel
from ovfuse.serve.survival.unwrappers import die_with

__all__ = ["Serve", "run_daemon"]

Serve = Callable[[Launch, Keeping], None]
"""Mounts, or goes on with what was mounted, and serves to the end."""


def run_daemon(
    serve: Serve, launch: Launch, channel: Channel, keeper: int, last: signal.Signals
) -> NoReturn:
    """Serve, and leave without the keeper's half of the Python stack.

    Args:
        serve: does it.
        launch: told how the start goes.
        channel: to the keeper.
        keeper: its number.
        last: the signal to get when the keeper is killed.
    """
    code = 1
    try:
        die_with(keeper, last)
        try:
            serve(launch, channel)
            channel.tell("ended")
            code = 0
        except OvfuseError as error:
            code = error.exit_code
            channel.tell("failed", **describe_error(error))
        except Exception as error:  # noqa: BLE001  it is told to the keeper
            failed = MountFailedError(f"unexpected: {describe(error)}")
            channel.tell("failed", **describe_error(failed))
    except KeyboardInterrupt:
        code = 130
    except OSError:
        pass  # the keeper is gone
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
