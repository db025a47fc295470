"""The publisher's terms, checked against this machine and this moment.

They bind an honest ovfuse only: whoever holds the key can ignore them.
"""

import hmac
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ovfuse.errors import TermsError
from ovfuse.sealed import layout
from ovfuse.sealed.manifest import Terms

__all__ = ["check_machine", "check_period", "machine_digest"]

_MACHINE_ID_FILE: Final = Path("/etc/machine-id")


def machine_digest(machine_id_file: Path = _MACHINE_ID_FILE) -> str | None:
    """Return what `machines` of the terms holds for this machine, or None.

    None where the system has no proper machine-id (machine-id(5)).
    """
    try:
        text = machine_id_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if re.fullmatch("[0-9a-f]{32}", text) is None:
        return None
    return hmac.digest(bytes.fromhex(text), layout.MACHINE_LABEL, "sha256").hex()


def check_period(terms: Terms, now: float) -> None:
    """Check that the model may be used at `now`, seconds since 1970 UTC.

    Raises:
        TermsError: too early, or too late.
    """
    if terms.not_before is not None and now < terms.not_before:
        raise TermsError(f"not to be used before {_date(terms.not_before)}")
    if terms.not_after is not None and now >= terms.not_after:
        raise TermsError(f"not to be used since {_date(terms.not_after)}")


def check_machine(terms: Terms, machine: str | None) -> None:
    """Check that the model may be used on a machine; see `machine_digest`.

    Raises:
        TermsError: it is for others.
    """
    if terms.machines and machine not in terms.machines:
        raise TermsError("not to be used on this machine")


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # beyond the calendar's last year
        return f"second {seconds}"
