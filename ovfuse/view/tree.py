"""The view of a whole cipherdir: a single sealed model, or a tree of them.

Implements `contract.View`. Whether it is one model or a tree is fixed when the view is
opened; what is inside each model appears when somebody looks.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ovfuse.errors import (
    CipherdirError,
    IsADirectoryNodeError,
    NameTooLongError,
    NotADirectoryNodeError,
    NotFoundError,
    OvfuseError,
    UntrustedError,
    describe,
)
from ovfuse.keeping import Keeping, NothingKept
from ovfuse.keys import Place, Unlocker
from ovfuse.quote import quoted
from ovfuse.sealed.layout import COMPONENT_MAX_SIZE
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.view.contents import Contents
from ovfuse.view.contract import Change, Handle, ModelStatus, Node
from ovfuse.view.directories import Directories, TreeDirectory
from ovfuse.view.entrance import Entrance
from ovfuse.view.kept import Inheritance, KeptView
from ovfuse.view.nodes import ROOT_NUMBER, DirectoryNode, FileNode, Numbers
from ovfuse.view.scan import find_models, fitting_places
from ovfuse.view.slot import ModelSlot
from ovfuse.view.watch import Watch

__all__ = ["CipherdirView", "open_view"]

_log = logging.getLogger(__name__)

_VERSIONED: Final = re.compile(rb"(.*)@([1-9][0-9]{0,15})", re.DOTALL)


def open_view(
    cipherdir: Path,
    unlocker: Unlocker,
    *,
    strict: bool = False,
    name: str | None = None,
    keeping: Keeping | None = None,
) -> "CipherdirView":
    """Open a cipherdir for serving.

    Args:
        cipherdir: one sealed model or a tree of them.
        unlocker: identities and trust.
        strict: every model of a tree must unlock now; a single one always must.
        name: the signed name that must be there and unlock.
        keeping: where what a successor needs is kept, and what is inherited.

    Raises:
        CipherdirError: no sealed model is there, or it cannot be read.
        OvfuseError: of the kind of the first refusal, where models must unlock.
    """
    view = CipherdirView(cipherdir, unlocker, name, KeptView(keeping or NothingKept()))
    try:
        if not view.slots:
            raise CipherdirError(f"no sealed model in {quoted(cipherdir)}")
        view.unlock_at_start(cipherdir, strict=strict)
    except BaseException:
        view.close()
        raise
    return view


class CipherdirView:
    """See `contract.View`. Owns the cipherdir's descriptor."""

    def __init__(
        self, cipherdir: Path, unlocker: Unlocker, name: str | None, kept: KeptView
    ) -> None:
        self._cipherdir = Path(os.path.realpath(cipherdir))
        self._unlocker = unlocker
        self._name = name
        self._numbers = Numbers()
        self._pool = ScratchPool()
        self._kept = kept
        self._inheritance = kept.inherit(self._pool, unlocker)
        self._told: set[str] = set()
        self._refreshing = threading.Lock()
        self._follows = False
        self._wake: Callable[[], None] = lambda: None
        self._gone: dict[str, ModelSlot] = {}
        self._fd = self._open(cipherdir)
        try:
            self._look()
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self, cipherdir: Path) -> int:
        if self._inheritance is not None:
            return self._inheritance.cipherdir_fd
        with SealedModel.open(cipherdir) as directory:
            fd = os.dup(directory.fd)
        self._kept.keep_cipherdir(fd)
        return fd

    def _look(self) -> None:
        """Find the models, and go on with those that were in use."""
        models = self._find_models()
        self._is_single = [place for place, _ in models] == [""]
        self.slots = [self._make_slot(place, mtime_ns) for place, mtime_ns in models]
        self._directories = Directories(self._numbers)
        if not self._is_single:
            self._directories.root.mtime_ns = self._mtime_ns()
            self._directories.update(self.slots, self._mtime_ns())
        if self._inheritance is not None:
            self._inherit(self._inheritance)

    @property
    def root(self) -> Node:
        """The mountpoint's directory: of the one model, or of the tree."""
        if self._is_single:
            return self.slots[0].contents().root
        return self._directories.root

    def lookup(self, parent: Node, name: bytes) -> Node:
        """Return the child of that name; see `contract.View`."""
        if isinstance(parent, TreeDirectory):
            entry = parent.entries.get(name)
            if entry is not None:
                return _node_of(entry)
        else:
            node = _inside(parent).children.get(name)
            if node is not None:
                return node
        return self._version(parent, name).pinned

    def children(self, node: Node) -> Sequence[tuple[bytes, Node]]:
        """Return the entries of a directory; see `contract.View`."""
        if isinstance(node, TreeDirectory):
            entries = node.entries.items()
            return tuple((name, _node_of(entry)) for name, entry in entries)
        return tuple(_inside(node).children.items())

    def open(self, node: Node) -> Handle:
        """Open a file; see `contract.View`."""
        if not isinstance(node, FileNode) or not isinstance(node.owner, Contents):
            raise IsADirectoryNodeError("is a directory")
        return node.owner.open(node)

    def reopen(self, node: Node) -> Handle:
        """Open a file that a predecessor had open; see `contract.View`."""
        if not isinstance(node, FileNode) or not isinstance(node.owner, Contents):
            raise IsADirectoryNodeError("is a directory")
        files = self._inheritance.files if self._inheritance else {}
        return node.owner.reopen(node, files.pop(node.number, None))

    def every_node(self) -> Iterator[tuple[int, bytes, Node]]:
        """Yield all that may have been told of; see `contract.View`."""
        if self._is_single:
            for slot in self.slots:
                yield from slot.every_node(ROOT_NUMBER, b"")
        else:
            yield from self._directories.every_node()
        for place, slot in self._gone.items():
            yield from slot.every_node(ROOT_NUMBER, b"/" + place.encode())

    def retain(self, node: Node) -> None:
        """Note that a node is known outside; see `contract.View`."""
        if isinstance(node, FileNode | DirectoryNode):
            node.owner.retain()

    def release(self, node: Node) -> None:
        """Take back one `retain`; see `contract.View`."""
        if isinstance(node, FileNode | DirectoryNode):
            node.owner.release()

    def is_gone(self, node: Node) -> bool:
        """Tell whether a node's sealing is gone; see `contract.View`."""
        return isinstance(node, FileNode | DirectoryNode) and node.owner.is_gone

    @contextmanager
    def follow(self, tell: Callable[[Sequence[Change]], None]) -> Iterator[None]:
        """Go on to what changes on disk; see `contract.View`."""

        def go_on() -> None:
            tell(self.refresh())
            self.sweep()

        self._follows = True
        if self._inheritance is not None:  # what was open is open again by now
            self._kept.let_go_of(self._inheritance.files)
        with Watch(self._fd, go_on) as watch:
            self._wake = watch.wake
            yield

    def refresh(self) -> list[Change]:
        """Show what is on disk now, as far as it passes every check.

        Returns:
            What was told before and is so no more.
        """
        self._follows = True
        with self._refreshing:
            changes = [] if self._is_single else self._refresh_tree()
            for slot in self.slots:
                try:
                    slot.refresh()
                except Exception as error:  # noqa: BLE001  it holds up no other model
                    _log.error("%s: %s", quoted(slot.place), describe(error))
                changes += self._changes_of(slot)
            return changes

    def sweep(self) -> None:
        """Close what is neither shown nor in use; after `refresh` has been told."""
        with self._refreshing:
            for slot in self.slots:
                slot.sweep()
            for place, slot in tuple(self._gone.items()):
                if slot.sweep():
                    del self._gone[place]

    def totals(self) -> tuple[int, int]:
        """Return plaintext bytes and files of the unlocked models."""
        loaded = [c for slot in self.slots if (c := slot.loaded()) is not None]
        return (
            sum(contents.plaintext_size for contents in loaded),
            sum(len(contents.manifest.files) for contents in loaded),
        )

    def status(self) -> list[ModelStatus]:
        """Return one entry per sealed model."""
        return [slot.status(follows=self._follows) for slot in self.slots]

    def close(self) -> None:
        """Wipe all keys and close the cipherdir."""
        for slot in (*self.slots, *self._gone.values()):
            slot.close()
        self._pool.wipe()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def unlock_at_start(self, cipherdir: Path, *, strict: bool) -> None:
        """Unlock what must be unlocked before anything is served.

        Raises:
            OvfuseError: see `open_view`.
        """
        if self._inheritance is not None:  # they were, and are served all the same
            if not self._inheritance.lacks_keys:
                return
            strict = False
        refusals = []
        for slot in self.slots:
            try:
                contents = slot.contents()
            except OvfuseError as error:
                about = _about(slot.place or cipherdir, error)
                if strict or self._is_single:
                    raise about from None
                refusals.append(about)
                continue
            found_demanded = self._name in (None, contents.manifest.name)
            if found_demanded and not strict:
                return
        if len(refusals) == len(self.slots):
            raise refusals[0]
        if self._name is not None and not any(
            status.name == self._name for status in self.status()
        ):
            raise UntrustedError(f"no model named {quoted(self._name)} unlocks")

    def _make_slot(self, place: str, mtime_ns: int) -> ModelSlot:
        return ModelSlot(
            self._fd,
            Place(self._cipherdir, place),
            name=self._name if self._is_single else None,
            unlocker=self._unlocker,
            pool=self._pool,
            numbers=self._numbers,
            mtime_ns=mtime_ns,
            on_superseded=self._hurry,
            kept=self._kept,
        )

    def _find_models(self) -> list[tuple[str, int]]:
        """Return place and time of all models, those that were in use included."""
        kept = self._inheritance
        if kept is None:
            return find_models(self._fd, self._told)
        found = {}
        with suppress(CipherdirError):  # `refresh` says so, if it stays so
            found = dict(find_models(self._fd, self._told))
        places = fitting_places([*kept.shown, *found, *kept.places])
        return [(place, found.get(place, self._mtime_ns())) for place in places]

    def _inherit(self, inheritance: Inheritance) -> None:
        for place in inheritance.places - {slot.place for slot in self.slots}:
            self._gone[place] = self._make_slot(place, self._mtime_ns())
        for slot in (*self.slots, *self._gone.values()):
            slot.inherit(
                inheritance.sealings.pop(slot.place, []),
                inheritance.shown.get(slot.place),
                inheritance.entrances.get(slot.place, []),
            )

    def _hurry(self, slot: ModelSlot) -> None:
        """Go on at once, since an open has failed: the kernel looks up again then."""
        if self._follows:
            slot.refresh()
            self._wake()

    def _mtime_ns(self) -> int:
        return os.fstat(self._fd).st_mtime_ns

    def _version(self, parent: Node, name: bytes) -> Contents:
        """Return the contents that NAME@VERSION in a tree, or @VERSION, stands for."""
        match = _VERSIONED.fullmatch(name) if self._follows else None
        if match is not None:
            if isinstance(parent, TreeDirectory):
                slot = parent.entries.get(match[1])
            else:
                is_root = parent.number == ROOT_NUMBER and not match[1]
                slot = self.slots[0] if is_root else None
            if isinstance(slot, ModelSlot):
                return slot.version(int(match[2]))
        if len(name) > COMPONENT_MAX_SIZE:
            raise NameTooLongError("no name is that long")
        raise NotFoundError("no such file or directory")

    def _refresh_tree(self) -> list[Change]:
        """Find the models anew; what cannot be done now leaves all as it was."""
        try:
            found = dict(find_models(self._fd, self._told))
            if "" in found:
                raise CipherdirError("the tree has become a sealed model")
        except CipherdirError as error:
            if error.message not in self._told:
                self._told.add(error.message)
                _log.warning("the models stay those they were: %s", error.message)
            return []
        before = {slot.place: slot for slot in self.slots}
        changes = []
        for place in before.keys() - found.keys():
            changes += self._remove(before.pop(place))
        for place in found.keys() - before.keys():
            before[place] = self._add(place, found[place])
        self.slots = [before[place] for place in sorted(before)]
        return changes + self._directories.update(self.slots, self._mtime_ns())

    def _remove(self, slot: ModelSlot) -> list[Change]:
        self._gone[slot.place] = slot
        slot.remove()
        return self._changes_of(slot)

    def _add(self, place: str, mtime_ns: int) -> ModelSlot:
        slot = self._gone.pop(place, None)
        if slot is None:
            slot = self._make_slot(place, mtime_ns)
        else:
            slot.come_back(mtime_ns)
        return slot

    def _changes_of(self, slot: ModelSlot) -> list[Change]:
        """Return what a model shows no more, and the versions to ask for again."""
        superseded = slot.superseded()
        versions = slot.older_versions() if superseded else slot.gone_versions()
        if not (superseded or versions):
            return []
        model = b"" if self._is_single else slot.place.rpartition("/")[2].encode()
        names = [b"%b@%d" % (model, version) for version in versions]
        if self._is_single:
            shown = {name for c in superseded for name in c.root.children}
            return [Change(ROOT_NUMBER, [*shown, *names])]
        parent = self._directories.parent_of(slot.place)
        return [Change(parent.number, [model, *names] if superseded else names)]


def _node_of(entry: TreeDirectory | ModelSlot) -> Node:
    return entry.directory if isinstance(entry, ModelSlot) else entry


def _inside(node: Node) -> DirectoryNode:
    if not isinstance(node, DirectoryNode):
        raise NotADirectoryNodeError("not a directory")
    owner = node.owner
    return owner.contents().root if isinstance(owner, Entrance) else node


def _about(place: str | Path, error: OvfuseError) -> OvfuseError:
    """Return the same error with the model's place in front."""
    return type(error)(f"{quoted(place)}: {error.message}", hint=error.hint)
