"""The few commands that the TPM is given, and what its refusals mean.

A salted session encrypts what goes in and comes out: whoever listens between processor
and TPM learns nothing. The key that the salt is encrypted to is known since enrolment.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, NamedTuple

from ovfuse.errors import KeyFileError
from ovfuse.quote import quoted

__all__ = ["ChangedError", "Tpm", "TpmError", "opened", "policy_of"]

_BANK: Final = "sha256"
_SHA256: Final = 0x000B
_POLICY_PCR: Final = 0x0000017F
_SELECTION_SIZE: Final = 3
"""Bytes, for 24 registers."""
_PARENT: Final = "ecc256:aes128cfb"
_POLICY_FAIL, _INTEGRITY, _AUTH_FAIL, _BAD_AUTH = 0x9D, 0x9F, 0x8E, 0xA2
_LOCKOUT: Final = 0x921
_REASONS: Final = {
    _INTEGRITY: "the file is damaged, or was made by another TPM",
    _AUTH_FAIL: "its owner hierarchy has a password, which ovfuse does not ask for",
    _BAD_AUTH: "its owner hierarchy has a password, which ovfuse does not ask for",
    _LOCKOUT: "it is locked for a while, after too many wrong passwords",
}


class TpmError(KeyFileError):
    """The TPM refuses, or there is none."""


class ChangedError(TpmError):
    """The policy does not hold: the device is not as it was."""


class Sealed(NamedTuple):
    """What a TPM made of a secret."""

    private: bytes
    public: bytes


def policy_of(values: Mapping[int, bytes]) -> bytes:
    """Return the policy that registers have these values: TPM2_PolicyPCR, alone.

    Computed here, so that it is about what was looked at, whatever the TPM has by now.
    """
    bits = sum(1 << index for index in values)
    selection = struct.pack(">IHB", 1, _SHA256, _SELECTION_SIZE)
    selection += bits.to_bytes(_SELECTION_SIZE, "little")
    digest = hashlib.sha256(b"".join(values[index] for index in sorted(values)))
    command = _POLICY_PCR.to_bytes(4, "big")
    return hashlib.sha256(bytes(32) + command + selection + digest.digest()).digest()


@contextmanager
def opened(tcti: str) -> Iterator["Tpm"]:
    """Open a TPM for a few commands; nothing of them is left in it.

    Args:
        tcti: how to reach it, as tpm2-tools take it.

    Raises:
        TpmError: it cannot be reached, or refuses something.
        KeyFileError: there is no library for it.
    """
    tss = _library()
    with ExitStack() as stack:
        try:
            api = stack.enter_context(tss.ESAPI(tcti))
        except tss.TSS2_Exception:
            raise TpmError(
                f"no TPM can be reached by {quoted(tcti)}",
                hint="name another one in $TPM2TOOLS_TCTI, as for tpm2-tools",
            ) from None
        try:
            yield Tpm(tss, api, stack)
        except tss.TSS2_Exception as error:
            raise _explained(error.rc, error.error) from None


def _library() -> Any:  # noqa: ANN401 - a module that may not be there
    # What it would print is said by an error.
    os.environ.setdefault("TSS2_LOG", "all+NONE")
    try:
        import tpm2_pytss  # noqa: PLC0415 - an extra
    except (ImportError, OSError):
        raise KeyFileError(
            "a TPM needs tpm2-pytss, which is not installed",
            hint="pip install 'ovfuse[tpm2]'",
        ) from None
    return tpm2_pytss


def _explained(code: int, error: int) -> TpmError:
    is_of_tpm = code >> 16 == 0
    if is_of_tpm and error == _POLICY_FAIL:
        return ChangedError("the TPM refuses: the device is not as it was")
    reason = _REASONS.get(error if is_of_tpm else -1, f"it answers {code:#x}")
    return TpmError(f"the TPM refuses: {reason}")


class Tpm:
    """A TPM that is open; see `opened`.

    Args:
        tss: the library.
        api: of it, for this TPM.
        stack: with what is done in the end.
    """

    def __init__(self, tss: Any, api: Any, stack: ExitStack) -> None:  # noqa: ANN401
        self._tss = tss
        self._api = api
        self._stack = stack
        self._primary, self.primary_name = self._make_primary()

    def values(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Return what is in registers.

        Raises:
            TpmError: the TPM does not have them.
        """
        found: dict[int, bytes] = {}
        while missing := [index for index in indices if index not in found]:
            wanted = f"{_BANK}:{','.join(map(str, missing))}"
            _, selection, digests = self._api.pcr_read(wanted)
            got = _indices(selection.marshal())
            if not got or not set(got) <= set(missing) or len(got) != len(digests):
                raise TpmError(f"the TPM has no PCR {missing[0]} in a bank {_BANK}")
            found |= {i: bytes(d) for i, d in zip(got, digests, strict=True)}
        return found

    def seal(self, secret: memoryview, policy: bytes) -> Sealed:
        """Return a secret, sealed under the primary key; only the policy opens it."""
        tss = self._tss
        attributes = (
            tss.TPMA_OBJECT.FIXEDTPM
            | tss.TPMA_OBJECT.FIXEDPARENT
            | tss.TPMA_OBJECT.ADMINWITHPOLICY
            | tss.TPMA_OBJECT.NODA
        )
        template = tss.TPM2B_PUBLIC.parse(
            "keyedhash", objectAttributes=attributes, nameAlg=_BANK, authPolicy=policy
        )
        sensitive = tss.TPM2B_SENSITIVE_CREATE(
            tss.TPMS_SENSITIVE_CREATE(data=tss.TPM2B_SENSITIVE_DATA(bytes(secret)))
        )
        session = self._session(tss.TPM2_SE.HMAC)
        private, public, *_ = self._api.create(
            self._primary, sensitive, template, session1=session
        )
        area = public.publicArea
        if bytes(area.authPolicy) != policy or area.objectAttributes != attributes:
            raise TpmError("the TPM made something else than it was told to")
        return Sealed(private.marshal(), public.marshal())

    def unseal(self, sealed: Sealed, indices: Sequence[int]) -> bytes:
        """Return the secret.

        Raises:
            ChangedError: the registers are not as its policy has them.
            TpmError: it is not whole, or of another TPM.
        """
        tss = self._tss
        try:
            private, _ = tss.TPM2B_PRIVATE.unmarshal(sealed.private)
            public, _ = tss.TPM2B_PUBLIC.unmarshal(sealed.public)
        except tss.TSS2_Exception:
            raise TpmError("the file is damaged") from None
        item = self._flushed(self._api.load(self._primary, private, public))
        session = self._session(tss.TPM2_SE.POLICY)
        self._api.policy_pcr(session, None, f"{_BANK}:{','.join(map(str, indices))}")
        return bytes(self._api.unseal(item, session1=session))

    def _make_primary(self) -> tuple[Any, str]:
        """Make the key that everything is sealed under: the same one each time."""
        tss = self._tss
        attributes = (
            tss.TPMA_OBJECT.FIXEDTPM
            | tss.TPMA_OBJECT.FIXEDPARENT
            | tss.TPMA_OBJECT.SENSITIVEDATAORIGIN
            | tss.TPMA_OBJECT.USERWITHAUTH
            | tss.TPMA_OBJECT.RESTRICTED
            | tss.TPMA_OBJECT.DECRYPT
            | tss.TPMA_OBJECT.NODA
        )
        template = tss.TPM2B_PUBLIC.parse(
            _PARENT, objectAttributes=attributes, nameAlg=_BANK
        )
        handle, public, *_ = self._api.create_primary(None, template)
        return self._flushed(handle), bytes(public.get_name()).hex()

    def _session(self, kind: Any) -> Any:  # noqa: ANN401 - a type of the library
        """Start a session that encrypts; its salt is encrypted to the primary key."""
        tss = self._tss
        session = self._flushed(
            self._api.start_auth_session(
                tpm_key=self._primary,
                bind=tss.ESYS_TR.NONE,
                session_type=kind,
                symmetric=tss.TPMT_SYM_DEF(
                    algorithm=tss.TPM2_ALG.AES,
                    keyBits=tss.TPMU_SYM_KEY_BITS(sym=128),
                    mode=tss.TPMU_SYM_MODE(sym=tss.TPM2_ALG.CFB),
                ),
                auth_hash=tss.TPM2_ALG.SHA256,
            )
        )
        self._api.trsess_set_attributes(
            session,
            tss.TPMA_SESSION.CONTINUESESSION
            | tss.TPMA_SESSION.DECRYPT
            | tss.TPMA_SESSION.ENCRYPT,
        )
        return session

    def _flushed(self, handle: Any) -> Any:  # noqa: ANN401 - a handle of the library
        """Have something taken out of the TPM in the end: there is room for three."""

        def flush() -> None:
            with suppress(self._tss.TSS2_Exception):
                self._api.flush_context(handle)

        self._stack.callback(flush)
        return handle


def _indices(selection: bytes) -> list[int]:
    """Return the registers in a TPML_PCR_SELECTION of one bank, ascending."""
    start = struct.calcsize(">IHB")
    count, bank, size = struct.unpack(">IHB", selection[:start].ljust(start, b"\0"))
    if count != 1 or bank != _SHA256:
        return []
    bits = int.from_bytes(selection[start : start + size], "little")
    return [index for index in range(size * 8) if bits >> index & 1]
