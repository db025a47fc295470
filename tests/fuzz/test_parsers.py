"""Every target on its corpus and on mutations from a seed: the same ones each time."""

import random
import resource
import time
from collections.abc import Iterator

import pyrage
import pytest

from ovfuse.errors import KeyFileError
from ovfuse.sealed.wrapping import Identity, unwrap
from tests.fuzz.mutations import byte_mutator
from tests.fuzz.parsers_of_keys import own_identity, ssh_rsa_key
from tests.fuzz.targets import CORPUS, Target, all_targets

NAMES = sorted(path.name for path in CORPUS.iterdir())
MUTATIONS = 3000
MUTATIONS_OF_SLOW = 150
MOST_SECONDS = 5.0
MOST_MEMORY = 300 << 20


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    with all_targets() as made:
        yield made


def mutations(target: Target, known: list[bytes]) -> Iterator[bytes]:
    rng = random.Random(target.name)
    mutate = byte_mutator(rng)
    for _ in range(MUTATIONS_OF_SLOW if target.slow else MUTATIONS):
        data = rng.choice(known)
        if target.mutator is None or rng.random() < 0.3:
            yield mutate(data, target.max_size)
        else:
            yield target.mutator(data, rng, target.max_size, mutate)


def check(target: Target, data: bytes, what: str) -> bool:
    """Check one input, and how long it takes; an assertion names it."""
    begin = time.monotonic()
    try:
        accepted = target.check(data)
    except BaseException as error:
        error.add_note(f"{target.name}, {what}: {data!r}")
        raise
    assert time.monotonic() - begin < MOST_SECONDS, (target.name, what, data)
    return accepted


def test_every_target_has_a_corpus(targets: dict[str, Target]) -> None:
    assert sorted(targets) == NAMES
    assert all(target.corpus for target in targets.values())


@pytest.mark.parametrize("name", NAMES)
def test_corpus_and_mutations(name: str, targets: dict[str, Target]) -> None:
    target = targets[name]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    corpus = [check(target, data, file) for file, data in target.corpus.items()]
    seeds = target.seeds()
    for number, data in enumerate(seeds):
        corpus.append(check(target, data, f"seed {number}"))
    assert True in corpus
    assert False in corpus
    known = [*target.corpus.values(), *seeds]
    for number, data in enumerate(mutations(target, known)):
        check(target, data, f"mutation {number}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown << 10 < MOST_MEMORY


@pytest.mark.parametrize("prime", [b"\0", b"\1", b""])
def test_numbers_that_do_not_fit_are_refused_silently(
    capfd: pytest.CaptureFixture[str], prime: bytes
) -> None:
    """The age library would panic at them, with lines of its own on stderr."""
    with pytest.raises(KeyFileError, match="not an SSH private key"):
        Identity.from_openssh(ssh_rsa_key(prime))
    assert capfd.readouterr().err == ""


def test_library_that_panics_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raises then is no Exception: one bad key file would end the program."""
    with pytest.raises(BaseException, match="index out of bounds") as raised:
        pyrage.ssh.Recipient.from_str("ssh-rsa AAAAB3NzaC1yc2EAAAAAAAAAAQA=")
    panic = raised.value
    assert not isinstance(panic, Exception)

    def give_up(*_: object) -> bytes:
        raise panic

    monkeypatch.setattr(pyrage, "decrypt", give_up)
    identities: list[Identity] = [own_identity()]
    assert unwrap(b"a key file", identities) is None
