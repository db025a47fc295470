"""A view that goes on to what changes on disk, without FUSE."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    NotFoundError,
    OvfuseError,
    RollbackError,
    SupersededError,
    TermsError,
    UntrustedError,
)
from ovfuse.keys.history import History
from ovfuse.sealed.manifest import Terms
from ovfuse.serve.known_nodes import ROOT_ID, NodeTable
from ovfuse.serve.survival.ledger import Ledger
from ovfuse.view import Change, Node, open_view
from ovfuse.view.contents import Contents
from ovfuse.view.tree import CipherdirView
from tests.support.sealed import Publisher, seal_quietly, write_files
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", f"{tmp_path / 'state'}")
    monkeypatch.setattr(
        "ovfuse.keys.history.state_directory", lambda: tmp_path / "state"
    )
    return tmp_path / "state"


@pytest.fixture(scope="module")
def publisher() -> Publisher:
    return Publisher.make()


class Model:
    """A model that is sealed again and again; each version says which it is."""

    def __init__(self, publisher: Publisher, cipherdir: Path, plain: Path) -> None:
        self.publisher = publisher
        self.cipherdir = cipherdir
        self.plain = plain
        self.version = 0

    def seal(self, publisher: Publisher | None = None) -> "Model":
        """Make the next version, by somebody else if one is named."""
        self.version += 1
        self.cipherdir.parent.mkdir(exist_ok=True)
        text = b"%03d" % self.version
        write_files(self.plain, {"a": text, "b": text * 30_000, "sub/c": text})
        request = (publisher or self.publisher).request(self.plain, self.cipherdir)
        if publisher is not None:
            request = replace(request, trusted={self.publisher.signing_key.public})
        seal_quietly(replace(request, identities=[self.publisher.identity]))
        return self

    @property
    def sealing(self) -> Path:
        """The directory of the current sealing."""
        seal_id = (self.cipherdir / "model.ovfuse").read_text().split()[2]
        return self.cipherdir / "seals" / seal_id


@pytest.fixture
def single(publisher: Publisher, tmp_path: Path) -> Model:
    return Model(publisher, tmp_path / "model", tmp_path / "plain").seal()


@pytest.fixture
def in_tree(publisher: Publisher, tmp_path: Path) -> Model:
    (tmp_path / "tree" / "org").mkdir(parents=True)
    return Model(publisher, tmp_path / "tree/org/m", tmp_path / "plain").seal()


@pytest.fixture
def views(publisher: Publisher) -> Iterator[Callable[[Path], CipherdirView]]:
    opened = []

    def view_of(path: Path) -> CipherdirView:
        view = open_view(path, publisher.unlocker)
        opened.append(view)
        view.refresh()
        return view

    yield view_of
    for view in opened:
        view.close()


Views = Callable[[Path], CipherdirView]


def walk(view: CipherdirView, path: str) -> Node:
    node: Node = view.root
    for name in filter(None, path.split("/")):
        node = view.lookup(node, name.encode())
    return node


def content(view: CipherdirView, node: Node) -> bytes:
    handle = view.open(node)
    try:
        buffer = bytearray(node.size)
        assert handle.read_into(0, memoryview(buffer)) == node.size
        return bytes(buffer)
    finally:
        handle.close()


def read(view: CipherdirView, path: str) -> bytes:
    return content(view, walk(view, path))


def names(view: CipherdirView, path: str = "") -> list[bytes]:
    return [name for name, _ in view.children(walk(view, path))]


def go_on(view: CipherdirView) -> list[Change]:
    """What the watch does."""
    changes = view.refresh()
    view.sweep()
    return changes


def reason(view: CipherdirView) -> str:
    (status,) = view.status()
    return status.reason


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def open_too_late(view: CipherdirView, model: Model, path: str) -> Node:
    """Look a file up and open it after two more sealings; return its node, retained."""
    node = walk(view, path)
    view.retain(node)
    for _ in range(2):
        model.seal()
    with pytest.raises(SupersededError):
        view.open(node)
    return node


def deleted() -> list[str]:
    """Return what is removed and open all the same."""
    descriptors = Path("/proc/self/fd").iterdir()
    links = [f"{link.readlink()}" for link in descriptors if link.is_symlink()]
    return [link for link in links if "/objects/" in link and "(deleted)" in link]


# To the next sealing


def test_single_model_goes_on(views: Views, single: Model) -> None:
    view = views(single.cipherdir)
    before = dict(view.children(view.root))
    single.seal()
    assert read(view, "a") == b"001"
    changes = go_on(view)

    assert read(view, "a") == b"002"
    (change,) = changes
    assert change.directory == view.root.number == 1
    assert sorted(change.names) == [b"@1", b"a", b"b", b"sub"]
    for name, node in view.children(view.root):
        assert node.number != before[name].number
        assert node.mtime_ns > before[name].mtime_ns
    assert view.root.mtime_ns == walk(view, "a").mtime_ns
    assert view.status()[0].version == 2
    assert go_on(view) == []


def test_model_of_a_tree_goes_on(views: Views, in_tree: Model) -> None:
    view = views(in_tree.cipherdir.parents[1])
    held = walk(view, "org/m")
    view.retain(held)
    assert content(view, view.lookup(held, b"a")) == b"001"
    in_tree.seal()
    changes = go_on(view)

    assert read(view, "org/m/a") == b"002"
    assert content(view, view.lookup(held, b"a")) == b"001"
    assert changes == [Change(walk(view, "org").number, [b"m", b"m@1"])]
    assert walk(view, "org/m").number != held.number


def test_several_sealings_at_once(views: Views, single: Model) -> None:
    view = views(single.cipherdir)
    for _ in range(4):
        single.seal()
    go_on(view)

    assert read(view, "b") == b"005" * 30_000


def test_nothing_changes_without_a_refresh(publisher: Publisher, single: Model) -> None:
    view = open_view(single.cipherdir, publisher.unlocker)
    try:
        single.seal()
        assert read(view, "a") == b"001"
        assert reason(view) == "another sealing is on disk; mount again to see it"
        with pytest.raises(NotFoundError):
            walk(view, "@1")
    finally:
        view.close()


def test_locked_model_is_not_unlocked_by_a_change(
    views: Views, in_tree: Model, publisher: Publisher, tmp_path: Path
) -> None:
    tree = in_tree.cipherdir.parents[1]
    Model(publisher, tree / "z", tmp_path / "plain-z").seal()
    view = views(tree)
    held = walk(view, "z")
    Model(publisher, tree / "z", tmp_path / "plain-z").seal()
    go_on(view)

    assert [status.state for status in view.status()] == ["unlocked", "locked"]
    assert content(view, view.lookup(held, b"a")) == b"001"
    assert view.status()[1].version == 2


def test_refused_model_is_tried_at_once_after_a_change(
    views: Views, in_tree: Model, publisher: Publisher, tmp_path: Path
) -> None:
    tree = in_tree.cipherdir.parents[1]
    other = Model(publisher, tree / "z", tmp_path / "plain-z").seal()
    pointer = (other.cipherdir / "model.ovfuse").read_bytes()
    (other.cipherdir / "model.ovfuse").write_bytes(b"")
    view = views(tree)
    with pytest.raises(OvfuseError):
        names(view, "z")
    (other.cipherdir / "model.ovfuse").write_bytes(pointer)
    with pytest.raises(OvfuseError):
        names(view, "z")
    go_on(view)

    assert read(view, "z/a") == b"001"


# Refused sealings


def _shorten(model: Model) -> None:
    largest = max(
        (model.sealing / "objects").iterdir(), key=lambda path: path.stat().st_size
    )
    os.truncate(largest, largest.stat().st_size - 1)


def _remove_an_object(model: Model) -> None:
    next((model.sealing / "objects").iterdir()).unlink()


def _damage_a_list(model: Model) -> None:
    with (model.sealing / "blocks").open("r+b") as file:
        file.write(b"x")


def _damage_the_envelope(model: Model) -> None:
    os.truncate(model.sealing / "manifest.dsse.json", 100)


def _damage_a_prefix(model: Model) -> None:
    with next((model.sealing / "objects").iterdir()).open("r+b") as file:
        file.write(b"xxx")


def _remove_the_keys(model: Model) -> None:
    for path in (model.sealing / "keys").iterdir():
        path.unlink()


def _remove_the_pointer(model: Model) -> None:
    (model.cipherdir / "model.ovfuse").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        *(_shorten, _remove_an_object, _damage_a_list, _damage_the_envelope),
        *(_damage_a_prefix, _remove_the_keys, _remove_the_pointer),
    ],
)
def test_sealing_that_is_not_whole_is_not_shown_until_a_good_one_comes(
    views: Views,
    single: Model,
    damage: Callable[[Model], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    view = views(single.cipherdir)
    shutil.copytree(single.cipherdir, tmp_path / "copy", dirs_exist_ok=True)
    single.seal()
    whole = single.sealing
    shutil.copytree(whole, tmp_path / "whole")
    pointer = (single.cipherdir / "model.ovfuse").read_bytes()
    damage(single)
    for _ in range(2):
        assert go_on(view) == []
    assert read(view, "a") == b"001"
    said = "another sealing is on disk and is refused: "
    assert reason(view).startswith(said)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    (warning,) = [line for line in warnings if "the model stays version 1" in line]
    assert warning.endswith(reason(view).removeprefix(said))

    shutil.rmtree(whole)
    shutil.copytree(tmp_path / "whole", whole)
    (single.cipherdir / "model.ovfuse").write_bytes(pointer)
    go_on(view)
    assert read(view, "a") == b"002"
    assert reason(view) == ""


def test_sealing_of_a_stranger_is_not_shown(views: Views, single: Model) -> None:
    view = views(single.cipherdir)
    single.seal(Publisher.make())
    go_on(view)

    assert read(view, "a") == b"001"
    assert "not trusted" in reason(view)


def test_refused_sealing_is_not_remembered_as_seen(
    views: Views, single: Model, publisher: Publisher, tmp_path: Path
) -> None:
    """Else its predecessor, put back, would be refused as too old."""
    shutil.copytree(single.cipherdir, tmp_path / "old")
    view = views(single.cipherdir)
    single.seal()
    _shorten(single)
    go_on(view)
    shutil.rmtree(single.cipherdir)
    shutil.copytree(tmp_path / "old", single.cipherdir)

    open_view(single.cipherdir, publisher.unlocker).close()


def test_going_back_is_refused(views: Views, single: Model) -> None:
    old = (single.cipherdir / "model.ovfuse").read_bytes()
    view = views(single.cipherdir)
    single.seal()
    go_on(view)
    (single.cipherdir / "model.ovfuse").write_bytes(old)
    go_on(view)

    assert read(view, "a") == b"002"
    assert "version 2 was seen here" in reason(view)


def test_going_back_and_forth_where_that_is_allowed(
    single: Model, publisher: Publisher
) -> None:
    unlocker = replace(publisher.unlocker, history=History(allow_rollback=True))
    view = open_view(single.cipherdir, unlocker)
    try:
        old = (single.cipherdir / "model.ovfuse").read_bytes()
        file = walk(view, "a")
        view.retain(file)
        single.seal()
        new = (single.cipherdir / "model.ovfuse").read_bytes()
        for pointer, text in ((new, b"002"), (old, b"001"), (new, b"002")) * 2:
            (single.cipherdir / "model.ovfuse").write_bytes(pointer)
            go_on(view)
            assert read(view, "a") == text
        (single.cipherdir / "model.ovfuse").write_bytes(old)
        go_on(view)
        assert walk(view, "a") is file
    finally:
        view.close()


# What is in use


def test_superseded_sealing_is_open_while_it_is_in_use(
    views: Views, single: Model
) -> None:
    view = views(single.cipherdir)
    go_on(view)
    before = descriptors()
    known = walk(view, "a")
    contents = view.slots[0].loaded()
    assert contents is not None
    view.retain(known)
    handle = view.open(walk(view, "b"))
    single.seal()
    go_on(view)
    assert bytes(contents.sealing.model_key.view) != bytes(32)
    assert content(view, known) == b"001"
    # Envelope, lists and directory of one, and a file.
    assert descriptors() == before + 4

    view.release(known)
    buffer = bytearray(90_000)
    handle.read_into(0, memoryview(buffer))
    assert buffer == b"001" * 30_000
    handle.close()
    assert descriptors() == before
    assert bytes(contents.sealing.model_key.view) == bytes(32)
    with pytest.raises(SupersededError):
        view.open(known)


def test_a_hundred_sealings_leave_nothing(views: Views, single: Model) -> None:
    view = views(single.cipherdir)
    go_on(view)
    before = descriptors()
    numbers = len(view._numbers._used)
    for _ in range(100):
        single.seal()
        go_on(view)
        node = walk(view, "b")
        view.retain(node)
        assert content(view, node) == b"%03d" % single.version * 30_000
        view.release(node)

    assert descriptors() == before
    assert len(view._numbers._used) == numbers


def test_file_of_a_sealing_that_is_gone_is_superseded(
    views: Views, single: Model
) -> None:
    view = views(single.cipherdir)
    known = walk(view, "a")
    view.retain(known)
    single.seal()
    go_on(view)
    assert content(view, known) == b"001"
    single.seal()
    with pytest.raises(SupersededError):
        view.open(known)


def test_open_that_comes_too_late_takes_the_newest_at_once(
    views: Views, single: Model
) -> None:
    """The kernel looks a name up again after ESTALE."""
    view = views(single.cipherdir)
    known = walk(view, "a")
    for _ in range(2):
        single.seal()
    with pytest.raises(SupersededError):
        view.open(known)

    assert read(view, "a") == b"003"
    (change,) = go_on(view)
    assert b"a" in change.names


def test_open_of_what_was_shown_before_takes_the_newest_too(
    views: Views, single: Model
) -> None:
    """Else the second look would lead to what is gone, too; there is no third."""
    view = views(single.cipherdir)
    first = walk(view, "a")
    view.retain(first)
    single.seal()
    go_on(view)
    for _ in range(2):
        single.seal()
    with pytest.raises(SupersededError):
        view.open(first)

    assert read(view, "a") == b"004"


@pytest.mark.parametrize("seen_by", ["the open", "the watch"])
@pytest.mark.parametrize("path", ["a", "sub/c"])
def test_second_look_is_never_too_late(
    views: Views, single: Model, path: str, seen_by: str
) -> None:
    """However often it is sealed between the look and the open: it is held."""
    view = views(single.cipherdir)
    first = walk(view, path)
    view.retain(first)
    for _ in range(2):
        single.seal()
    if seen_by == "the watch":  # before anybody was too late
        go_on(view)
    with pytest.raises(SupersededError):
        view.open(first)
    second = walk(view, path)
    view.retain(second)
    for _ in range(3):
        single.seal()
        go_on(view)

    assert content(view, second) == b"003"
    # What is shown next is held as well, and closed when nobody needs it.
    third = walk(view, path)
    view.retain(third)
    for node in (first, second):
        view.release(node)
    for _ in range(3):
        single.seal()
        go_on(view)
    assert content(view, third) == b"006"
    view.release(third)
    assert deleted() == []


def test_second_look_into_a_directory_of_a_tree_is_never_too_late(
    views: Views, in_tree: Model
) -> None:
    """Even if writers are between the looks for the directory and for the file."""
    view = views(in_tree.cipherdir.parents[1])
    first = open_too_late(view, in_tree, "org/m/a")
    directory = walk(view, "org/m")
    view.retain(directory)
    for _ in range(3):
        in_tree.seal()
        go_on(view)

    assert content(view, view.lookup(directory, b"a")) == b"003"
    for node in (first, directory):
        view.release(node)
    assert deleted() == []


def test_model_of_many_files_is_not_held(
    views: Views, single: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the descriptors that others need."""
    monkeypatch.setattr("ovfuse.sealed.sealing._held_max", lambda: 2)
    view = views(single.cipherdir)
    known = walk(view, "a")
    view.retain(known)
    for _ in range(2):
        single.seal()
    before = descriptors()
    with pytest.raises(SupersededError):
        view.open(known)

    assert read(view, "a") == b"003"
    view.release(known)
    go_on(view)
    assert descriptors() == before


def test_held_object_is_checked_like_any_other(views: Views, single: Model) -> None:
    view = views(single.cipherdir)
    open_too_late(view, single, "a")
    for path in (single.sealing / "objects").iterdir():
        os.truncate(path, path.stat().st_size - 1)

    with pytest.raises(DamagedError, match="wrong size"):
        read(view, "a")


def test_node_is_not_told_of_once_its_sealing_is_closed(
    views: Views, single: Model
) -> None:
    """Else it would be opened in vain."""
    view = views(single.cipherdir)
    known = walk(view, "a")
    single.seal()
    go_on(view)

    with pytest.raises(SupersededError):
        view.retain(known)


# Trees


def test_new_and_removed_models_of_a_tree(
    views: Views, in_tree: Model, publisher: Publisher, tmp_path: Path
) -> None:
    tree = in_tree.cipherdir.parents[1]
    view = views(tree)
    org = walk(view, "org")
    handle = view.open(walk(view, "org/m/a"))
    node = walk(view, "org/m/b")
    view.retain(node)
    Model(publisher, tree / "new/deep", tmp_path / "plain-new").seal()
    assert go_on(view) == [Change(1, [])]
    assert names(view) == [b"new", b"org"]
    assert read(view, "new/deep/a") == b"001"

    shutil.rmtree(tree / "org")
    changes = go_on(view)
    assert names(view) == [b"new"]
    assert view.children(org) == ()
    told = {(change.directory, name) for change in changes for name in change.names}
    assert told == {(1, b"org"), (org.number, b"m"), (org.number, b"m@1")}
    buffer = bytearray(3)
    handle.read_into(0, memoryview(buffer))
    assert buffer == b"001"
    handle.close()
    with pytest.raises(SupersededError):
        view.open(node)
    view.release(node)
    assert [status.path for status in view.status()] == ["new/deep"]


def test_model_that_is_moved_away_and_back_while_it_is_in_use(
    views: Views, in_tree: Model, tmp_path: Path
) -> None:
    tree = in_tree.cipherdir.parents[1]
    view = views(tree)
    directory = walk(view, "org/m")
    view.retain(directory)
    file = view.lookup(directory, b"a")
    view.retain(file)
    in_tree.cipherdir.rename(tmp_path / "aside")
    go_on(view)
    with pytest.raises(NotFoundError):
        walk(view, "org/m")
    (tmp_path / "aside").rename(in_tree.cipherdir)
    go_on(view)

    assert walk(view, "org/m/a") is file
    assert content(view, file) == b"001"


def test_same_sealing_that_is_put_there_again_is_read_on(
    views: Views, in_tree: Model, tmp_path: Path
) -> None:
    """As by a delivery that makes a directory anew, and is done twice."""
    view = views(in_tree.cipherdir.parents[1])
    known = walk(view, "org/m/a")
    view.retain(known)
    handle = view.open(known)
    shutil.copytree(in_tree.cipherdir, tmp_path / "new")
    in_tree.cipherdir.rename(tmp_path / "old")
    (tmp_path / "new").rename(in_tree.cipherdir)
    go_on(view)
    shutil.rmtree(tmp_path / "old")

    with pytest.raises(SupersededError):
        view.open(walk(view, "org/m/b"))
    go_on(view)

    assert read(view, "org/m/b") == b"001" * 30_000
    assert walk(view, "org/m/a") is known
    handle.close()


def test_same_sealing_comes_back_as_a_copy_while_it_is_in_use(
    views: Views, in_tree: Model, tmp_path: Path
) -> None:
    view = views(in_tree.cipherdir.parents[1])
    go_on(view)
    before = descriptors()
    known = walk(view, "org/m/a")
    view.retain(known)
    in_tree.cipherdir.rename(tmp_path / "aside")
    go_on(view)
    shutil.copytree(tmp_path / "aside", in_tree.cipherdir)
    shutil.rmtree(tmp_path / "aside")
    go_on(view)

    assert read(view, "org/m/b") == b"001" * 30_000
    view.release(known)
    assert descriptors() == before


def test_model_that_is_shown_again_while_others_are_closed_stays(
    views: Views, in_tree: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = views(in_tree.cipherdir.parents[1])
    known = walk(view, "org/m/a")
    view.retain(known)
    in_tree.cipherdir.rename(tmp_path / "aside")
    go_on(view)
    (tmp_path / "aside").rename(in_tree.cipherdir)
    view.refresh()
    looking = threading.Thread(target=walk, args=[view, "org/m/a"])
    retire = Contents.retire

    def retire_late(contents: Contents) -> None:
        if not looking.ident:
            looking.start()
            looking.join(1)  # it may have to wait until this is done
        retire(contents)

    monkeypatch.setattr(Contents, "retire", retire_late)
    view.sweep()
    looking.join()
    view.release(known)
    go_on(view)

    view.retain(walk(view, "org/m/a"))
    assert read(view, "org/m/a") == b"001"


def test_locked_model_that_was_removed_is_not_unlocked_any_more(
    views: Views, in_tree: Model, publisher: Publisher, tmp_path: Path
) -> None:
    """Else nobody would know that it is, and its inode numbers be taken for good."""
    tree = in_tree.cipherdir.parents[1]
    Model(publisher, tree / "a", tmp_path / "plain-a").seal()  # unlocked at the start
    view = views(tree)
    known = walk(view, "org/m")
    view.retain(known)
    for _ in range(2):
        in_tree.cipherdir.rename(tmp_path / "aside")
        go_on(view)
        (tmp_path / "aside").rename(in_tree.cipherdir)
        go_on(view)

    with pytest.raises(SupersededError):
        view.children(known)
    assert read(view, "org/m/a") == b"001"


def test_kernel_forgets_what_is_open_of_a_model_that_is_moved(
    views: Views, in_tree: Model
) -> None:
    view = views(in_tree.cipherdir.parents[1])
    table = NodeTable(view, Ledger().lookups)
    number = ROOT_ID
    for name in (b"org", b"m", b"b"):
        node = table.look_up(number, name)
        number = node.number
    handle = view.open(node)
    in_tree.cipherdir.rename(in_tree.cipherdir.with_name("n"))
    go_on(view)
    handle.close()
    go_on(view)

    assert [change.names for change in table.gone()] == [[b"b"]]


def test_model_becomes_a_directory_and_a_model_again(
    views: Views, in_tree: Model, publisher: Publisher, tmp_path: Path
) -> None:
    tree = in_tree.cipherdir.parents[1]
    Model(publisher, tree / "x", tmp_path / "plain-x").seal()
    view = views(tree)
    assert read(view, "x/a") == b"001"
    shutil.rmtree(tree / "x")
    Model(publisher, tree / "x/y", tmp_path / "plain-y").seal()
    go_on(view)
    assert read(view, "x/y/a") == b"001"
    shutil.rmtree(tree / "x")
    shutil.copytree(in_tree.cipherdir, tree / "x")
    go_on(view)

    with pytest.raises(RollbackError):  # another model was seen there
        names(view, "x")


def test_tree_that_cannot_be_searched_stays(
    views: Views,
    in_tree: Model,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    view = views(in_tree.cipherdir.parents[1])

    def fail(*_: object) -> None:
        raise CipherdirError("the cipherdir: Permission denied")

    monkeypatch.setattr("ovfuse.view.tree.find_models", fail)
    for _ in range(2):
        assert go_on(view) == []
    assert read(view, "org/m/a") == b"001"
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "the models stay those they were: the cipherdir: Permission denied"
    ]


def test_tree_that_becomes_a_model_stays_a_tree(views: Views, in_tree: Model) -> None:
    tree = in_tree.cipherdir.parents[1]
    view = views(tree)
    shutil.copytree(in_tree.cipherdir, tree, dirs_exist_ok=True)
    go_on(view)

    assert read(view, "org/m/a") == b"001"


# Versions by name


@pytest.mark.parametrize("kind", ["single", "tree"])
def test_version_by_name(
    views: Views, single: Model, in_tree: Model, kind: str
) -> None:
    model, top, name = (
        (single, single.cipherdir, "@")
        if kind == "single"
        else (in_tree, in_tree.cipherdir.parents[1], "org/m@")
    )
    view = views(top)
    assert read(view, f"{name}1/a") == b"001"
    model.seal().seal()
    go_on(view)

    assert read(view, f"{name}3/a") == b"003"
    assert read(view, f"{name}2/sub/c") == b"002"
    for version in ("1", "4", "0", "02", "-1", "", "9" * 30, "x"):
        with pytest.raises(NotFoundError):
            walk(view, f"{name}{version}")
    assert not [n for n in names(view, "" if kind == "single" else "org") if b"@" in n]


def test_version_has_its_own_directories_and_the_same_files(
    views: Views, single: Model
) -> None:
    view = views(single.cipherdir)
    newest, pinned = view.root, walk(view, "@1")

    assert pinned.number not in {newest.number, walk(view, "sub").number}
    assert walk(view, "@1/sub").number != walk(view, "sub").number
    assert walk(view, "@1/sub/c") is walk(view, "sub/c")
    assert pinned.subdirectories == newest.subdirectories == 1
    with pytest.raises(NotFoundError):
        walk(view, "@1/@1")
    with pytest.raises(NotFoundError):
        walk(view, "sub/@1")


def test_version_in_use_is_found_when_its_sealing_is_gone(
    views: Views, single: Model
) -> None:
    view = views(single.cipherdir)
    pinned = walk(view, "@1")
    view.retain(pinned)
    handle = view.open(view.lookup(pinned, b"b"))
    for _ in range(2):
        single.seal()
        go_on(view)

    assert walk(view, "@1") is pinned
    assert read(view, "@1/b") == b"001" * 30_000
    with pytest.raises(SupersededError):
        read(view, "@1/a")
    handle.close()
    with pytest.raises(NotFoundError):
        walk(view, "@1")


def test_real_entry_of_the_name_of_a_version_wins(
    views: Views, publisher: Publisher, tmp_path: Path
) -> None:
    write_files(tmp_path / "plain", {"@1": b"a file"})
    publisher.seal(tmp_path / "plain", tmp_path / "model", "m")
    view = views(tmp_path / "model")

    assert read(view, "@1") == b"a file"


def test_older_version_is_neither_recorded_nor_taken_from_elsewhere(
    views: Views, single: Model, publisher: Publisher, tmp_path: Path
) -> None:
    first = single.sealing.name
    shutil.copytree(single.sealing, tmp_path / "first")
    view = views(single.cipherdir)
    single.seal()
    go_on(view)
    assert read(view, "@1/a") == b"001"
    view.sweep()
    open_view(single.cipherdir, publisher.unlocker).close()
    single.seal()
    go_on(view)
    shutil.copytree(tmp_path / "first", single.cipherdir / "seals" / first)

    with pytest.raises(NotFoundError):
        walk(view, "@1")
    open_view(single.cipherdir, publisher.unlocker).close()


def test_older_version_that_was_exchanged_is_refused(
    views: Views, single: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another of the same publisher, version and seal id."""
    shutil.copytree(single.cipherdir, tmp_path / "other")
    other = Model(single.publisher, tmp_path / "other", tmp_path / "plain-other")
    second = single.seal().sealing
    other.version = 50
    with monkeypatch.context() as patched:
        patched.setattr("ovfuse.sealed.publish.token_hex", lambda _: second.name)
        other.seal()
    assert other.sealing.name == second.name
    single.seal()
    view = views(single.cipherdir)
    shutil.rmtree(second)
    shutil.copytree(other.sealing, second)

    with pytest.raises(RollbackError, match="not the sealing that its successor names"):
        walk(view, "@2")
    assert read(view, "a") == b"003"


def test_older_version_of_a_stranger_is_refused(
    views: Views, publisher: Publisher, tmp_path: Path
) -> None:
    stranger = Publisher.make()
    plain = write_files(tmp_path / "plain", {"a": b"a"})
    theirs = stranger.request(plain, tmp_path / "model")
    seal_quietly(replace(theirs, recipients=[publisher.recipient]))
    ours = publisher.request(plain, tmp_path / "model")
    seal_quietly(replace(ours, trusted={stranger.signing_key.public}))
    view = views(tmp_path / "model")

    with pytest.raises(UntrustedError):
        walk(view, "@1")
    assert read(view, "@2/a") == b"a"


def test_older_version_outside_its_terms_is_refused(
    views: Views, publisher: Publisher, tmp_path: Path
) -> None:
    plain = write_files(tmp_path / "plain", {"a": b"a"})
    request = publisher.request(plain, tmp_path / "model")
    seal_quietly(replace(request, terms=Terms(not_after=1)))
    seal_quietly(request)
    view = views(tmp_path / "model")

    with pytest.raises(TermsError):
        walk(view, "@1")


def test_older_version_that_is_not_whole_is_refused(
    views: Views, single: Model
) -> None:
    view = views(single.cipherdir)
    _shorten(single)
    single.seal()
    go_on(view)
    go_on(view)

    with pytest.raises(OvfuseError, match="wrong size"):
        walk(view, "@1")


# Following


def test_follow_tells_what_changes(views: Views, single: Model) -> None:
    view = views(single.cipherdir)
    told: list[Change] = []
    with view.follow(told.extend):
        single.seal()
        wait_until(lambda: bool(told))
    assert read(view, "a") == b"002"
    assert threading.active_count() == 1
    before = list(told)
    single.seal()
    assert read(view, "a") == b"002"
    assert told == before
