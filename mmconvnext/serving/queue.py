"""Pictures that wait for a detector: those of one size go together, in the order they came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple


class Waiting(NamedTuple):
    """Something that waits: what it is, what it must share with others, and who wants it."""

    item: Any
    kind: Hashable
    answer: asyncio.Future


class Queue:
    """Calls a function in a thread of its own, for one batch after the other.

    Args:
        work: from some items of one kind to a result, or an exception, for each.
        most: items in a batch.

    Attributes:
        waiting: in the order they came.
        began: when the batch that is worked on was begun, by ``time.monotonic()``, or None.
    """

    def __init__(self, work: Callable[[list[Any]], Sequence[Any]], most: int) -> None:
        self._work, self._most = work, most
        self._thread = ThreadPoolExecutor(1)
        self.waiting: list[Waiting] = []
        self.began: float | None = None

    def put(self, item: Any, kind: Hashable) -> asyncio.Future:
        """Add an item; who cancels the answer before it is worked on takes it out again."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(Waiting(item, kind, answer))
        answer.add_done_callback(self._forget)
        self._begin()
        return answer

    def seconds(self) -> float:
        """How long the batch that is worked on has taken up to now."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    def _forget(self, answer: asyncio.Future) -> None:
        self.waiting = [each for each in self.waiting if each.answer is not answer]

    def _begin(self) -> None:
        wanted = [each for each in self.waiting if not each.answer.done()]
        if self.began is not None or not wanted:
            return
        batch = [each for each in wanted if each.kind == wanted[0].kind][: self._most]
        taken = {id(each) for each in batch}
        self.waiting = [each for each in wanted if id(each) not in taken]
        self.began = time.monotonic()
        # it cannot be stopped: the next batch waits for one that nobody wants any more, too
        loop, items = asyncio.get_running_loop(), [each.item for each in batch]
        done = loop.run_in_executor(self._thread, self._work, items)
        done.add_done_callback(lambda done: self._end(batch, done))

    def _end(self, batch: Sequence[Waiting], done: asyncio.Future) -> None:
        self.began = None
        fault = done.exception()
        results = [fault] * len(batch) if fault else done.result()
        for each, result in zip(batch, results, strict=True):
            if not each.answer.done():
                is_fault = isinstance(result, BaseException)
                (each.answer.set_exception if is_fault else each.answer.set_result)(result)
        self._begin()
