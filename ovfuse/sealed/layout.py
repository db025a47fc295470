"""Names, labels and caps of format version 1; docs/format.md explains each.

Used by all of sealed/. Constants only: whoever changes one makes a new format.
"""

import re
from typing import Final

KiB: Final = 1024

FORMAT_VERSION: Final = 1

POINTER_NAME: Final = "model.ovfuse"
SEALS_NAME: Final = "seals"
ENVELOPE_NAME: Final = "manifest.dsse.json"
BLOCKS_NAME: Final = "blocks"
KEYS_NAME: Final = "keys"
KEY_SUFFIX: Final = ".age"
OBJECTS_NAME: Final = "objects"

PAYLOAD_TYPE: Final = "application/vnd.ovfuse.sealing.v1"

OBJECT_LABEL: Final = b"ovfuse.object.v1"
MANIFEST_LABEL: Final = b"ovfuse.manifest.v1"
RECIPIENT_LABEL: Final = b"ovfuse.recipient.v1"
MACHINE_LABEL: Final = b"ovfuse.machine.v1"

MODEL_KEY_SIZE: Final = 32
ID_SIZE: Final = 16

POINTER_MAX_SIZE: Final = 128
ENVELOPE_MAX_SIZE: Final = 128 * KiB * KiB
CLEAR_FACTS_MAX_SIZE: Final = 4096
SIGNATURES_MAX: Final = 16
FILES_MAX: Final = 100_000
DIRECTORIES_MAX: Final = 100_000
PATH_MAX_SIZE: Final = 4095
PATH_MAX_DEPTH: Final = 64
COMPONENT_MAX_SIZE: Final = 255
MODEL_NAME_MAX_SIZE: Final = 1024
PADDED_MAX_SIZE: Final = 2**40
MODEL_MAX_SIZE: Final = 2**44
TIME_MAX: Final = 2**33
INTEGER_MAX: Final = 2**53 - 1
EXTENSIONS_MAX: Final = 64
TEXT_MAX_SIZE: Final = 64 * KiB
MACHINES_MAX: Final = 10_000
KEY_FILES_MAX: Final = 1024
KEY_FILE_MAX_SIZE: Final = 64 * KiB
STANZAS_MAX: Final = 8
PASSPHRASE_FILES_MAX: Final = 4
SCRYPT_MAX_LOG2: Final = 20

_ID = re.compile(r"[0-9a-f]{32}")


def is_id(text: str) -> bool:
    """Tell whether `text` is an id: checked before any use as a file name."""
    return _ID.fullmatch(text) is not None
