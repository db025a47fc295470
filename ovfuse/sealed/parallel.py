"""Many small steps on a few threads: for whole reads, whose libraries release the GIL.

The caller's thread works too, so that one worker needs no thread at all.
"""

import os
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["run_steps", "usable_cpus"]

_WORKERS_MAX: Final = 8  # beyond, the interpreter's own share of the work decides

Step = Callable[[int], None]


def usable_cpus() -> int:
    """Return how many workers are worth having here."""
    return min(len(os.sched_getaffinity(0)), _WORKERS_MAX)


def run_steps(count: int, make_step: Callable[[], Step], workers: int) -> None:
    """Call a step for each number below `count`, on several threads, in about order.

    Args:
        count: of the steps.
        make_step: called once per worker, for what a worker has of its own.
        workers: threads at most, the caller's included.

    Raises:
        BaseException: the first error of a step; by then no thread runs any more.
    """
    _Run(count, make_step).run(min(workers, count))


class _Run:
    """The state that the workers share."""

    def __init__(self, count: int, make_step: Callable[[], Step]) -> None:
        self._count = count
        self._make_step = make_step
        self._lock = threading.Lock()
        self._next = 0
        self._errors: list[tuple[int, BaseException]] = []

    def run(self, workers: int) -> None:
        threads = [threading.Thread(target=self._work) for _ in range(workers - 1)]
        started = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
        except RuntimeError:  # no more threads to be had: fewer then
            pass
        self._work()
        for thread in started:
            self._join(thread)
        if self._errors:
            _, error = min(self._errors, key=lambda item: item[0])
            raise error

    def _work(self) -> None:
        number = 0
        try:
            step = self._make_step()
            while (number := self._take()) < self._count:
                step(number)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self._stop(number, error)

    def _take(self) -> int:
        with self._lock:
            number = self._next
            self._next += 1
            return number

    def _stop(self, number: int, error: BaseException) -> None:
        with self._lock:
            self._next = self._count
            self._errors.append((number, error))

    def _join(self, thread: threading.Thread) -> None:
        """Wait, also after Ctrl-C: the others write into the caller's memory."""
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                self._stop(-1, error)
