"""Commands that change a disk: what there is before, and what may be there afterwards.

A scenario is worked through again and again in one place, since paths are part of
what is remembered: `World.reset` puts back what was there before.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    KeyFileError,
    OutputError,
    OvfuseError,
    UsageError,
)
from ovfuse.keys.identities import parse_identities
from ovfuse.keys.own import read_signing_key
from ovfuse.keys.trusted import parse_public_keys
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.wrapping import Identity
from tests.support.faults import Call, Faults, Server
from tests.support.mounting import Home, succeed
from tests.support.sealed import opened, read_at, stream, write_files

__all__ = ["SCENARIOS", "Scenario", "World", "again", "prepared"]

OLDEST = {"model.xml": b"<oldest/>", "sub/model.bin": b"0" * 100}
OLD = {"model.xml": b"<old/>", "sub/model.bin": b"1" * 70_000}
NEW = {"model.xml": b"<new/>", "sub/other.bin": b"2" * 70_000, "empty": b""}

_HEX = "[0-9a-f]{32}"
_KNOWN_FILES = re.compile(
    "|".join(
        (
            r"(plain|output)/.*|other\.pub|device\.txt|run",
            r"home/config/ovfuse/(identity\.txt|signing_key(\.pub)?)",
            rf"home/config/ovfuse/trusted/{_HEX}\.pub",
            rf"home/state/ovfuse/seen/(lock|{_HEX}\.json)",
            r"model/model\.ovfuse",
            rf"model/seals/{_HEX}/(manifest\.dsse\.json|blocks|objects/{_HEX})",
            rf"model/seals/{_HEX}/keys/{_HEX}\.age",
        )
    )
)


@dataclass(frozen=True)
class World:
    """A directory with a home, a model directory and a sealed model.

    Attributes:
        directory: where it all is.
        saved: beside it, what was there before.
    """

    directory: Path
    saved: Path

    @property
    def home(self) -> Home:
        return Home(directory=self.directory / "home")

    @property
    def plain(self) -> Path:
        return self.directory / "plain"

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def other(self) -> Path:
        """The public key of another publisher."""
        return self.directory / "other.pub"

    @property
    def device(self) -> Path:
        """The identity file of a device."""
        return self.directory / "device.txt"

    @property
    def output(self) -> Path:
        """Where plaintext is written to."""
        return self.directory / "output"

    @property
    def seals(self) -> list[str]:
        seals = self.model / "seals"
        return sorted(path.name for path in seals.iterdir()) if seals.is_dir() else []

    def save(self) -> None:
        shutil.copytree(self.directory, self.saved)

    def reset(self) -> None:
        shutil.rmtree(self.directory)
        shutil.copytree(self.saved, self.directory)

    def leftovers(self) -> list[str]:
        """Return the files that no finished command leaves, and more than it keeps."""
        files = [
            str(path.relative_to(self.directory))
            for path in self.directory.rglob("*")
            if not path.is_dir()
        ]
        found = [path for path in files if not _KNOWN_FILES.fullmatch(path)]
        return found + self.seals[2:]

    def files(self) -> dict[str, bytes] | None:
        """Return what the sealed model holds, every byte verified; None: no model.

        Raises:
            OvfuseError: it is not whole.
        """
        return self.files_for(_identity_in(self.home.identity))

    def files_for(self, identity: Identity) -> dict[str, bytes] | None:
        if not self.model.exists():
            return None
        with SealedModel.open(self.model) as model:
            if not model.is_sealed():
                return None
        with opened(self.model, identity) as sealing:
            found = {}
            for entry in sealing.manifest.files:
                found[entry.path] = stream(sealing, entry)
                assert read_at(sealing, entry, 0, entry.size) == found[entry.path]
            with SealedModel.open(self.model) as model:
                assert model.previous_finding(sealing.manifest) is None
        return found

    def is_for(self, identity_file: Path) -> bool:
        """Tell whether an identity opens the sealed model."""
        try:
            return self.files_for(_identity_in(identity_file)) is not None
        except OvfuseError:
            return False


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One command.

    Attributes:
        prepare: makes what is there before.
        arguments: of the command.
        holds: asserts what must hold, however far the command came; returns whether
            what it is for has been done.
        again: with what the command may end if it is given once more and all has
            been done.
        refusals: with what it may end if the system refuses a call.
        goes_on: whether it can be given once more after it was killed.
    """

    prepare: Callable[[World], None]
    arguments: Callable[[World], list[str | Path]]
    holds: Callable[[World], bool]
    refusals: tuple[type[OvfuseError], ...]
    again: type[OvfuseError] | None = None
    goes_on: bool = True


# Before


def _nothing(_world: World) -> None:
    pass


def _keys(world: World) -> None:
    write_files(world.plain, OLDEST)
    succeed(world.home, "keygen")


def _sealed_twice(world: World) -> None:
    _keys(world)
    for content in (OLDEST, OLD):
        shutil.rmtree(world.plain)
        write_files(world.plain, content)
        succeed(world.home, "encrypt", world.plain, world.model)


def _new_content(world: World) -> None:
    _sealed_twice(world)
    shutil.rmtree(world.plain)
    write_files(world.plain, NEW)


def _device(world: World) -> None:
    _sealed_twice(world)
    succeed(world.home, "keygen", "-o", world.device)


def _device_added(world: World) -> None:
    _device(world)
    succeed(world.home, *_changing_recipients("add", world))


def _other_publisher(world: World) -> None:
    _keys(world)
    key = world.directory / "other"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "other", "-f", key],
        check=True,
    )
    key.unlink()


def _other_trusted(world: World) -> None:
    _other_publisher(world)
    succeed(world.home, "trust", "add", world.other)


def _seen_before(world: World) -> None:
    """The new version came from elsewhere: the state knows the old one."""
    _new_content(world)
    seen = world.home.directory / "state"
    kept = seen.with_name("kept")
    shutil.copytree(seen, kept)
    succeed(world.home, "encrypt", world.plain, world.model)
    shutil.rmtree(seen)
    kept.rename(seen)


# Commands


def _changing_recipients(action: str, world: World) -> list[str | Path]:
    return ["recipients", action, world.model, "-r", _recipient_in(world.device)]


def _fingerprint(path: Path) -> str:
    (key,) = parse_public_keys(path)
    return key.fingerprint


def files_in(directory: Path) -> dict[str, bytes]:
    """Return the content of all files below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def _identity_in(path: Path) -> Identity:
    (identity,) = parse_identities(path.read_bytes(), path)
    return identity


def _recipient_in(path: Path) -> str:
    recipient = _identity_in(path).recipient
    assert recipient is not None
    return recipient.canonical


# Afterwards


def _keys_hold(world: World) -> bool:
    """Each file is missing or whole and closed to others; nothing else is trusted.

    The public half comes last: once it is there, the key is trusted.
    """
    config = world.home.config
    public, private = world.home.public_key, config / "signing_key"
    if world.home.identity.exists():
        _identity_in(world.home.identity)
        assert world.home.identity.stat().st_mode & 0o077 == 0
    if private.exists():
        assert private.stat().st_mode & 0o077 == 0
        key = read_signing_key(private).public
        assert _trusted(world) <= {key.fingerprint}
        if public.exists():
            assert parse_public_keys(public) == [key]
            assert key.fingerprint in _trusted(world)
    else:
        assert not _trusted(world)
    return all(path.exists() for path in (world.home.identity, private, public))


def _device_holds(world: World) -> bool:
    if not world.device.exists():
        return False
    _identity_in(world.device)
    assert world.device.stat().st_mode & 0o077 == 0
    return True


def _first_holds(world: World) -> bool:
    """There is no model, or a whole one; a reader says that the first is unfinished."""
    try:
        found = world.files()
    except DamagedError:
        assert not (world.model / "model.ovfuse").exists()
        return False
    assert found in (None, OLDEST)
    return found is not None


def _second_holds(world: World) -> bool:
    found = world.files()
    assert found in (OLD, NEW)
    return found == NEW


def _adding_holds(world: World) -> bool:
    assert world.files() == OLD
    return world.is_for(world.device)


def _removing_holds(world: World) -> bool:
    assert world.files() == OLD
    return not world.is_for(world.device)


def _pruning_holds(world: World) -> bool:
    assert world.files() == OLD
    return len(world.seals) == 1


def _trusted(world: World) -> set[str]:
    return {_fingerprint(p) for p in (world.home.config / "trusted").glob("*.pub")}


def _trusting_holds(world: World) -> bool:
    trusted = _trusted(world)
    assert _fingerprint(world.home.public_key) in trusted
    return _fingerprint(world.other) in trusted


def _distrusting_holds(world: World) -> bool:
    return not _trusting_holds(world)


def _remembering_holds(world: World) -> bool:
    """The old state or the new: of two texts that are not the same, never a mixture."""
    assert world.files() == NEW
    (path,) = (world.home.directory / "state/ovfuse/seen").glob("*.json")
    saved = world.saved / path.relative_to(world.directory)
    texts = [text.read_bytes() for text in (path, saved)]
    assert texts[0].replace(b'"version":3}', b'"version":2}')[-14:] == texts[1][-14:]
    assert texts[0].endswith(b"}")
    return texts[0] != texts[1]


def _decrypting_holds(world: World) -> bool:
    assert world.files() == OLD
    if not world.output.exists():
        return False
    assert files_in(world.output) == OLD
    return True


def _all_of(names: Iterable[str]) -> Callable[[World], list[str | Path]]:
    words: list[str | Path] = list(names)
    return lambda _: words


def _kinds(*kinds: type[OvfuseError]) -> tuple[type[OvfuseError], ...]:
    return kinds


def _scenarios() -> Iterator[tuple[str, Scenario]]:
    yield (
        "keygen",
        Scenario(
            prepare=_nothing,
            arguments=_all_of(["keygen"]),
            holds=_keys_hold,
            refusals=_kinds(KeyFileError),
        ),
    )
    yield (
        "keygen -o",
        Scenario(
            prepare=_nothing,
            arguments=lambda world: ["keygen", "-o", world.device],
            holds=_device_holds,
            again=KeyFileError,
            refusals=_kinds(KeyFileError),
        ),
    )
    yield (
        "encrypt, first",
        Scenario(
            prepare=_keys,
            arguments=lambda world: ["encrypt", world.plain, world.model],
            holds=_first_holds,
            refusals=_kinds(CipherdirError),
        ),
    )
    yield (
        "encrypt, third",
        Scenario(
            prepare=_new_content,
            arguments=lambda world: ["encrypt", world.plain, world.model],
            holds=_second_holds,
            refusals=_kinds(CipherdirError),
        ),
    )
    yield (
        "recipients add",
        Scenario(
            prepare=_device,
            arguments=lambda world: _changing_recipients("add", world),
            holds=_adding_holds,
            refusals=_kinds(CipherdirError),
        ),
    )
    yield (
        "recipients remove",
        Scenario(
            prepare=_device_added,
            arguments=lambda world: _changing_recipients("remove", world),
            holds=_removing_holds,
            again=UsageError,
            refusals=_kinds(CipherdirError),
        ),
    )
    yield (
        "prune",
        Scenario(
            prepare=_sealed_twice,
            arguments=lambda world: ["prune", world.model],
            holds=_pruning_holds,
            refusals=_kinds(CipherdirError),
        ),
    )
    yield (
        "trust add",
        Scenario(
            prepare=_other_publisher,
            arguments=lambda world: ["trust", "add", world.other],
            holds=_trusting_holds,
            refusals=_kinds(KeyFileError),
        ),
    )
    yield (
        "trust remove",
        Scenario(
            prepare=_other_trusted,
            arguments=lambda world: ["trust", "remove", _fingerprint(world.other)],
            holds=_distrusting_holds,
            again=KeyFileError,
            refusals=_kinds(KeyFileError),
        ),
    )
    yield (
        "decrypt",
        Scenario(
            prepare=_sealed_twice,
            arguments=lambda world: ["decrypt", world.model, world.output],
            holds=_decrypting_holds,
            again=OutputError,
            goes_on=False,
            refusals=_kinds(OutputError),
        ),
    )
    yield (
        "verify",
        Scenario(
            prepare=_seen_before,
            arguments=lambda world: ["verify", world.model],
            holds=_remembering_holds,
            refusals=(),
        ),
    )


SCENARIOS = dict(_scenarios())


# Running them


def prepared(world: World, scenario: Scenario, faults: Faults) -> list[Call]:
    """Prepare a scenario, and return the calls that its command then makes."""
    scenario.prepare(world)
    world.save()
    arguments = scenario.arguments(world)
    finished, calls = faults.calls(world.home.environment, *arguments)
    assert finished.status == 0, finished
    assert calls
    _check_end(world, scenario, "undisturbed")
    return calls


def again(
    world: World, scenario: Scenario, server: Server, at: object, *, done: bool
) -> None:
    """Run the command once more, after a run that was disturbed: now it goes through.

    Args:
        world: as the disturbed run left it.
        scenario: whose command it is.
        server: runs it.
        at: where the other run was disturbed.
        done: whether that one had done what it is for.
    """
    finished = server.run(world.home.environment, *scenario.arguments(world))
    if finished.status != 0:
        assert done, (at, finished)
        assert scenario.again is not None, (at, finished)
        assert finished.status == scenario.again.exit_code, (at, finished)
    _check_end(world, scenario, at)


def _check_end(world: World, scenario: Scenario, at: object) -> None:
    assert scenario.holds(world), at
    assert world.leftovers() == [], at
