"""A view that goes on where another one was killed, without FUSE and keepers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import pytest

from ovfuse.errors import NoUsableKeyError, OvfuseError, UntrustedError
from ovfuse.keeping import PASSING
from ovfuse.keys import Unlocker
from ovfuse.view import Node, open_view
from ovfuse.view.contents import Contents
from ovfuse.view.nodes import FileNode
from ovfuse.view.tree import CipherdirView
from tests.support.keeping import Kept
from tests.support.sealed import Publisher, make_identity, make_unlocker
from tests.view.test_refresh import Model, content, go_on, read, walk

pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ovfuse.keys.history.state_directory", lambda: tmp_path / "state"
    )


@pytest.fixture(scope="module")
def publisher() -> Publisher:
    return Publisher.make()


@pytest.fixture
def in_tree(publisher: Publisher, tmp_path: Path) -> Model:
    """A model that is locked at first: one that comes before it is good."""
    (tmp_path / "tree").mkdir()
    Model(publisher, tmp_path / "tree/first", tmp_path / "plain-first").seal()
    return Model(publisher, tmp_path / "tree/org/m", tmp_path / "plain").seal()


class Start(Protocol):
    """Opens a view, with the publisher's keys if there are no others."""

    def __call__(
        self, path: Path, kept: Kept, unlocker: Unlocker | None = None
    ) -> CipherdirView: ...


@pytest.fixture
def start(publisher: Publisher) -> Iterator[Start]:
    """Opens views; what is killed is left as it is until the end."""
    opened: list[tuple[CipherdirView, Kept]] = []

    def start_one(
        path: Path, kept: Kept, unlocker: Unlocker | None = None
    ) -> CipherdirView:
        view = open_view(path, unlocker or publisher.unlocker, keeping=kept)
        opened.append((view, kept))
        return view

    yield start_one
    for view, kept in opened:
        view.close()
        kept.close()


def known(view: CipherdirView, number: int) -> Node:
    """Return the node that a successor takes for one that was told before."""
    (node, *_) = [node for _, _, node in view.every_node() if node.number == number]
    view.retain(node)
    return node


def test_locked_models_node_stays_with_its_sealing(
    tmp_path: Path, in_tree: Model, start: Start
) -> None:
    kept = Kept()
    killed = start(tmp_path / "tree", kept)
    directory = walk(killed, "org/m")
    killed.retain(directory)
    go_on(killed)
    assert content(killed, killed.lookup(directory, b"a")) == b"001"
    in_tree.seal()
    go_on(killed)
    assert read(killed, "org/m/a") == b"002"
    for _ in range(2):  # the second is killed before it did anything
        view = start(tmp_path / "tree", kept := kept.successor())
        same = known(view, directory.number)

        assert content(view, view.lookup(same, b"a")) == b"001"
        assert read(view, "org/m/a") == b"002"
    go_on(view)
    assert content(view, view.lookup(same, b"a")) == b"001"


def test_node_of_a_model_that_came_back_is_another_one(
    tmp_path: Path, in_tree: Model, start: Start
) -> None:
    kept = Kept()
    killed = start(tmp_path / "tree", kept)
    before = walk(killed, "org/m")
    killed.retain(before)
    assert content(killed, killed.lookup(before, b"a")) == b"001"
    in_tree.cipherdir.rename(tmp_path / "aside")
    go_on(killed)
    shutil.copytree(tmp_path / "aside", in_tree.cipherdir)
    go_on(killed)

    view = start(tmp_path / "tree", kept.successor())

    assert content(view, view.lookup(known(view, before.number), b"a")) == b"001"
    assert walk(view, "org/m").number != before.number


def test_node_that_was_forgotten_and_told_again_is_kept(
    tmp_path: Path, in_tree: Model, start: Start
) -> None:
    kept = Kept()
    killed = start(tmp_path / "tree", kept)
    walk(killed, "org/m/a")
    in_tree.cipherdir.rename(tmp_path / "aside")
    go_on(killed)
    shutil.copytree(tmp_path / "aside", in_tree.cipherdir)
    go_on(killed)
    directory = walk(killed, "org/m")
    for _ in range(2):
        killed.release(directory)
        killed.retain(directory)

    view = start(tmp_path / "tree", kept.successor())

    assert walk(view, "org/m").number == directory.number


def test_records_are_dropped_before_the_same_can_be_kept_again(
    tmp_path: Path, in_tree: Model, start: Start
) -> None:
    """By another thread, whose record would be dropped in their stead."""
    numbers: list[bool] = []

    class Dropping(Kept):
        def drop(self, name: str) -> None:
            if name.startswith("file/"):
                numbers.append(contents._lock.locked())
            if name.startswith("sealing/"):
                numbers.append(contents.number in view._numbers._used)
            super().drop(name)

    kept = Dropping()
    view = start(tmp_path / "tree", kept)
    node = walk(view, "org/m/a")
    contents = cast("Contents", cast("FileNode", node).owner)
    records = {f"file/{node.number:x}", f"sealing/{contents.number:x}"}
    handle = view.open(node)
    assert records <= kept.records.keys()
    handle.close()
    contents.close()

    assert numbers == [True, True]
    assert not records & kept.records.keys()


@pytest.mark.parametrize("is_above", [False, True])
def test_model_in_place_of_a_directory_waits_for_its_turn(
    tmp_path: Path, publisher: Publisher, start: Start, *, is_above: bool
) -> None:
    """What was there before is in use: both have one number, and cannot be shown."""
    places = ["m", "m/y/m"]
    old, new = places if is_above else places[::-1]
    tree = tmp_path / "tree"
    tree.mkdir()
    other = Model(publisher, tree / "org/m", tmp_path / "plain").seal()
    shutil.copytree(other.cipherdir, tree / old)
    kept = Kept()
    killed = start(tree, kept)
    node = walk(killed, f"{old}/a")
    killed.retain(node)
    handles = [killed.open(node)]
    shutil.rmtree(tree / "m")
    shutil.copytree(other.cipherdir, tree / new)
    for follows in (False, True):
        if follows:
            go_on(killed)
            assert read(killed, f"{new}/a") == b"001"

        view = start(tree, kept.successor())

        same = known(view, node.number)
        handles.append(view.reopen(same))
        assert handles[-1].read_into(0, memoryview(bytearray(3))) == 3
        go_on(view)
        assert read(view, f"{new}/a") == b"001"
    for handle in handles:
        handle.close()


# Without the keys, as after a restart


def test_keys_that_are_not_kept_are_found_and_kept_again(
    tmp_path: Path, in_tree: Model, start: Start
) -> None:
    kept = Kept()
    killed = start(tmp_path / "tree", kept)
    node = walk(killed, "org/m/a")
    killed.retain(node)
    handle = killed.open(node)
    for _ in range(2):  # the version before is kept on disk
        in_tree.seal()
    go_on(killed)
    sealings = [name for name in kept.records if name.startswith("sealing/")]
    keys = {name: kept.records[name][2] for name in sealings}
    assert len(set(keys.values())) == len(sealings) == 3

    view = start(tmp_path / "tree", kept := kept.restarted())

    assert read(view, "org/m/a") == b"003"
    again = view.reopen(known(view, node.number))
    buffer = bytearray(3)
    assert again.read_into(0, memoryview(buffer)) == len(buffer)
    assert buffer == b"001"
    assert {name: kept.records[name][2] for name in sealings} == keys
    again.close()
    handle.close()


@pytest.mark.parametrize("is_trusted", [False, True])
def test_nothing_is_gone_on_with_that_nobody_could_open_now(
    tmp_path: Path,
    publisher: Publisher,
    in_tree: Model,
    start: Start,
    *,
    is_trusted: bool,
) -> None:
    kept = Kept()
    walk(start(in_tree.cipherdir, kept), "a")
    trusted = [publisher.signing_key.public] if is_trusted else []
    identity = make_identity() if is_trusted else publisher.identity
    error: type[OvfuseError] = NoUsableKeyError if is_trusted else UntrustedError

    kept = kept.restarted()

    with pytest.raises(error):
        start(in_tree.cipherdir, kept, make_unlocker([identity], trusted))

    assert not [name for name in kept.records if name.startswith("sealing/")]


def test_model_that_is_lost_holds_up_no_other(
    tmp_path: Path, publisher: Publisher, in_tree: Model, start: Start
) -> None:
    other = Publisher.make()
    both = make_unlocker(
        [publisher.identity, other.identity],
        [publisher.signing_key.public, other.signing_key.public],
    )
    Model(other, tmp_path / "tree/other", tmp_path / "plain-other").seal()
    kept = Kept()
    killed = start(tmp_path / "tree", kept, both)
    assert read(killed, "org/m/a") == read(killed, "other/a") == b"001"

    view = start(tmp_path / "tree", kept.restarted())

    assert read(view, "org/m/a") == b"001"
    with pytest.raises(UntrustedError):
        read(view, "other/a")


def test_file_that_was_just_closed_is_not_kept_any_more(
    tmp_path: Path, in_tree: Model, start: Start
) -> None:
    """Killed in between: nobody would take its object, and nobody close it."""
    kept = Kept()
    killed = start(in_tree.cipherdir.parents[1], kept)
    closed, still_open = walk(killed, "org/m/a"), walk(killed, "org/m/b")
    for node in (closed, still_open):
        killed.retain(node)
        killed.open(node)
    view = start(in_tree.cipherdir.parents[1], kept := kept.successor())
    handle = view.reopen(known(view, still_open.number))

    with view.follow(lambda _: None):
        left = [name for name in kept.records if name.startswith(PASSING)]
    assert left == [f"{PASSING}{still_open.number:x}"]
    handle.close()
