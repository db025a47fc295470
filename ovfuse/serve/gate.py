"""A gate that requests for content pass, and that a lock closes.

Threading: any thread; one lock, held for moments.
"""

import threading

__all__ = ["Gate"]


class Gate:
    """Open until it is closed; whoever closes it waits for those who are inside.

    Args:
        is_open: whether it is, at first.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        self._is_open = is_open
        self._inside = 0
        self._changed = threading.Condition()

    @property
    def is_open(self) -> bool:
        """Whether anybody may pass."""
        return self._is_open

    def enter(self) -> bool:
        """Pass, if it is open; then `leave` is due."""
        with self._changed:
            self._inside += self._is_open
            return self._is_open

    def leave(self) -> None:
        """Be outside again."""
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Let nobody pass; tell whether nobody is inside after a while at most."""
        with self._changed:
            self._is_open = False
            return self._changed.wait_for(lambda: not self._inside, seconds)

    def open(self) -> None:
        """Let everybody pass again."""
        with self._changed:
            self._is_open = True
