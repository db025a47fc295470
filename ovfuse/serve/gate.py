"""A gate that requests for content pass, and that a lock closes.

Threading: any thread. Who passes an open gate takes no lock, since each READ does: it
says first that it is inside and looks then whether it may be, while who pauses the gate
does so first and looks then who is inside.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Gate"]


class Gate:
    """Open until it is closed; before that, whoever comes waits for what is decided.

    Args:
        is_open: whether it is, at first.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        self._is_open = is_open
        self._is_paused = False
        self._inside: set[int] = set()
        """Threads."""
        self._changed = threading.Condition()

    @property
    def is_open(self) -> bool:
        """Whether it is not closed."""
        return self._is_open

    @contextmanager
    def passing(self) -> Iterator[bool]:
        """Be inside for as long as the context lasts, if it is open."""
        me = threading.get_ident()
        self._inside.add(me)
        try:
            if self._is_paused:
                self._wait(me)
            yield self._is_open
        finally:
            self._leave(me)

    def pause(self, seconds: float) -> bool:
        """Keep all waiting who come; tell whether nobody is inside after a while.

        `open` or `close` is due then, in any case.
        """
        with self._changed:
            self._is_paused = True
            return self._changed.wait_for(lambda: not self._inside, seconds)

    def close(self) -> None:
        """Let nobody pass any more."""
        self._decide(is_open=False)

    def open(self) -> None:
        """Let everybody pass again."""
        self._decide(is_open=True)

    def _wait(self, me: int) -> None:
        self._leave(me)
        with self._changed:
            self._changed.wait_for(lambda: not self._is_paused)
            self._inside.add(me)

    def _leave(self, me: int) -> None:
        self._inside.discard(me)
        if self._is_paused:
            with self._changed:
                self._changed.notify_all()

    def _decide(self, *, is_open: bool) -> None:
        with self._changed:
            self._is_open, self._is_paused = is_open, False
            self._changed.notify_all()
