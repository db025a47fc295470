"""An identity that only this device's TPM 2.0 gives out, and only as it booted then.

`enrol` seals one, `unseal` gets it back. tpm2-pytss is imported when it is needed: it
is an extra (`ovfuse[tpm2]`). Threading: any thread; each call opens the TPM for itself.
"""

from ovfuse.keys.tpm2.blob import Blob
from ovfuse.keys.tpm2.enrolling import enrol, parse_pcrs
from ovfuse.keys.tpm2.unsealing import unseal

__all__ = ["Blob", "enrol", "parse_pcrs", "unseal"]
