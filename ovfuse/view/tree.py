"""The view of a whole cipherdir: a single sealed model, or a tree of them.

Implements `contract.View`. The set of models is fixed when the view is opened; what is
inside each of them appears when somebody looks.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ovfuse.errors import (
    CipherdirError,
    IsADirectoryNodeError,
    NotADirectoryNodeError,
    NotFoundError,
    OvfuseError,
    UntrustedError,
)
from ovfuse.keys import Place, Unlocker
from ovfuse.quote import quoted
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.view.contract import Handle, ModelStatus, Node
from ovfuse.view.nodes import (
    NO_PAYLOAD,
    ROOT_NUMBER,
    DirectoryNode,
    FileNode,
    Numbers,
    node_number,
)
from ovfuse.view.scan import find_models
from ovfuse.view.slot import ModelSlot

__all__ = ["CipherdirView", "open_view"]


def open_view(
    cipherdir: Path,
    unlocker: Unlocker,
    *,
    strict: bool = False,
    name: str | None = None,
) -> "CipherdirView":
    """Open a cipherdir for serving.

    Args:
        cipherdir: one sealed model or a tree of them.
        unlocker: identities and trust.
        strict: every model of a tree must unlock now; a single one always must.
        name: the signed name that must be there and unlock.

    Raises:
        CipherdirError: no sealed model is there, or it cannot be read.
        OvfuseError: of the kind of the first refusal, where models must unlock.
    """
    with SealedModel.open(cipherdir) as directory:
        fd = os.dup(directory.fd)
    try:
        view = CipherdirView(fd, Path(os.path.realpath(cipherdir)), unlocker, name)
    except BaseException:
        os.close(fd)
        raise
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
        self, cipherdir_fd: int, cipherdir: Path, unlocker: Unlocker, name: str | None
    ) -> None:
        self._fd = cipherdir_fd
        self._name = name
        self._numbers = Numbers()
        self._pool = ScratchPool()
        models = find_models(cipherdir_fd)
        self._is_single = [place for place, _ in models] == [""]
        self.slots: Final = [
            ModelSlot(
                cipherdir_fd,
                Place(cipherdir, place),
                name=name if self._is_single else None,
                unlocker=unlocker,
                pool=self._pool,
                numbers=self._numbers,
                mtime_ns=mtime_ns,
            )
            for place, mtime_ns in models
        ]
        self._root = self._build_tree(os.fstat(cipherdir_fd).st_mtime_ns)

    @property
    def root(self) -> Node:
        """The mountpoint's directory: of the one model, or of the tree."""
        return self.slots[0].contents().root if self._is_single else self._root

    def lookup(self, parent: Node, name: bytes) -> Node:
        """Return the child of that name; see `contract.View`."""
        node = self._inside(parent).children.get(name)
        if node is None:
            raise NotFoundError("no such file or directory")
        return node

    def children(self, node: Node) -> Sequence[tuple[bytes, Node]]:
        """Return the entries of a directory; see `contract.View`."""
        return tuple(self._inside(node).children.items())

    def open(self, node: Node) -> Handle:
        """Open a file; see `contract.View`."""
        if not isinstance(node, FileNode) or not isinstance(node.owner, ModelSlot):
            raise IsADirectoryNodeError("is a directory")
        return node.owner.open(node)

    def totals(self) -> tuple[int, int]:
        """Return plaintext bytes and files of the unlocked models."""
        loaded = [c for slot in self.slots if (c := slot.loaded()) is not None]
        return (
            sum(contents.plaintext_size for contents in loaded),
            sum(len(contents.manifest.files) for contents in loaded),
        )

    def status(self) -> list[ModelStatus]:
        """Return one entry per sealed model."""
        return [slot.status() for slot in self.slots]

    def close(self) -> None:
        """Wipe all keys and close the cipherdir."""
        for slot in self.slots:
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

    def _inside(self, node: Node) -> DirectoryNode:
        if not isinstance(node, DirectoryNode):
            raise NotADirectoryNodeError("not a directory")
        if isinstance(node.owner, ModelSlot) and node is node.owner.node:
            return node.owner.contents().root
        return node

    def _build_tree(self, mtime_ns: int) -> DirectoryNode:
        if self._is_single:
            return self.slots[0].node
        root: _Branch = {}
        for slot in self.slots:
            *parents, name = slot.place.split("/")
            branch = root
            for parent in parents:
                branch = branch.setdefault(parent, {})  # type: ignore[assignment] # only a leaf is a slot, and has nothing below
            branch[name] = slot
        numbers: list[int] = [slot.node.number for slot in self.slots]
        tree = _directory(root, "", mtime_ns, numbers)
        self._numbers.claim(numbers)
        return tree


_Branch = dict[str, "ModelSlot | _Branch"]


def _directory(
    branch: _Branch, place: str, mtime_ns: int, numbers: list[int]
) -> DirectoryNode:
    """Make the directory at `place`, and note the numbers of those below it."""
    children: dict[bytes, FileNode | DirectoryNode] = {}
    for name, child in sorted(branch.items(), key=lambda item: item[0].encode()):
        if isinstance(child, ModelSlot):
            children[name.encode()] = child.node
            continue
        path = f"{place}/{name}" if place else name
        children[name.encode()] = _directory(child, path, mtime_ns, numbers)
        numbers.append(children[name.encode()].number)
    return DirectoryNode(
        number=node_number(NO_PAYLOAD, place, "") if place else ROOT_NUMBER,
        mtime_ns=mtime_ns,
        subdirectories=len(children),
        children=children,
    )


def _about(place: str | Path, error: OvfuseError) -> OvfuseError:
    """Return the same error with the model's place in front."""
    return type(error)(f"{quoted(place)}: {error.message}", hint=error.hint)
