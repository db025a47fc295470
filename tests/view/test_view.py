"""The plaintext tree of a single sealed model and of many."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    IsADirectoryNodeError,
    NotADirectoryNodeError,
    NotFoundError,
    NoUsableKeyError,
    OvfuseError,
    SupersededError,
    TermsError,
    UntrustedError,
)
from ovfuse.keys import Unlocker
from ovfuse.sealed.manifest import Manifest
from ovfuse.sealed.opening import SealedModel
from ovfuse.view import Node, open_view
from ovfuse.view.contents import Contents
from ovfuse.view.nodes import NO_PAYLOAD, node_number
from ovfuse.view.slot import ModelSlot
from ovfuse.view.tree import CipherdirView
from tests.support.encryptor import NO_TERMS, Plain, encrypt
from tests.support.sealed import (
    Publisher,
    make_identity,
    make_unlocker,
    pattern,
    signers_of,
    write_files,
    write_sealed,
)

FILES = {"b.bin": pattern(70_000), "a.xml": b"<net/>", "d/e/f": b"f", "d/g": b""}
SIZE = sum(map(len, FILES.values()))


@pytest.fixture(scope="module")
def publisher() -> Publisher:
    return Publisher.make()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = write_files(tmp_path / "source", FILES)
    (directory / "empty").mkdir()
    return directory


@pytest.fixture
def cipherdir(tmp_path: Path) -> Path:
    return tmp_path / "cipherdir"


@contextmanager
def viewing(
    cipherdir: Path,
    unlocker: Unlocker,
    *,
    strict: bool = False,
    name: str | None = None,
) -> Iterator[CipherdirView]:
    view = open_view(cipherdir, unlocker, strict=strict, name=name)
    try:
        yield view
    finally:
        view.close()


@pytest.fixture
def single(
    publisher: Publisher, source: Path, cipherdir: Path
) -> Iterator[CipherdirView]:
    publisher.seal(source, cipherdir, "org/model")
    with viewing(cipherdir, publisher.unlocker) as view:
        yield view


def make_tree(publisher: Publisher, source: Path, cipherdir: Path) -> None:
    """Make a tree: two good models, one of a stranger, one under another name."""
    (cipherdir / "org/sub").mkdir(parents=True)
    publisher.seal(source, cipherdir / "b", "b")
    publisher.seal(source, cipherdir / "org/good", "org/good")
    Publisher.make().seal(source, cipherdir / "a-stranger", "a-stranger")
    publisher.seal(source, cipherdir / "org/sub/moved", "org/moved")


@pytest.fixture
def tree(
    publisher: Publisher, source: Path, cipherdir: Path
) -> Iterator[CipherdirView]:
    make_tree(publisher, source, cipherdir)
    with viewing(cipherdir, publisher.unlocker) as view:
        yield view


PLACES = ["a-stranger", "b", "org/good", "org/sub/moved"]


def walk(view: CipherdirView, path: str) -> Node:
    node: Node = view.root
    for name in path.split("/"):
        node = view.lookup(node, name.encode())
    return node


def read(view: CipherdirView, path: str) -> bytes:
    node = walk(view, path)
    handle = view.open(node)
    try:
        buffer = bytearray(node.size + 10)
        return bytes(buffer[: handle.read_into(0, memoryview(buffer))])
    finally:
        handle.close()


def everything(view: CipherdirView, node: Node) -> Iterator[tuple[str, Node]]:
    """Yield all below a directory, by path."""
    for name, child in view.children(node):
        yield name.decode(), child
        if child.is_directory:
            for path, below in everything(view, child):
                yield f"{name.decode()}/{path}", below


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def status_of(view: CipherdirView, place: str = "") -> tuple[str, str]:
    (status,) = (s for s in view.status() if s.path == place)
    return status.state, status.reason


# One sealed model


def test_all_files_of_a_single_model(single: CipherdirView) -> None:
    found = dict(everything(single, single.root))

    assert list(found) == ["a.xml", "b.bin", "d", "d/e", "d/e/f", "d/g", "empty"]
    assert {p: read(single, p) for p, n in found.items() if not n.is_directory} == FILES
    assert single.children(found["empty"]) == ()


def test_attributes(
    single: CipherdirView, cipherdir: Path, publisher: Publisher
) -> None:
    with SealedModel.open(cipherdir) as model, model.current() as locked:
        sealed_at = locked.envelope.facts.sealed_at
    found = {"": single.root, **dict(everything(single, single.root))}

    assert {node.mtime_ns for node in found.values()} == {sealed_at * 10**9}
    assert {p: n.size for p, n in found.items() if n.size} == {
        p: len(content) for p, content in FILES.items() if content
    }
    assert {p: n.subdirectories for p, n in found.items() if n.is_directory} == {
        "": 2,
        "d": 1,
        "d/e": 0,
        "empty": 0,
    }


def test_names_are_bytes_in_their_order(
    publisher: Publisher, tmp_path: Path, cipherdir: Path
) -> None:
    names = ["é", "e\u0301", "a/x", "a-b", "\U0001f98a", "\uffff", "B"]
    write_files(tmp_path / "s", dict.fromkeys(names, b""))
    publisher.seal(tmp_path / "s", cipherdir)

    with viewing(cipherdir, publisher.unlocker) as view:
        found = [name for name, _ in view.children(view.root)]
    assert found == sorted({name.split("/")[0].encode() for name in names})


def test_handle_reads_any_part(single: CipherdirView) -> None:
    handle = single.open(walk(single, "b.bin"))
    buffer = bytearray(100)

    assert handle.read_into(65_500, memoryview(buffer)) == 100
    assert buffer == FILES["b.bin"][65_500:65_600]
    assert handle.read_into(69_990, memoryview(buffer)) == 10
    assert handle.read_into(70_000, memoryview(buffer)) == 0
    handle.close()
    handle.close()
    with pytest.raises(ValueError, match="closed"):
        handle.read_into(0, memoryview(buffer))


@pytest.mark.parametrize(
    "name", [b"none", b"A.XML", b"a.xml/", b".", b"..", b"", b"d/g"]
)
def test_name_that_is_not_there(single: CipherdirView, name: bytes) -> None:
    with pytest.raises(NotFoundError):
        single.lookup(single.root, name)


def test_file_is_no_directory(single: CipherdirView) -> None:
    file = walk(single, "a.xml")

    with pytest.raises(NotADirectoryNodeError):
        single.lookup(file, b"x")
    with pytest.raises(NotADirectoryNodeError):
        single.children(file)


@pytest.mark.parametrize("path", ["d", "empty"])
def test_directory_cannot_be_opened(single: CipherdirView, path: str) -> None:
    with pytest.raises(IsADirectoryNodeError):
        single.open(walk(single, path))


@pytest.mark.parametrize("kind", ["single", "tree"])
def test_root_cannot_be_opened(kind: str, request: pytest.FixtureRequest) -> None:
    view: CipherdirView = request.getfixturevalue(kind)

    with pytest.raises(IsADirectoryNodeError):
        view.open(view.root)


def test_totals_and_status_of_a_single_model(
    single: CipherdirView, cipherdir: Path
) -> None:
    (status,) = single.status()

    assert single.totals() == (SIZE, len(FILES))
    assert (status.name, status.path, status.version) == ("org/model", "", 1)
    assert (status.state, status.reason) == ("unlocked", "")
    assert len(status.model_id) == 32


# A tree


def test_tree_has_all_models_and_their_directories(tree: CipherdirView) -> None:
    root = tree.children(tree.root)
    org = tree.children(walk(tree, "org"))

    assert [name for name, _ in root] == [b"a-stranger", b"b", b"org"]
    assert [name for name, _ in org] == [b"good", b"sub"]
    assert [name for name, _ in tree.children(walk(tree, "org/sub"))] == [b"moved"]
    assert tree.root.subdirectories == 3
    assert walk(tree, "org").subdirectories == 2
    assert {n.size for _, n in (*root, *org)} == {0}


def test_models_of_a_tree_are_read(tree: CipherdirView) -> None:
    for place in ("b", "org/good"):
        assert {path: read(tree, f"{place}/{path}") for path in FILES} == FILES


@pytest.mark.parametrize(
    ("place", "match"),
    [("a-stranger", "not trusted"), ("org/sub/moved", "does not fit its place")],
)
def test_refused_model_does_not_affect_others(
    tree: CipherdirView, place: str, match: str
) -> None:
    node = walk(tree, place)

    with pytest.raises(UntrustedError, match=match):
        tree.lookup(node, b"a.xml")
    with pytest.raises(UntrustedError, match=match):
        tree.children(node)
    assert status_of(tree, place)[0] == "refused"
    assert read(tree, "org/good/a.xml") == FILES["a.xml"]


def test_models_are_unlocked_when_somebody_looks(tree: CipherdirView) -> None:
    def states() -> list[str]:
        return [status_of(tree, place)[0] for place in PLACES]

    # The first that opens shows that the keys are right.
    assert states() == ["refused", "unlocked", "locked", "locked"]
    assert tree.totals() == (SIZE, len(FILES))
    node = walk(tree, "org/good")
    assert states() == ["refused", "unlocked", "locked", "locked"]
    assert node.subdirectories == -1
    tree.children(node)
    assert states() == ["refused", "unlocked", "unlocked", "locked"]
    assert tree.totals() == (2 * SIZE, 2 * len(FILES))


def test_status_of_a_tree(tree: CipherdirView) -> None:
    assert [status.path for status in tree.status()] == PLACES
    refused, unlocked, locked, _ = tree.status()
    assert (refused.name, refused.model_id, refused.version) == ("", "", 0)
    assert "not trusted" in refused.reason
    assert (unlocked.name, unlocked.version, unlocked.reason) == ("b", 1, "")
    assert (locked.state, locked.reason, locked.name) == ("locked", "", "")


def test_refusal_is_told_once(
    tree: CipherdirView, caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    caplog.clear()
    node = walk(tree, "org/sub/moved")
    for _ in range(3):
        clock[0] += 10
        with pytest.raises(UntrustedError):
            tree.children(node)

    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("'org/sub/moved' is refused: its signed name is ")


def test_seals_without_pointer_are_shown_and_refused(
    publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    (cipherdir / "x/seals").mkdir(parents=True)
    publisher.seal(source, cipherdir / "y", "y")

    with viewing(cipherdir, publisher.unlocker) as view:
        with pytest.raises(DamagedError):
            view.children(walk(view, "x"))
        assert read(view, "y/a.xml") == FILES["a.xml"]


def test_model_that_is_gone_since_is_refused(
    tree: CipherdirView, cipherdir: Path
) -> None:
    node = walk(tree, "org/good")
    shutil.rmtree(cipherdir / "org")

    with pytest.raises(DamagedError, match="missing"):
        tree.children(node)


def test_locked_model_that_becomes_a_link_is_refused(
    tree: CipherdirView, cipherdir: Path
) -> None:
    node = walk(tree, "org/good")
    (cipherdir / "org/good").rename(cipherdir / "elsewhere")
    (cipherdir / "org/good").symlink_to("../elsewhere")

    with pytest.raises(DamagedError):
        tree.children(node)


# At the start


def test_no_model_at_all(publisher: Publisher, cipherdir: Path) -> None:
    (cipherdir / "directory").mkdir(parents=True)
    before = descriptors()

    with pytest.raises(CipherdirError, match="no sealed model in '"):
        open_view(cipherdir, publisher.unlocker)
    assert descriptors() == before


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_cipherdir_that_is_none(
    publisher: Publisher, cipherdir: Path, kind: str
) -> None:
    if kind == "file":
        cipherdir.touch()
    with pytest.raises(CipherdirError):
        open_view(cipherdir, publisher.unlocker)


def test_cipherdir_that_cannot_be_searched_is_closed(
    publisher: Publisher, cipherdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CipherdirError("the cipherdir: Permission denied")

    cipherdir.mkdir()
    monkeypatch.setattr("ovfuse.view.tree.find_models", fail)
    before = descriptors()

    with pytest.raises(CipherdirError):
        open_view(cipherdir, publisher.unlocker)
    assert descriptors() == before


@pytest.mark.parametrize("strict", [False, True])
def test_single_model_must_unlock(
    publisher: Publisher, source: Path, cipherdir: Path, *, strict: bool
) -> None:
    publisher.seal(source, cipherdir)
    stranger = make_unlocker([make_identity()], publisher.unlocker.trusted)
    before = descriptors()

    with pytest.raises(NoUsableKeyError, match="cipherdir': it is not sealed for any"):
        open_view(cipherdir, stranger, strict=strict)
    assert descriptors() == before


def test_tree_in_which_nothing_unlocks(
    publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    make_tree(publisher, source, cipherdir)
    stranger = make_unlocker([make_identity()], publisher.unlocker.trusted)

    with pytest.raises(UntrustedError, match="'a-stranger': it is signed by"):
        open_view(cipherdir, stranger)


def test_strict_tree_with_a_refused_model(
    publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    make_tree(publisher, source, cipherdir)
    before = descriptors()

    with pytest.raises(UntrustedError, match="'a-stranger': it is signed by"):
        open_view(cipherdir, publisher.unlocker, strict=True)
    assert descriptors() == before


def test_strict_tree_in_which_all_is_well(
    publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    cipherdir.mkdir()
    for name in ("a", "b"):
        publisher.seal(source, cipherdir / name, name)

    with viewing(cipherdir, publisher.unlocker, strict=True) as view:
        assert {status.state for status in view.status()} == {"unlocked"}


@pytest.mark.parametrize("strict", [False, True])
def test_single_model_by_name(
    publisher: Publisher, source: Path, cipherdir: Path, *, strict: bool
) -> None:
    publisher.seal(source, cipherdir, "org/model")
    unlocker = publisher.unlocker

    with viewing(cipherdir, unlocker, strict=strict, name="org/model") as view:
        assert read(view, "a.xml") == FILES["a.xml"]
    with pytest.raises(UntrustedError, match="not 'model'"):
        open_view(cipherdir, unlocker, strict=strict, name="model")


def test_tree_that_must_have_a_model(
    publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    make_tree(publisher, source, cipherdir)

    with viewing(cipherdir, publisher.unlocker, name="org/good") as view:
        assert status_of(view, "org/good")[0] == "unlocked"
        assert status_of(view, "org/sub/moved")[0] == "locked"


@pytest.mark.parametrize("name", ["good", "a-stranger", "org/moved", "none"])
def test_tree_without_the_model_it_must_have(
    publisher: Publisher, source: Path, cipherdir: Path, name: str
) -> None:
    make_tree(publisher, source, cipherdir)

    with pytest.raises(UntrustedError, match=f"no model named '{name}' unlocks"):
        open_view(cipherdir, publisher.unlocker, name=name)


@pytest.mark.parametrize(("name", "there"), [("b", True), ("c", False)])
def test_strict_tree_that_must_have_a_model(
    publisher: Publisher, source: Path, cipherdir: Path, name: str, *, there: bool
) -> None:
    cipherdir.mkdir()
    for place in ("a", "b"):
        publisher.seal(source, cipherdir / place, place)

    if there:
        with viewing(cipherdir, publisher.unlocker, strict=True, name=name) as view:
            assert {status.state for status in view.status()} == {"unlocked"}
        return
    with pytest.raises(UntrustedError, match="no model named 'c' unlocks"):
        open_view(cipherdir, publisher.unlocker, strict=True, name=name)


# Numbers


def numbers_of(view: CipherdirView) -> dict[str, int]:
    return {
        "": view.root.number,
        **{path: node.number for path, node in everything(view, view.root)},
    }


def test_numbers_of_a_single_model(
    single: CipherdirView, cipherdir: Path, publisher: Publisher
) -> None:
    with SealedModel.open(cipherdir) as model, model.current() as locked:
        payload = locked.envelope.payload_sha256
    found = numbers_of(single)

    assert found.pop("") == 1
    assert found == {path: node_number(payload, "", path) for path in found}
    with viewing(cipherdir, publisher.unlocker) as again:
        assert numbers_of(again) == {"": 1, **found}


def test_numbers_of_a_tree(publisher: Publisher, source: Path, cipherdir: Path) -> None:
    (cipherdir / "org").mkdir(parents=True)
    publisher.seal(source, cipherdir / "b", "b")
    publisher.seal(source, cipherdir / "org/c", "org/c")

    with viewing(cipherdir, publisher.unlocker) as view:
        before = walk(view, "org/c").number
        found = numbers_of(view)
        after = walk(view, "org/c").number
    assert found[""] == 1
    assert {before, after, found["org/c"]} == {node_number(NO_PAYLOAD, "org/c", "")}
    assert found["org"] == node_number(NO_PAYLOAD, "org", "")
    assert len(set(found.values())) == len(found)
    assert all(1 <= number < 2**64 for number in found.values())


def test_numbers_of_another_sealing_are_others(
    single: CipherdirView, publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    publisher.seal(source, cipherdir)
    with viewing(cipherdir, publisher.unlocker) as again:
        common = set(numbers_of(again).values()) & set(numbers_of(single).values())

    assert common == {1}


@pytest.mark.parametrize("number", [0, 1, 77])
def test_numbers_that_collide_refuse_the_model(
    publisher: Publisher,
    source: Path,
    cipherdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    publisher.seal(source, cipherdir)
    monkeypatch.setattr("ovfuse.view.contents.node_number", lambda *_: number)
    before = descriptors()

    with pytest.raises(DamagedError, match="same inode number"):
        open_view(cipherdir, publisher.unlocker)
    assert descriptors() == before


def test_numbers_that_collide_between_models_refuse_the_second(
    publisher: Publisher,
    tmp_path: Path,
    cipherdir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_files(tmp_path / "s", {"f": b"f"})
    cipherdir.mkdir()
    for name in ("a", "b"):
        publisher.seal(tmp_path / "s", cipherdir / name, name)
    monkeypatch.setattr(
        "ovfuse.view.contents.node_number",
        lambda *parts: 77 if parts[-1] == "f" else node_number(*parts),
    )

    with viewing(cipherdir, publisher.unlocker) as view:
        assert read(view, "a/f") == b"f"
        with pytest.raises(DamagedError, match="same inode number"):
            view.children(walk(view, "b"))


def test_directories_that_collide_refuse_the_tree(
    publisher: Publisher, source: Path, cipherdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(publisher, source, cipherdir)
    monkeypatch.setattr("ovfuse.view.directories.node_number", lambda *_: 77)

    with pytest.raises(DamagedError, match="same inode number"):
        open_view(cipherdir, publisher.unlocker)


# Refusals are remembered


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time of the monotonic clock, to be set."""
    now = [1000.0]
    monkeypatch.setattr("ovfuse.view.refusal.time.monotonic", lambda: now[0])
    return now


def test_refusal_is_tried_again_after_a_while(
    publisher: Publisher, source: Path, cipherdir: Path, clock: list[float]
) -> None:
    cipherdir.mkdir()
    publisher.seal(source, cipherdir / "a", "a")
    publisher.seal(source, cipherdir / "b", "b")
    pointer = cipherdir / "b/model.ovfuse"
    content = pointer.read_bytes()
    pointer.write_bytes(b"")

    with viewing(cipherdir, publisher.unlocker) as view:
        node = walk(view, "b")
        with pytest.raises(DamagedError) as first:
            view.children(node)
        pointer.write_bytes(content)
        clock[0] += 4.9
        with pytest.raises(DamagedError) as second:
            view.children(node)
        assert status_of(view, "b") == ("refused", first.value.message)
        clock[0] += 0.1
        assert len(view.children(node)) == 4
        assert status_of(view, "b") == ("unlocked", "")
    assert second.value.message == first.value.message
    assert second.value is not first.value


def test_other_refusal_is_told_too(
    publisher: Publisher,
    source: Path,
    cipherdir: Path,
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cipherdir.mkdir()
    publisher.seal(source, cipherdir / "a", "a")
    publisher.seal(source, cipherdir / "b", "b")
    (cipherdir / "b/model.ovfuse").write_bytes(b"")
    with viewing(cipherdir, publisher.unlocker) as view:
        for content in (b"", b"ovfuse 2"):
            (cipherdir / "b/model.ovfuse").write_bytes(content)
            clock[0] += 5
            with pytest.raises(OvfuseError):
                view.children(walk(view, "b"))

    assert [record.getMessage() for record in caplog.records] == [
        "'b' is refused: the pointer model.ovfuse is malformed",
        "'b' is refused: made by a newer ovfuse (format 2)",
    ]


def test_model_is_unlocked_once_by_many_threads(
    publisher: Publisher,
    source: Path,
    cipherdir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cipherdir.mkdir()
    publisher.seal(source, cipherdir / "a", "a")
    publisher.seal(source, cipherdir / "b", "b")
    unlocked: list[str] = []
    real = ModelSlot._unlock

    def count(slot: ModelSlot) -> Contents:
        unlocked.append(slot.place)
        return real(slot)

    monkeypatch.setattr(ModelSlot, "_unlock", count)
    found: list[bytes] = []
    barrier = threading.Barrier(5)
    with viewing(cipherdir, publisher.unlocker) as view:

        def work() -> None:
            barrier.wait()
            found.append(read(view, "b/b.bin"))

        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert found == [FILES["b.bin"]] * 5
    assert unlocked == ["a", "b"]


# While it is served


def test_handles_share_a_reader_which_the_last_one_closes(
    single: CipherdirView,
) -> None:
    node = walk(single, "b.bin")
    before = descriptors()
    handles = [single.open(node) for _ in range(5)]
    other = single.open(walk(single, "a.xml"))
    assert descriptors() == before + 2

    for handle in handles[:4]:
        handle.close()
        handle.close()
    assert descriptors() == before + 2
    buffer = bytearray(6)
    handles[4].read_into(0, memoryview(buffer))
    assert buffer == FILES["b.bin"][:6]
    handles[4].close()
    assert descriptors() == before + 1
    other.close()
    assert descriptors() == before


def test_handle_outlives_the_removal(single: CipherdirView, cipherdir: Path) -> None:
    handle = single.open(walk(single, "b.bin"))
    shutil.rmtree(cipherdir)
    buffer = bytearray(70_000)

    assert handle.read_into(0, memoryview(buffer)) == 70_000
    assert buffer == FILES["b.bin"]
    handle.close()
    assert status_of(single) == ("unlocked", "")
    with pytest.raises(DamagedError, match="missing"):
        single.open(walk(single, "a.xml"))


def test_sealing_that_was_followed_is_served_while_it_is_kept(
    single: CipherdirView, publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    (source / "a.xml").write_bytes(b"new")
    publisher.seal(source, cipherdir)

    assert read(single, "a.xml") == FILES["a.xml"]
    expected = "another sealing is on disk; mount again to see it"
    assert status_of(single) == ("unlocked", expected)


def test_sealing_that_is_gone_is_superseded(
    single: CipherdirView, publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    handle = single.open(walk(single, "b.bin"))
    for _ in range(2):
        publisher.seal(source, cipherdir)

    with pytest.raises(SupersededError):
        single.open(walk(single, "a.xml"))
    buffer = bytearray(70_000)
    handle.read_into(0, memoryview(buffer))
    assert buffer == FILES["b.bin"]
    handle.close()


def objects(cipherdir: Path) -> list[Path]:
    return list(cipherdir.glob("seals/*/objects/*"))


def test_damage_of_the_current_sealing_is_damage(
    single: CipherdirView, cipherdir: Path
) -> None:
    for path in objects(cipherdir):
        path.write_bytes(b"x")

    with pytest.raises(DamagedError):
        single.open(walk(single, "a.xml"))
    assert status_of(single) == ("unlocked", "")


def test_damage_in_the_middle_of_a_file(single: CipherdirView, cipherdir: Path) -> None:
    handle = single.open(walk(single, "b.bin"))
    (large,) = (path for path in objects(cipherdir) if path.stat().st_size > 70_000)
    with large.open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    buffer = bytearray(b"x" * 100)

    with pytest.raises(DamagedError):
        handle.read_into(50, memoryview(buffer))
    assert buffer == bytes(100)
    assert handle.read_into(65_536, memoryview(buffer)) == 100
    handle.close()


def test_failed_open_leaves_nothing_open(
    single: CipherdirView, cipherdir: Path
) -> None:
    before = descriptors()
    for damaged in objects(cipherdir):
        os.truncate(damaged, 60)
    for path in FILES:
        with pytest.raises(DamagedError):
            single.open(walk(single, path))

    assert descriptors() == before


def test_terms_that_end_while_it_is_served(
    tmp_path: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = {**NO_TERMS, "not_after": 2_000_000_000}
    made = encrypt(Plain(files={"a": b"abc"}, terms=terms), "view")
    write_sealed(made, tmp_path / "c", publisher.identity)
    now = [1_999_999_999.0]
    monkeypatch.setattr("ovfuse.view.contents.time.time", lambda: now[0])

    unlocker = make_unlocker([publisher.identity], signers_of(made))
    with viewing(tmp_path / "c", unlocker) as view:
        handle = view.open(walk(view, "a"))
        now[0] += 1
        with pytest.raises(TermsError):
            view.open(walk(view, "a"))
        buffer = bytearray(3)
        assert handle.read_into(0, memoryview(buffer)) == 3
        assert buffer == b"abc"
        handle.close()


def test_closing_wipes_the_keys(
    publisher: Publisher, source: Path, cipherdir: Path
) -> None:
    make_tree(publisher, source, cipherdir)
    before = descriptors()
    view = open_view(cipherdir, publisher.unlocker)
    view.children(walk(view, "org/good"))
    contents = [c for slot in view.slots if (c := slot.loaded()) is not None]
    keys = [bytes(c.sealing.model_key.view) for c in contents]
    assert len({*keys, bytes(32)}) == 3
    view.close()
    view.close()

    assert {bytes(c.sealing.model_key.view) for c in contents} == {bytes(32)}
    assert descriptors() == before


def test_nothing_is_opened_after_closing(single: CipherdirView) -> None:
    node = walk(single, "a.xml")
    single.close()

    with pytest.raises(SupersededError):
        single.open(node)


def test_sealed_manifest_is_what_is_shown(
    single: CipherdirView, cipherdir: Path
) -> None:
    contents = single.slots[0].loaded()

    assert contents is not None
    manifest: Manifest = contents.manifest
    assert [entry.path for entry in manifest.files] == sorted(FILES)


@pytest.mark.parametrize(
    "change", [shutil.rmtree, lambda path: path.rename(f"{path}2")]
)
def test_status_without_a_pointer_on_disk(
    single: CipherdirView, cipherdir: Path, change: Callable[[Path], object]
) -> None:
    change(cipherdir / "seals")
    (cipherdir / "model.ovfuse").unlink()

    assert status_of(single) == ("unlocked", "")
