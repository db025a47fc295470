"""An identity comes out of a file, if the TPM of this device lets it."""

from collections.abc import Mapping

from ovfuse.keys.tpm2.blob import Blob
from ovfuse.keys.tpm2.device import ChangedError, Sealed, TpmError, opened
from ovfuse.keys.tpm2.reaching import in_time, tcti_of
from ovfuse.sealed.wrapping import Identity
from ovfuse.secret import Secret

__all__ = ["unseal"]

_AGAIN = "if that was meant to be: ovfuse tpm enrol, again"


def unseal(blob: Blob, tcti: str | None = None) -> Secret:
    """Return the line `AGE-SECRET-KEY-1...`; the caller wipes it.

    Args:
        blob: what was sealed.
        tcti: how to reach the TPM; None: as tpm2-tools would.

    Raises:
        TpmError: the TPM refuses, or cannot be reached in time.
        KeyFileError: what came out is not the identity, or there is no library.
        UsageError: nobody could reach a TPM by that.
    """
    tcti = tcti_of(tcti)
    return in_time(lambda: _unseal(blob, tcti))


def _unseal(blob: Blob, tcti: str) -> Secret:
    try:
        with opened(tcti) as tpm:
            if tpm.primary_name != blob.primary:
                raise TpmError(
                    "it was enrolled with another TPM, or this one was cleared since",
                    hint=_AGAIN,
                )
            sealed = Sealed(blob.private, blob.public)
            data = tpm.unseal(sealed, [pcr.index for pcr in blob.pcrs])
    except ChangedError:
        raise TpmError(_what_changed(blob, tcti), hint=_AGAIN) from None
    recipient = Identity.from_age(data.decode("ascii", "replace")).recipient
    if recipient is None or recipient.canonical != blob.recipient:
        raise TpmError("the TPM gave another identity than was enrolled")
    return Secret(data)


def _what_changed(blob: Blob, tcti: str) -> str:
    """Say which registers differ, for people: the TPM has decided already."""
    before = {pcr.index: pcr.value for pcr in blob.pcrs}
    with opened(tcti) as tpm:
        changed = _different(before, tpm.values(sorted(before)))
    if not changed:
        return "the TPM refuses: its policy is not that of the file, or a PCR changed"
    if len(changed) == 1:
        return f"the TPM refuses: PCR {changed[0]} is not as it was when enrolled"
    names = ", ".join(map(str, changed))
    return f"the TPM refuses: PCRs {names} are not as they were when enrolled"


def _different(before: Mapping[int, str], now: Mapping[int, bytes]) -> list[int]:
    return [index for index, value in before.items() if now[index].hex() != value]
