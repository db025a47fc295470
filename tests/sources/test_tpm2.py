"""`tpm2:` and `ovfuse tpm enrol`, with a TPM in software that behaves as a real one."""

import base64
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ovfuse.cli import tpm as tpm_command
from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.sources.tpm2 import Tpm2Source
from ovfuse.keys.tpm2 import enrol, parse_pcrs, reaching
from ovfuse.keys.tpm2.blob import Blob
from ovfuse.keys.tpm2.device import opened, policy_of
from ovfuse.secret import Secret
from tests.sources.conftest import with_variables
from tests.support.mounting import Home, refused, succeed
from tests.support.tpm import Tpm, tpm_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.tools


@pytest.fixture(autouse=True)
def _reached(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM2TOOLS_TCTI", tpm.tcti)


@pytest.fixture
def at(device: Home, tpm: Tpm) -> Home:
    """The device, with its TPM."""
    return with_variables(device, TPM2TOOLS_TCTI=tpm.tcti)


@pytest.fixture
def enrolled(scratch: Path, identity: Path) -> Path:
    """The identity of the device, in a file."""
    path = scratch / "identity.tpm2"
    with Secret(identity.read_bytes()) as secret:
        path.write_bytes(enrol(secret, (7,)).to_bytes())
    path.chmod(0o600)
    return path


def read(path: Path) -> bytes:
    with Tpm2Source(path).read() as secret:
        return bytes(secret.view)


def failure(path: Path) -> str:
    """Return what the error says; nothing of the identity is in it."""
    with pytest.raises(KeyFileError) as caught:
        read(path)
    message = caught.value.message
    assert message.startswith(f"'tpm2:{path}': ")
    assert message.isprintable()
    assert "SECRET" not in message
    return message


def fields_of(path: Path) -> dict[str, Any]:
    fields = json.loads(path.read_text())
    assert isinstance(fields, dict)
    return fields


# The command


def test_new_identity_opens_what_is_sealed_for_it(
    at: Home, publisher: Home, plain: Path, scratch: Path
) -> None:
    said = succeed(at, "tpm", "enrol", scratch / "new.tpm2")
    recipient = said.splitlines()[0].removeprefix("recipient: ")
    succeed(publisher, "encrypt", "-r", recipient, plain, scratch / "sealed")

    assert f"use it by: -i 'tpm2:{scratch / 'new.tpm2'}'" in said
    assert (scratch / "new.tpm2").stat().st_mode & 0o777 == 0o600
    succeed(at, "verify", "-i", f"tpm2:{scratch / 'new.tpm2'}", scratch / "sealed")


def test_identity_of_which_there_is_a_backup(
    at: Home, identity: Path, recipient: str, sealed: Path, scratch: Path
) -> None:
    words = ("tpm", "enrol", "-i", identity, "--pcrs", "7+23", "--allow-zero-pcrs")
    said = succeed(at, *words, scratch / "mine.tpm2")

    assert f"recipient: {recipient}\n" in said
    succeed(at, "verify", "-i", f"tpm2:{scratch / 'mine.tpm2'}", sealed)
    pcrs = fields_of(scratch / "mine.tpm2")["pcrs"]
    assert [pcr["index"] for pcr in pcrs] == [7, 23]


def test_nothing_of_the_identity_is_in_the_file(enrolled: Path, identity: Path) -> None:
    (line,) = [x for x in identity.read_text().splitlines() if x[:1] == "A"]
    data = enrolled.read_bytes()
    fields = fields_of(enrolled)
    decoded = b"".join(base64.b64decode(fields[name]) for name in ("private", "public"))

    assert read(enrolled).decode() == line
    for form in (line, line.lower(), line[16:40]):
        assert form.encode() not in data + decoded


def test_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/of/user")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert tpm_command._default_path() == Path("/etc/ovfuse/identity.tpm2")

    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert tpm_command._default_path() == Path("/of/user/ovfuse/identity.tpm2")


def test_file_that_is_there_is_not_replaced(at: Home, enrolled: Path) -> None:
    before = enrolled.read_bytes()

    assert "is not replaced" in refused(at, KeyFileError, "tpm", "enrol", enrolled)
    assert enrolled.read_bytes() == before


def test_registers_without_a_measurement_are_refused(at: Home, scratch: Path) -> None:
    for pcrs in ("0", "7,14"):
        words = ("tpm", "enrol", "--pcrs", pcrs, scratch / "x")
        said = refused(at, KeyFileError, *words)
        assert "is all zeros: nothing was measured into it" in said
        assert "--allow-zero-pcrs" in said
    assert "is all ones" in refused(
        at, KeyFileError, "tpm", "enrol", "--pcrs", "17", scratch / "x"
    )
    assert not (scratch / "x").exists()


def test_what_a_tpm_does_not_take(
    at: Home, scratch: Path, tmp_path: Path, identity: Path
) -> None:
    (tmp_path / "two").write_bytes(identity.read_bytes() * 2)
    (tmp_path / "two").chmod(0o600)
    words = ("tpm", "enrol", "-i", tmp_path / "two", scratch / "x")

    assert "a TPM takes one age identity" in refused(at, KeyFileError, *words)
    assert not (scratch / "x").exists()


@pytest.mark.parametrize("text", ["", "24", "-1", "7,", "x", "7-9", "07", "\u0667"])
def test_what_names_no_registers(text: str) -> None:
    with pytest.raises(UsageError):
        parse_pcrs(text)


def test_registers_are_sorted() -> None:
    assert parse_pcrs("7") == (7,)
    assert parse_pcrs("14,0+7,7") == (0, 7, 14)


def test_no_tpm(at: Home, scratch: Path, enrolled: Path) -> None:
    words = ("tpm", "enrol", "--tcti", "device:/dev/null/none", scratch / "x")
    said = refused(at, KeyFileError, *words)
    assert "no TPM can be reached by 'device:/dev/null/none'" in said
    nowhere = with_variables(at, TPM2TOOLS_TCTI="swtpm:port=1")
    said = refused(nowhere, KeyFileError, "verify", "-i", f"tpm2:{enrolled}", scratch)
    assert "no TPM can be reached" in said


@pytest.mark.parametrize("tcti", ["/tmp/evil.so", "../x:y", "Device", ":x"])
def test_library_is_not_named_by_a_path(at: Home, scratch: Path, tcti: str) -> None:
    refused(at, UsageError, "tpm", "enrol", "--tcti", tcti, scratch / "x")


def test_owner_hierarchy_with_a_password(tpm: Tpm) -> None:
    import tpm2_pytss as tss

    with tss.ESAPI(tpm.tcti) as api:
        api.hierarchy_change_auth(tss.ESYS_TR.OWNER, "word")
    with pytest.raises(KeyFileError, match="its owner hierarchy has a password"):
        enrol(None, (7,))


# The policy


def test_policy_is_that_of_the_tpm(tpm: Tpm) -> None:
    """Computed here, and by the TPM in a trial session."""
    import tpm2_pytss as tss

    with tss.ESAPI(tpm.tcti) as api:
        session = api.start_auth_session(
            tss.ESYS_TR.NONE,
            tss.ESYS_TR.NONE,
            tss.TPM2_SE.TRIAL,
            tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL),
            tss.TPM2_ALG.SHA256,
        )
        api.policy_pcr(session, None, "sha256:0,7,23")
        expected = bytes(api.policy_get_digest(session))
        api.flush_context(session)
        _, _, digests = api.pcr_read("sha256:0,7,23")
    values = dict(zip((0, 7, 23), map(bytes, digests), strict=True))

    assert policy_of(values) == expected


def test_register_that_changed(
    at: Home, tpm: Tpm, enrolled: Path, sealed: Path
) -> None:
    words = ("verify", "-i", f"tpm2:{enrolled}", sealed)
    succeed(at, *words)
    tpm.extend(8)
    succeed(at, *words)
    tpm.extend(7)

    said = refused(at, KeyFileError, *words)
    assert "the TPM refuses: PCR 7 is not as it was when enrolled\n" in said
    assert "hint: if that was meant to be: ovfuse tpm enrol, again" in said


def test_all_registers_that_changed_are_named(
    tpm: Tpm, identity: Path, tmp_path: Path
) -> None:
    with Secret(identity.read_bytes()) as secret:
        blob = enrol(secret, (7, 9, 10), allow_zero=True)
    (tmp_path / "x").write_bytes(blob.to_bytes())
    (tmp_path / "x").chmod(0o600)
    tpm.extend(7)
    tpm.extend(10)

    assert "PCRs 7, 10 are not as they were" in failure(tmp_path / "x")


def test_no_other_way_leads_to_the_secret(tpm: Tpm, enrolled: Path) -> None:
    """Neither a password, nor a policy without registers, nor moving it elsewhere."""
    import tpm2_pytss as tss

    fields = fields_of(enrolled)
    blob = Blob.parse(enrolled.read_bytes())
    public, _ = tss.TPM2B_PUBLIC.unmarshal(blob.public)
    attributes = public.publicArea.objectAttributes
    assert not attributes & tss.TPMA_OBJECT.USERWITHAUTH
    assert attributes & tss.TPMA_OBJECT.FIXEDTPM
    assert attributes & tss.TPMA_OBJECT.FIXEDPARENT
    assert fields["format"] == "ovfuse.tpm2.v1"
    with loaded(tpm, blob) as (api, item):
        with pytest.raises(tss.TSS2_Exception, match=r"auth"):
            api.unseal(item)
        session = policy_session(api)
        with pytest.raises(tss.TSS2_Exception, match="policy"):
            api.unseal(item, session1=session)
        api.flush_context(session)
        session = policy_session(api)
        api.policy_pcr(session, None, "sha256:8")
        with pytest.raises(tss.TSS2_Exception, match="policy"):
            api.unseal(item, session1=session)
        api.flush_context(session)


@contextmanager
def loaded(tpm: Tpm, blob: Blob) -> Iterator[tuple[Any, Any]]:
    """The sealed object in the TPM, for whoever wants to try something."""
    import tpm2_pytss as tss

    with opened(tpm.tcti) as found:
        private, _ = tss.TPM2B_PRIVATE.unmarshal(blob.private)
        public, _ = tss.TPM2B_PUBLIC.unmarshal(blob.public)
        item = found._api.load(found._primary, private, public)
        yield found._api, found._flushed(item)


def policy_session(api: Any) -> Any:
    import tpm2_pytss as tss

    return api.start_auth_session(
        tss.ESYS_TR.NONE,
        tss.ESYS_TR.NONE,
        tss.TPM2_SE.POLICY,
        tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL),
        tss.TPM2_ALG.SHA256,
    )


def test_nothing_is_left_in_the_tpm(tpm: Tpm, enrolled: Path) -> None:
    """There is room for three: a fourth use would fail."""
    for _ in range(5):
        read(enrolled)


# Who listens, and who tampers


def test_who_listens_learns_nothing(
    identity: Path, tpm: Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that goes to the TPM and back, as a probe on the bus would see it."""
    capture = tmp_path / "capture"
    monkeypatch.setenv("TCTI_PCAP_FILE", f"{capture}")
    monkeypatch.setenv("TPM2TOOLS_TCTI", f"pcap:{tpm.tcti}")
    path = tmp_path / "x"
    with Secret(identity.read_bytes()) as secret:
        path.write_bytes(enrol(secret, (7,)).to_bytes())
    path.chmod(0o600)
    line = read(path)
    heard = capture.read_bytes()

    assert Blob.parse(path.read_bytes()).private[2:] in heard
    assert line not in heard
    assert line[16:48] not in heard


def test_another_tpm(enrolled: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with tpm_in(tmp_path / "other") as other:
        other.extend(7)
        monkeypatch.setenv("TPM2TOOLS_TCTI", other.tcti)

        assert "with another TPM, or this one was cleared since" in failure(enrolled)


@pytest.mark.parametrize("field", ["private", "public"])
def test_no_bit_of_what_the_tpm_made_may_differ(enrolled: Path, field: str) -> None:
    whole = fields_of(enrolled)
    data = base64.b64decode(whole[field])
    for offset in range(0, len(data), 5):
        changed = bytearray(data)
        changed[offset] ^= 1 << offset % 8
        text = base64.b64encode(changed).decode()
        write_fields(enrolled, {**whole, field: text})
        assert any(
            words in failure(enrolled)
            for words in ("damaged", "refuses", "made by another TPM")
        )


def write_fields(path: Path, fields: dict[str, Any]) -> None:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    path.write_text(f"{text}\n")


def test_values_in_the_file_are_for_messages_only(tpm: Tpm, enrolled: Path) -> None:
    """Whoever writes into it what the registers have now gets nothing by that."""
    import tpm2_pytss as tss

    tpm.extend(7)
    with tss.ESAPI(tpm.tcti) as api:
        _, _, digests = api.pcr_read("sha256:7")
    fields = fields_of(enrolled)
    fields["pcrs"] = [{"index": 7, "value": bytes(digests[0]).hex()}]
    write_fields(enrolled, fields)
    assert "the TPM refuses" in failure(enrolled)
    fields["pcrs"] = [{"index": 8, "value": "00" * 32}]
    write_fields(enrolled, fields)
    assert "the TPM refuses" in failure(enrolled)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "ovfuse.tpm2.v2"},
        {"more": 1},
        {"pcrs": []},
        {"pcrs": [{"index": 24, "value": "00" * 32}]},
        {"pcrs": [{"index": 7, "value": "00"}]},
        {"pcrs": [{"index": i, "value": "00" * 32} for i in (7, 7)]},
        {"pcrs": [{"index": i, "value": "00" * 32} for i in (8, 7)]},
        {"primary": "00"},
        {"primary": "000B" + "00" * 32},
        {"private": ""},
        {"private": "A"},
        {"public": base64.b64encode(bytes(1025)).decode()},
        {"recipient": "nobody"},
        {"recipient": None},
    ],
)
def test_file_that_is_not_whole(enrolled: Path, changes: dict[str, Any]) -> None:
    write_fields(enrolled, {**fields_of(enrolled), **changes})

    failure(enrolled)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"AGE-SECRET-KEY-1X"])
def test_another_file(enrolled: Path, data: bytes) -> None:
    enrolled.write_bytes(data)

    assert "damaged" in failure(enrolled)


def test_other_identity_than_was_enrolled(enrolled: Path, tmp_path: Path) -> None:
    """Parts of another file, of the same TPM: the recipient tells them apart."""
    other = enrol(None, (7,))
    (tmp_path / "other").write_bytes(other.to_bytes())
    fields = fields_of(tmp_path / "other")
    fields["recipient"] = fields_of(enrolled)["recipient"]
    write_fields(enrolled, fields)

    assert "another identity than was enrolled" in failure(enrolled)


def test_file_that_others_can_use(enrolled: Path) -> None:
    enrolled.chmod(0o640)
    with pytest.raises(KeyFileError, match="can be used by others"):
        read(enrolled)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in failure(tmp_path / "none")


# A TPM that is slow, and one that dies


def test_tpm_that_hangs(
    tpm: Tpm, enrolled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "LIMIT_SECONDS", 1.0)
    tpm.stop()

    assert "the TPM does not answer within 1 seconds" in failure(enrolled)
    tpm.go_on()
    wait_until(lambda: opens(enrolled))  # there is room when the other call has ended


def opens(path: Path) -> bool:
    with suppress(KeyFileError):
        return b"AGE-SECRET-KEY-1" in read(path)
    return False


def test_tpm_that_dies_halfway(tpm: Tpm, enrolled: Path) -> None:
    tpm.stop()
    killer = threading.Timer(0.5, tpm.kill)
    killer.start()

    said = failure(enrolled)
    killer.join()
    assert "no TPM can be reached" in said or "refuses" in said


def test_no_library(enrolled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)

    assert "needs tpm2-pytss" in failure(enrolled)
