"""How a TPM is reached, and that nobody waits for one without an end."""

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from ovfuse.errors import UsageError
from ovfuse.keys.tpm2.device import TpmError
from ovfuse.quote import quoted

__all__ = ["LIMIT_SECONDS", "in_time", "tcti_of"]

LIMIT_SECONDS: Final = 20.0
"""Slow ones need seconds for a key."""
_DEFAULT: Final = "device:/dev/tpmrm0"
_FORM: Final = re.compile(r"[a-z][a-z0-9-]*(:[^\0]*)?")
"""The name of a library's last part, never a path of one."""

_T = TypeVar("_T")


def tcti_of(named: str | None = None) -> str:
    """Return how to reach the TPM: as named, or as tpm2-tools would.

    Raises:
        UsageError: it is nothing of that kind.
    """
    tcti = named or os.environ.get("TPM2TOOLS_TCTI") or _DEFAULT
    if not _FORM.fullmatch(tcti):
        raise UsageError(
            f"{quoted(tcti)} does not say how to reach a TPM",
            hint=f"such as {_DEFAULT}",
        )
    return tcti


def in_time(call: Callable[[], _T]) -> _T:
    """Return what a call returns; a TPM that hangs is left to a thread.

    Raises:
        TpmError: it does not come back.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(LIMIT_SECONDS)
    except TimeoutError:
        raise TpmError(
            f"the TPM does not answer within {LIMIT_SECONDS:g} seconds"
        ) from None
