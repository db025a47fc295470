"""An identity goes into a file that only this TPM opens."""

from collections.abc import Mapping, Sequence

from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.tpm2.blob import MAX_PCR, Blob, Pcr
from ovfuse.keys.tpm2.device import TpmError, opened, policy_of
from ovfuse.keys.tpm2.reaching import in_time, tcti_of
from ovfuse.keys.tpm2.unsealing import unseal
from ovfuse.quote import quoted
from ovfuse.sealed.wrapping import Identity, Recipient
from ovfuse.secret import Secret

__all__ = ["enrol", "parse_pcrs"]


def parse_pcrs(text: str) -> tuple[int, ...]:
    """Return the registers that somebody named: `7`, `0,2,7` or `0+2+7`.

    Raises:
        UsageError: those are none.
    """
    words = text.replace("+", ",").split(",")
    known = {f"{index}": index for index in range(MAX_PCR + 1)}
    if not known.keys() >= set(words):
        raise UsageError(
            f"{quoted(text)} names no PCRs", hint=f"0 to {MAX_PCR}, such as 7 or 0,2,7"
        )
    return tuple(sorted({known[word] for word in words}))


def enrol(
    identity: Secret | None,
    pcrs: Sequence[int],
    *,
    tcti: str | None = None,
    allow_zero: bool = False,
) -> Blob:
    """Seal an identity so that this TPM alone gives it out, as long as PCRs stay.

    Args:
        identity: the text of an identity file with one age identity; None: a new one.
        pcrs: ascending.
        tcti: how to reach the TPM; None: as tpm2-tools would.
        allow_zero: also if nothing was measured into one of them.

    Raises:
        KeyFileError: that is no identity, the TPM refuses or cannot be reached in
            time, or a PCR is zero.
        UsageError: nobody could reach a TPM by that.
    """
    tcti = tcti_of(tcti)
    line = Identity.generate() if identity is None else _only_line(identity)
    recipient = Identity.from_age(line).recipient
    if recipient is None:
        raise KeyFileError("the identity does not say its recipient")
    with Secret(line.encode("ascii")) as secret:
        blob = in_time(
            lambda: _seal(secret, recipient, pcrs, tcti, allow_zero=allow_zero)
        )
    unseal(blob, tcti).wipe()  # now is the time to see whether it can be
    return blob


def _seal(
    secret: Secret,
    recipient: Recipient,
    pcrs: Sequence[int],
    tcti: str,
    *,
    allow_zero: bool,
) -> Blob:
    with opened(tcti) as tpm:
        values = tpm.values(pcrs)
        if not allow_zero:
            _check_measured(values)
        sealed = tpm.seal(secret.view, policy_of(values))
        return Blob(
            format="ovfuse.tpm2.v1",
            pcrs=tuple(Pcr(index=i, value=values[i].hex()) for i in sorted(values)),
            primary=tpm.primary_name,
            private=sealed.private,
            public=sealed.public,
            recipient=recipient.canonical,
        )


def _check_measured(values: Mapping[int, bytes]) -> None:
    for index, value in sorted(values.items()):
        if len(set(value)) == 1 and value[0] in (0x00, 0xFF):
            digits = "zeros" if value[0] == 0 else "ones"
            raise TpmError(
                f"PCR {index} is all {digits}: nothing was measured into it, so that "
                "it would hold in whatever way the device is started",
                hint="choose others with --pcrs, or say --allow-zero-pcrs",
            )


def _only_line(identity: Secret) -> str:
    """Return the one age identity that an identity file holds."""
    text = bytes(identity.view).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if len(found) != 1:
        raise KeyFileError("a TPM takes one age identity (AGE-SECRET-KEY-1...)")
    return found[0]
