"""One sealed model of a view: locked, unlocked or refused.

Unlocking happens in the thread that looks inside first; others that look into the
same model wait for it, those that look elsewhere do not. A refusal is remembered for a
while, so that a busy reader does not make the daemon unlock in vain all the time.
"""

import logging
import threading
import time
from typing import Final

from ovfuse.errors import DamagedError, OvfuseError, SupersededError
from ovfuse.keys import Place, Unlocker
from ovfuse.quote import quoted
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.terms import check_period
from ovfuse.view.contents import Contents, FileHandle
from ovfuse.view.contract import ModelStatus
from ovfuse.view.nodes import (
    NO_PAYLOAD,
    ROOT_NUMBER,
    UNKNOWN_SUBDIRECTORIES,
    DirectoryNode,
    FileNode,
    Numbers,
    node_number,
)

__all__ = ["ModelSlot"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 5.0


class ModelSlot:
    """A place where a sealed model is.

    Args:
        cipherdir_fd: of the whole cipherdir; kept open by the view.
        place: where the model is; its path is empty for a single one.
        name: the signed name that the user demands, or None.
        unlocker, pool, numbers: shared by the view's models.
        mtime_ns: of the directory, shown until it is unlocked.
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
    ) -> None:
        self._place = place
        self.place: Final = place.path
        self._cipherdir_fd = cipherdir_fd
        self._name = name
        self._unlocker = unlocker
        self._pool = pool
        self._numbers = numbers
        self._lock = threading.Lock()
        self._contents: Contents | None = None
        self._refusal: OvfuseError | None = None
        self._refused_at = 0.0
        number = node_number(NO_PAYLOAD, self.place, "") if self.place else ROOT_NUMBER
        self.node: Final = DirectoryNode(
            number=number,
            mtime_ns=mtime_ns,
            subdirectories=UNKNOWN_SUBDIRECTORIES,
            owner=self,
        )

    def contents(self) -> Contents:
        """Return what is inside, unlocked if it was not yet.

        Raises:
            UntrustedError, NoUsableKeyError, TermsError, DamagedError,
            CipherdirError: it is refused.
        """
        with self._lock:
            if self._contents is not None:
                return self._contents
            if self._refusal is not None and not self._is_retry_due():
                raise _again(self._refusal)
            try:
                self._contents = self._unlock()
            except OvfuseError as error:
                self._remember(error)
                raise
            self._refusal = None
            return self._contents

    def open(self, node: FileNode) -> FileHandle:
        """Open a file of this model.

        Raises:
            TermsError: the terms ended meanwhile.
            SupersededError: the sealing was replaced on disk and is gone.
            DamagedError, CipherdirError: see `Sealing.open_file`.
        """
        contents = self.contents()
        check_period(contents.manifest.terms, time.time())
        try:
            return contents.open(node.key)
        except DamagedError:
            if self._waiting() is not None:
                raise SupersededError("the sealing was replaced and is gone") from None
            raise

    def status(self) -> ModelStatus:
        """Say how the model stands; never unlocks."""
        contents, refusal = self._contents, self._refusal
        if contents is None:
            return ModelStatus(
                name="",
                path=self.place,
                model_id="",
                version=0,
                state="locked" if refusal is None else "refused",
                reason="" if refusal is None else refusal.message,
            )
        facts = contents.manifest.facts
        return ModelStatus(
            name=contents.manifest.name,
            path=self.place,
            model_id=facts.model_id,
            version=facts.version,
            state="unlocked",
            reason=self._waiting() or "",
        )

    def loaded(self) -> Contents | None:
        """Return the contents if the model is unlocked."""
        return self._contents

    def close(self) -> None:
        """Wipe the key."""
        with self._lock:
            if self._contents is not None:
                self._contents.close()

    def _unlock(self) -> Contents:
        with SealedModel.at(self._cipherdir_fd, self.place) as model:
            unlocked = self._unlocker.unlock(
                model, self._pool, place=self._place, name=self._name
            )
        try:
            return Contents(
                unlocked,
                place=self.place,
                numbers=self._numbers,
                owner=self,
                root_number=self.node.number,
            )
        except BaseException:
            unlocked.sealing.close()
            raise

    def _waiting(self) -> str | None:
        """Tell whether the disk has another sealing than the one that is served."""
        contents = self._contents
        try:
            with SealedModel.at(self._cipherdir_fd, self.place) as model:
                current = model.pointer()
        except OvfuseError:
            return None
        if contents is None or current == contents.manifest.facts.seal_id:
            return None
        return "another sealing is on disk; mount again to see it"

    def _is_retry_due(self) -> bool:
        return time.monotonic() - self._refused_at >= _RETRY_SECONDS

    def _remember(self, error: OvfuseError) -> None:
        news = self._refusal is None or self._refusal.message != error.message
        self._refusal, self._refused_at = _again(error), time.monotonic()
        # A single model is refused only at the start, where the error itself is told.
        if news and self.place:
            _log.warning("%s is refused: %s", quoted(self.place), error.message)


def _again(error: OvfuseError) -> OvfuseError:
    """Return the same error anew: a traceback keeps alive what its frames hold."""
    return type(error)(error.message, hint=error.hint)
