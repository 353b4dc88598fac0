"""Work in threads whose results come back in order, a bounded number of them ahead of the reader.

For functions that leave the interpreter lock (Pillow, NumPy, torch, files). The results, and the first error,
are those of a plain loop, whatever the number of threads.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    group: int = 1,
    ahead: int | None = None,
) -> Iterator[Result]:
    """`map(function, items)` in the threads of `pool`; a task takes `group` items, to spare overhead.

    At most `ahead` groups are under way or wait for the reader (default: a few for every core). When the
    reader stops early those not begun are dropped.
    """
    ahead = 2 * cores() + 2 if ahead is None else ahead

    def work(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + group]]

    pending: deque[Future[list[Result]]] = deque()
    starts = iter(range(0, len(items), group))
    try:
        for start in starts:
            pending.append(pool.submit(work, start))
            if len(pending) > ahead:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def for_each(
    pool: ThreadPoolExecutor, function: Callable[[int], None], count: int, *, least: int = 1
) -> None:
    """Call `function` with 0 … count - 1 in the threads of `pool`, at least `least` of them a task."""
    group = max(least, -(-count // (4 * cores())))
    for _ in in_order(pool, function, range(count), group=group):
        pass
