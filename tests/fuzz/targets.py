"""Every parser of untrusted bytes, and what must hold of it whatever it is given.

A check returns whether the bytes were accepted. It raises nothing but what is a
finding: an error that is not one of the target's own, or a broken property. The
checks are run by `explore.py` (atheris), and by the tests on a corpus and on
mutations from a seed.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from tests.fuzz import (
    parsers_of_imports,
    parsers_of_keys,
    parsers_of_models,
    parsers_of_words,
)
from tests.fuzz.mutations import Mutator, mutate_age_file, mutate_json

__all__ = ["CORPUS", "Target", "all_targets"]

CORPUS = Path(__file__).with_name("corpus")

_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One parser.

    Attributes:
        name: also of its directory in the corpus.
        check: see above.
        seeds: inputs to start with, most of them accepted.
        mutator: one that keeps the structure, or None.
        max_size: of an input, in bytes.
        slow: whether an input takes milliseconds.
    """

    name: str
    check: Callable[[bytes], bool]
    seeds: Callable[[], list[bytes]]
    mutator: Mutator | None = None
    max_size: int = 4096
    slow: bool = False

    @property
    def corpus(self) -> dict[str, bytes]:
        """The committed inputs, by the names of their files."""
        paths = sorted((CORPUS / self.name).iterdir())
        return {path.name: path.read_bytes() for path in paths}


@contextmanager
def _quiet() -> Iterator[None]:
    """Let warnings go, of which there would be one for each input."""
    log = logging.getLogger("ovfuse")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def all_targets() -> Iterator[dict[str, Target]]:
    """Make all targets; their files are gone at the end."""
    with ExitStack() as stack:
        # scripts/fuzz says where: libFuzzer ends a process without any clean-up.
        memory = None if "TMPDIR" in os.environ or not _MEMORY.is_dir() else _MEMORY
        directory = Path(stack.enter_context(TemporaryDirectory(dir=memory)))
        state = {"XDG_STATE_HOME": str(directory / "state")}
        stack.enter_context(mock.patch.dict(os.environ, state))
        stack.enter_context(_quiet())
        keys = parsers_of_keys.Keys(directory)
        models = stack.enter_context(parsers_of_models.models(directory))
        words = stack.enter_context(parsers_of_words.words(directory))
        found = [
            Target(
                name="pointer",
                check=parsers_of_models.check_pointer,
                seeds=parsers_of_models.pointers,
                max_size=parsers_of_models.POINTER_SIZE,
            ),
            Target(
                name="envelope",
                check=parsers_of_models.check_envelope,
                seeds=parsers_of_models.envelopes,
                mutator=mutate_json,
                max_size=16_384,
            ),
            Target(
                name="payload",
                check=parsers_of_models.check_payload,
                seeds=parsers_of_models.payloads,
            ),
            Target(
                name="clear_facts",
                check=parsers_of_models.check_clear_facts,
                seeds=parsers_of_models.all_clear_facts,
                mutator=mutate_json,
                max_size=1024,
            ),
            Target(
                name="manifest",
                check=parsers_of_models.check_manifest,
                seeds=parsers_of_models.manifests,
                mutator=mutate_json,
                max_size=16_384,
            ),
            Target(
                name="object",
                check=models.check_object,
                seeds=models.object_programs,
                max_size=1024,
                slow=True,
            ),
            Target(
                name="model",
                check=models.check_model,
                seeds=models.model_programs,
                max_size=1024,
                slow=True,
            ),
            Target(
                name="key_file",
                check=keys.check_key_file,
                seeds=keys.key_files,
                mutator=mutate_age_file,
                max_size=2048,
            ),
            Target(
                name="public_keys",
                check=keys.check_public_keys,
                seeds=keys.public_keys,
            ),
            Target(
                name="recipients",
                check=keys.check_recipients,
                seeds=keys.recipients,
            ),
            Target(
                name="identities",
                check=keys.check_identities,
                seeds=keys.identities,
            ),
            Target(
                name="signing_key",
                check=keys.check_signing_key,
                seeds=keys.signing_keys,
                slow=True,
            ),
            Target(
                name="history",
                check=words.check_history,
                seeds=words.histories,
                mutator=mutate_json,
            ),
            Target(
                name="mount_options",
                check=parsers_of_words.check_mount_options,
                seeds=parsers_of_words.mount_options,
                max_size=8192,
            ),
            Target(
                name="control",
                check=words.check_control,
                seeds=parsers_of_words.requests,
                max_size=8192,
            ),
            Target(
                name="decrypted",
                check=parsers_of_imports.check_content,
                seeds=parsers_of_imports.contents,
            ),
        ]
        yield {target.name: target for target in found}
