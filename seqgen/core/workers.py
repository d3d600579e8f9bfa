"""One function over many items by several processes of this machine, its results in the order of the items.

What comes out does not depend on the number of processes. They are started anew and not forked, because a fork copies
the locks of torch's threads; a process whose parent was killed ends as its pipe does.
"""

import contextlib
import multiprocessing
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from seqgen.core.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""Items taken for each process before the first result is waited for."""


def in_order(
    make: Callable[..., Callable[[Item], Result]], arguments: tuple[Any, ...], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """Yield `make(*arguments)(item)` for every item, in order; with one worker here, else in so many processes.

    `make` is a function of a module, which each process calls once; it, its arguments, items and results are pickled.
    No more than two items a process are taken before their results are asked for. An error of the function is raised
    here; RunError where a process ended before it answered.
    """
    if workers == 1:
        yield from map(make(*arguments), items)
        return
    context = multiprocessing.get_context("spawn")
    idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
    processes = []
    with _without_interrupts():
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
            process.start()
            there.close()
            processes.append((process, here))
            idle.put(here)

    def asked(item: Item) -> Result:
        connection = idle.get()
        try:
            connection.send(item)
            ended, result = connection.recv()
        except (EOFError, OSError):
            raise RunError(
                "a worker process ended before its answer: killed, short of memory, or started by a script without "
                "`if __name__ == '__main__':`"
            ) from None
        finally:
            idle.put(connection)
        if not ended:
            raise result
        return result  # type: ignore[no-any-return]

    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(threads.submit(asked, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
        for process, connection in processes:
            connection.close()
            process.join()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that leave Ctrl-C to their parent, whose end they notice; what is ignored stays so in a child."""
    if threading.current_thread() is not threading.main_thread():  # signals belong to somebody else
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    """Answer items until the pipe ends."""
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):  # the latter where an answer was left unread
            return
        try:
            work = work or make(*arguments)
            answer = True, work(item)
        except Exception as error:
            answer = False, error
        try:
            connection.send(answer)
        except OSError:
            return
