"""Clips made by a pool of processes, in the builder's order."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2

from mer_jax.data.clips import ClipRecord
from tfds_builders.common.report import Skipped
from tfds_builders.common.validation import check_record

_AHEAD = 4  # jobs in flight for each process: enough to hide uneven jobs, few enough to bound memory


@dataclasses.dataclass(frozen=True)
class Job:
    """Clips to be made by a worker: `function(*arguments)` gives a ClipRecord or a Skipped, or a list of them.

    Attributes:
      function: a function of a module that imports without TensorFlow (workers import it).
      arguments: what it is called with; must be picklable and small.
    """

    function: Callable[..., ClipRecord | Skipped | list[ClipRecord | Skipped]]
    arguments: tuple[Any, ...] = ()


Item = ClipRecord | Job | Skipped


def run(items: Iterable[Item], processes: int) -> Iterator[ClipRecord | Skipped]:
    """Runs the jobs among `items` and checks every record; the results come in the order of the items.

    Args:
      items: records and skipped rows as they are, jobs to run.
      processes: size of the pool; jobs run in this process where it is 1.

    Raises:
      UserError: of a job, or of a record that breaks the clip contract.
    """
    if processes <= 1:
        for item in items:
            yield from _finish(item)
        return
    context = multiprocessing.get_context("spawn")  # the parent holds TensorFlow and its threads: no fork
    with concurrent.futures.ProcessPoolExecutor(processes, context, _start_worker) as pool:
        pending: collections.deque[concurrent.futures.Future[list[ClipRecord | Skipped]]] = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(_finish, item))
                if len(pending) >= _AHEAD * processes:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _finish(item: Item) -> list[ClipRecord | Skipped]:
    result = item.function(*item.arguments) if isinstance(item, Job) else item
    results = result if isinstance(result, list) else [result]
    for one in results:
        if isinstance(one, ClipRecord):
            check_record(one)
    return results


def _start_worker() -> None:
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    """A killed parent must not leave its workers waiting for ever."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
