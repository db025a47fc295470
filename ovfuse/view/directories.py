"""The directories of a tree above its sealed models: they change, models do not.

Used by the tree. Threading: a directory's entries are replaced as a whole, by one
thread at a time; everybody may look meanwhile.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ovfuse.view.contract import Change, Node
from ovfuse.view.nodes import NO_PAYLOAD, ROOT_NUMBER, Numbers, node_number
from ovfuse.view.slot import ModelSlot

__all__ = ["Directories", "TreeDirectory"]


class TreeDirectory:
    """A directory with directories and models in it; see `contract.Node`."""

    __slots__ = ("entries", "mtime_ns", "number")

    def __init__(self, number: int, mtime_ns: int) -> None:
        self.number: Final = number
        self.mtime_ns = mtime_ns
        self.entries: Mapping[bytes, TreeDirectory | ModelSlot] = {}

    @property
    def is_directory(self) -> bool:
        """It is one."""
        return True

    @property
    def size(self) -> int:
        """Nothing, as of every directory."""
        return 0

    @property
    def subdirectories(self) -> int:
        """All that is in it."""
        return len(self.entries)

    def replace(
        self, entries: "Mapping[bytes, TreeDirectory | ModelSlot]", mtime_ns: int
    ) -> list[Change]:
        """Show other entries; return what changed, if anything."""
        before, self.entries = self.entries, entries
        names = [name for name in before if entries.get(name) is not before[name]]
        if not names and len(before) == len(entries):
            return []
        self.mtime_ns = mtime_ns
        return [Change(self.number, names)]


class Directories:
    """All directories of a tree, by place; the root's is empty."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self.root: Final = TreeDirectory(ROOT_NUMBER, 0)
        self._by_place = {"": self.root}
        self._claimed: list[int] = []

    def parent_of(self, place: str) -> TreeDirectory:
        """Return the directory that a model is in."""
        return self._by_place[place.rpartition("/")[0]]

    def every_node(self) -> Iterator[tuple[int, bytes, Node]]:
        """Yield what is below the root; see `contract.View`."""
        for place, directory in self._by_place.items():
            above = b"/" + place.encode() if place else b""
            for name, entry in directory.entries.items():
                path = above + b"/" + name
                if isinstance(entry, ModelSlot):
                    yield from entry.every_node(directory.number, path)
                else:
                    yield directory.number, path, entry

    def update(self, models: Sequence[ModelSlot], mtime_ns: int) -> list[Change]:
        """Show these models and the directories above them, and no others.

        Raises:
            DamagedError: inode numbers collide.
        """
        wanted = _children_by_place([model.place for model in models])
        before = self._by_place
        after = {
            place: before.get(place) or TreeDirectory(_number(place), mtime_ns)
            for place in wanted
        }
        self._claim(
            [*(after[p].number for p in after if p), *(m.number for m in models)]
        )
        by_place = {model.place: model for model in models}
        self._by_place = after
        changes = []
        for place, children in wanted.items():
            entries = {
                name: by_place.get(child) or after[child]
                for name, child in sorted(children.items())
            }
            replaced = after[place].replace(entries, mtime_ns)
            changes += replaced if place in before else []
        for place in before.keys() - after.keys():
            changes += before[place].replace({}, mtime_ns)
        return changes

    def _claim(self, numbers: list[int]) -> None:
        if numbers != self._claimed:
            self._numbers.give_back(self._claimed)
            self._numbers.claim(numbers)
            self._claimed = numbers


def _children_by_place(models: Sequence[str]) -> dict[str, dict[bytes, str]]:
    """Return the places in each directory by name; the root's is the first."""
    children: dict[str, dict[bytes, str]] = {"": {}}
    for model in models:
        place = model
        while place:
            parent, _, name = place.rpartition("/")
            siblings = children.setdefault(parent, {})
            if name.encode() in siblings:
                break
            siblings[name.encode()] = place
            place = parent
    return children


def _number(place: str) -> int:
    return node_number(NO_PAYLOAD, place, "")
