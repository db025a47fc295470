"""One sealed model of a view: locked, unlocked or refused, and which sealing it shows.

Unlocking happens in the thread that looks inside first; others that look into the
same model wait for it, those that look elsewhere do not. A refusal is remembered for a
while, so that a busy reader does not make the daemon unlock in vain all the time.
`refresh` goes on to the sealing on disk, if it passes every check.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ovfuse.errors import DamagedError, NotFoundError, OvfuseError, SupersededError
from ovfuse.events import Event, about
from ovfuse.keys import Place, Unlocker
from ovfuse.keys.unlocker import Unlocked
from ovfuse.quote import quoted
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing
from ovfuse.view.contents import Contents
from ovfuse.view.contract import ModelStatus, Node
from ovfuse.view.entrance import Entrance
from ovfuse.view.kept import KeptEntrance, KeptView
from ovfuse.view.nodes import DirectoryNode, Numbers, walk
from ovfuse.view.refusal import Refusal

__all__ = ["ModelSlot"]

_log = logging.getLogger(__name__)


class ModelSlot:
    """A place where a sealed model is.

    Args:
        cipherdir_fd: of the whole cipherdir; kept open by the view.
        place: where the model is; its path is empty for a single one.
        name: the signed name that the user demands, or None.
        unlocker, pool, numbers: shared by the view's models.
        mtime_ns: of the directory, shown until it is unlocked.
        on_superseded: called when files of the shown sealing are gone from the disk.
        kept: told of what a successor needs.
    """

    def __init__(  # noqa: PLR0913 - what one model shares with the view
        self,
        cipherdir_fd: int,
        place: Place,
        *,
        name: str | None,
        unlocker: Unlocker,
        pool: ScratchPool,
        numbers: Numbers,
        mtime_ns: int,
        on_superseded: "Callable[[ModelSlot], None]",
        kept: KeptView,
    ) -> None:
        self._place = place
        self.place: Final = place.path
        self._cipherdir_fd = cipherdir_fd
        self._name = name
        self._unlocker = unlocker
        self._pool = pool
        self._numbers = numbers
        self._on_superseded = on_superseded
        self._kept = kept
        self._unlocking = threading.Lock()
        """Held while keys are tried and disks are read; guards what is shown."""
        self._lock = threading.Lock()
        """Held for moments only; guards `_older` and `_untold`."""
        self._contents: Contents | None = None
        self._older: list[Contents] = []
        self._untold: list[Contents] = []
        self._refusal = Refusal(self.place)
        self._unlocks = 0
        self._holds = False
        """Whether what is shown is held open, since somebody was too late once."""
        self._is_removed = False
        self._entrance = Entrance(self.contents, self.place, mtime_ns, kept)
        self._inherited: list[Entrance] = []

    @property
    def directory(self) -> DirectoryNode:
        """What stands for the model in a tree: nothing is unlocked by asking.

        The node of a locked model stays, as long as it is known, until another
        sealing is shown: who works in that directory must not lose it.
        """
        contents = self._contents
        if contents is None:
            return self._entrance.hand_out()
        if self._entrance.leads_to(contents):
            return self._entrance.node
        return contents.root

    @property
    def number(self) -> int:
        """The inode number of the model while it is locked."""
        return self._entrance.node.number

    def contents(self) -> Contents:
        """Return what is inside, unlocked if it was not yet.

        Raises:
            UntrustedError, NoUsableKeyError, TermsError, DamagedError,
            CipherdirError: it is refused.
        """
        if (contents := self._contents) is not None:
            return contents
        with self._unlocking:
            if self._contents is not None:
                return self._contents
            if self._is_removed:
                raise SupersededError("the model is not in the tree any more")
            self._refusal.raise_again()
            try:
                contents = self._unlock()
            except OvfuseError as error:
                self._refusal.remember(error, None)
                raise
            self._show(contents)
            self._refusal.forget()
            return contents

    def inherit(
        self,
        sealings: Iterable[Unlocked],
        shown: str | None,
        entrances: Iterable[KeptEntrance],
    ) -> None:
        """Go on where a predecessor was killed; before anything else.

        Args:
            sealings: that were in use.
            shown: the payload hash of the one that was shown.
            entrances: that may be known.
        """
        by_payload = {}
        for unlocked in sealings:
            contents = self._make_contents(unlocked)
            by_payload[contents.payload_sha256] = contents
        self._contents = by_payload.get(shown or "")
        # What was told before and is not shown may not have been taken back yet.
        self._older = [c for c in by_payload.values() if c is not self._contents]
        self._untold = list(self._older)
        self._inherited, self._entrance = self._entrance.inherit(
            sorted(entrances, key=lambda entrance: entrance.generation),
            by_payload,
            shown=self._contents,
        )

    def every_node(self, parent: int, path: bytes) -> Iterator[tuple[int, bytes, Node]]:
        """Yield all that may have been told: the number of the parent, path, node.

        Args:
            parent: the number of the directory that the model is in.
            path: of the model in the mount.
        """
        for entrance in (*self._inherited, self._entrance):
            yield parent, path, entrance.node
        with self._lock:
            found = [*self._older, *([self._contents] if self._contents else [])]
        for contents in found:
            version = b"@%d" % contents.manifest.facts.version
            pinned = (path or b"/") + version
            yield from walk(parent, path, contents.root)
            yield from walk(parent, pinned, contents.pinned)

    def version(self, version: int) -> Contents:
        """Return a version of this model that is in use or on disk.

        On disk this is the shown sealing, or the one that it names as the one before.

        Raises:
            NotFoundError: there is none.
            OvfuseError: it is refused; see `Unlocker.unlock_previous`.
        """
        current = self.contents()
        with self._unlocking:
            with self._lock:
                known = [current, *reversed(self._older)]
            for contents in known:
                facts = contents.manifest.facts
                is_same = facts.model_id == current.manifest.facts.model_id
                if is_same and facts.version == version and contents.is_there:
                    return contents
            if version != current.manifest.facts.version - 1:
                raise NotFoundError("no such version")
            contents = self._unlock_previous(current, version)
            with self._lock:
                self._older.append(contents)
            return contents

    def refresh(self) -> None:
        """Show the sealing on disk, if it passes every check; else log why not.

        A model that is still locked stays so: who looks inside is not kept waiting
        because of an old refusal any more, that is all.
        """
        with self._unlocking:
            shown = self._contents
            if shown is None:
                self._refusal.retry()
                return
            try:
                newest = self._newest(shown)
            except OvfuseError as error:
                self._refusal.remember(error, shown)
                return
            self._refusal.forget()
            if newest is not shown:
                self._show(newest)
                self._leave(shown)
                version = newest.manifest.facts.version
                extra = about(Event.CHANGED, **newest.named)
                _log.info("%s is version %d now", self._title, version, extra=extra)

    def remove(self) -> None:
        """Note that the model is not in the tree any more; what is in use goes on."""
        with self._unlocking:
            if self._contents is not None:
                self._leave(self._contents)
            for contents in tuple(self._older):
                contents.move_away()
            self._show(None)
            self._refusal.forget()
            self._is_removed = True

    def come_back(self, mtime_ns: int) -> None:
        """Note that a model is there again: locked, behind another node."""
        self._entrance = self._entrance.next(mtime_ns)
        self._is_removed = False

    def superseded(self) -> list[Contents]:
        """Return what was shown until now, each once."""
        with self._lock:
            superseded, self._untold = self._untold, []
        return superseded

    def older_versions(self) -> list[int]:
        """Return the versions that are in use besides the one that is shown."""
        with self._lock:
            return [contents.manifest.facts.version for contents in self._older]

    def gone_versions(self) -> list[int]:
        """Return those of them that are not on disk any more.

        Somebody may have looked one up after the switch and before it was removed.
        """
        with self._lock:
            return [c.manifest.facts.version for c in self._older if c.is_gone]

    def sweep(self) -> bool:
        """Close what is not in use and not shown; tell whether all else is gone."""
        with self._lock:  # else one that is shown again meanwhile would be retired
            for contents in self._older:
                contents.retire()
            self._older = [c for c in self._older if not c.is_closed]
            return not (self._older or self._entrance.is_out)

    def status(self, *, follows: bool) -> ModelStatus:
        """Say how the model stands; never unlocks."""
        contents, reason = self._contents, self._refusal.reason
        if contents is None:
            return ModelStatus(
                path=self.place,
                state="refused" if self._refusal else "locked",
                reason=reason,
                unlocks=self._unlocks,
            )
        if self._refusal:
            reason = f"another sealing is on disk and is refused: {reason}"
        elif not follows and self._on_disk() not in (None, _seal_id(contents)):
            reason = "another sealing is on disk; mount again to see it"
        return contents.status(reason, self._unlocks)

    def loaded(self) -> Contents | None:
        """Return the contents if the model is unlocked."""
        return self._contents

    def close(self) -> None:
        """Wipe the keys."""
        with self._unlocking, self._lock:
            for contents in (self._contents, *self._older):
                if contents is not None:
                    contents.close()

    @property
    def _title(self) -> str:
        return quoted(self.place) if self.place else "the model"

    def _show(self, contents: Contents | None) -> None:
        self._contents = contents
        self._kept.show(self.place, contents.payload_sha256 if contents else None)

    def _leave(self, contents: Contents) -> None:
        with self._lock:
            self._older.append(contents)
            self._untold.append(contents)

    def _newest(self, shown: Contents) -> Contents:
        """Return what is on disk, checked, and held open if that is called for."""
        with SealedModel.at(self._cipherdir_fd, self.place) as model:
            if model.pointer() == _seal_id(shown) and shown.sealing.is_on_disk:
                try:
                    if self._holds:
                        shown.hold()
                    return shown
                except OvfuseError:
                    if model.pointer() == _seal_id(shown):
                        raise
        check = Sealing.hold_objects if self._holds else Sealing.check_objects
        return self._unlock(check)

    def _unlock(self, check: Callable[[Sealing], None] | None = None) -> Contents:
        with SealedModel.at(self._cipherdir_fd, self.place) as model:
            unlocked = self._unlocker.unlock(
                model,
                self._pool,
                place=self._place,
                name=self._name,
                check=check,
            )
        self._unlocks += 1
        return self._live(unlocked) or self._make_contents(unlocked)

    def _live(self, unlocked: Unlocked) -> Contents | None:
        """Return the same sealing, if it is or was shown and is still in use."""
        with self._lock:
            for contents in (self._contents, *self._older):
                if contents is not None and contents.is_same(unlocked):
                    self._older = [c for c in self._older if c is not contents]
                    if contents.revive(unlocked):
                        return contents
        return None

    def _unlock_previous(self, current: Contents, version: int) -> Contents:
        previous = current.manifest.previous
        if previous is None:
            raise NotFoundError("no such version")
        with SealedModel.at(self._cipherdir_fd, self.place) as model:
            try:
                locked = model.sealing(previous.seal_id)
            except DamagedError as error:
                if isinstance(error.__context__, FileNotFoundError):
                    raise NotFoundError("no such version") from None
                raise
        with locked:
            if locked.envelope.facts.version != version:
                raise NotFoundError("no such version")
            unlocked = self._unlocker.unlock_previous(
                locked, previous, self._pool, place=self._place, name=self._name
            )
        self._unlocks += 1
        return self._make_contents(unlocked)

    def _make_contents(self, unlocked: Unlocked) -> Contents:
        try:
            return Contents(
                unlocked,
                place=self.place,
                numbers=self._numbers,
                is_superseded=self._is_superseded,
                kept=self._kept,
            )
        except BaseException:
            unlocked.sealing.close()
            raise

    def _is_superseded(self, contents: Contents) -> bool:
        """Tell whether something else is shown or on disk than `contents`.

        What is on disk is shown then, and held open, so that who looks up again gets
        what is there: the kernel does so once, after ESTALE, for whoever opens by
        path, and writers may be as fast then.
        """
        shown, on_disk = self._contents, self._on_disk()
        if shown is contents and on_disk in (None, _seal_id(shown)):
            if on_disk is None or shown.sealing.is_on_disk:
                return False
            self._on_superseded(self)  # the same was put there again, perhaps
            return shown.sealing.is_on_disk
        if shown is not None:
            self._holds = True
            self._on_superseded(self)
        return True

    def _on_disk(self) -> str | None:
        """Return the seal id that the pointer names; None if it cannot be read."""
        try:
            with SealedModel.at(self._cipherdir_fd, self.place) as model:
                return model.pointer()
        except OvfuseError:
            return None


def _seal_id(contents: Contents) -> str:
    return contents.manifest.facts.seal_id
