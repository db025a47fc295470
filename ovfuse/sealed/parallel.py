"""Many steps on a few threads: for whole reads, whose libraries release the GIL.

The caller's thread works too, so that one worker needs no thread at all.
"""

import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["run_in_order", "run_steps", "usable_cpus"]

_WORKERS_MAX: Final = 8  # beyond, the interpreter's own share of the work decides

Step = Callable[[int], None]
Prepared = TypeVar("Prepared")


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
    _Run(count, lambda _: make_step()).run(min(workers, count))


def run_in_order(
    count: int,
    make_prepare: Callable[[], Callable[[int], Prepared]],
    finish: Callable[[Prepared], None],
    workers: int,
) -> None:
    """Prepare the steps below `count` on several threads, and finish them in order.

    A decryptor that streams takes its input in order; reading and checking that input
    can be done for several steps at once.

    Args:
        count: of the steps.
        make_prepare: called once per worker; what it gives does what needs no other
            step, and returns what is left to finish.
        finish: does the rest, in the thread that prepared it, after that of the step
            before.
        workers: threads at most, the caller's included.

    Raises:
        BaseException: the first error of a step; by then no thread runs any more.
    """

    def make_step(run: _Run) -> Step:
        prepare = make_prepare()

        def step(number: int) -> None:
            prepared = prepare(number)
            if run.wait_for(number):
                finish(prepared)
                run.finished(number)

        return step

    _Run(count, make_step).run(min(workers, count))


class _Run:
    """The state that the workers share."""

    def __init__(self, count: int, make_step: "Callable[[_Run], Step]") -> None:
        self._count = count
        self._make_step = make_step
        self._changed = threading.Condition()
        self._next = 0
        self._finished = 0
        self._errors: list[tuple[int, BaseException]] = []

    def run(self, workers: int) -> None:
        threads = [threading.Thread(target=self._work) for _ in range(workers - 1)]
        try:
            for thread in threads:
                thread.start()
        except RuntimeError:  # no more threads to be had: fewer then
            pass
        except KeyboardInterrupt as error:
            self._stop(-1, error)
        self._work()
        for thread in threads:
            self._join(thread)
        if self._errors:
            errors, self._errors = self._errors, []
            try:
                raise min(errors, key=lambda item: item[0])[1]
            finally:
                errors.clear()  # else it is part of its own traceback, and so is memory

    def wait_for(self, number: int) -> bool:
        """Wait until all steps before are finished; False if one of them failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished == number or self._errors)
            return not self._errors

    def finished(self, number: int) -> None:
        """Let the next step be finished."""
        with self._changed:
            self._finished = number + 1
            self._changed.notify_all()

    def _work(self) -> None:
        number = 0
        try:
            step = self._make_step(self)
            while (number := self._take()) < self._count:
                step(number)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self._stop(number, error)

    def _take(self) -> int:
        with self._changed:
            number = self._next
            self._next += 1
            return number

    def _stop(self, number: int, error: BaseException) -> None:
        with self._changed:
            self._next = self._count
            self._errors.append((number, error))
            self._changed.notify_all()

    def _join(self, thread: threading.Thread) -> None:
        """Wait, also after Ctrl-C: the others write into the caller's memory."""
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                self._stop(-1, error)
