"""Worker processes against the built-in map, and what becomes of them when their parent is gone."""

import multiprocessing
import threading

import pytest

from seqgen.core import workers


def power(base: int) -> "Power":
    return Power(base)


class Power:
    def __init__(self, base: int) -> None:
        self.base = base

    def __call__(self, exponent: int) -> int:
        return int(self.base**exponent)


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(workers.in_order(power, (3,), range(20), workers=2)) == [3**n for n in range(20)]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("read", [True, False])
def test_a_worker_ends_without_a_word_when_its_parent_is_gone(read: bool) -> None:
    """Also where the parent left an answer unread, which the system reports as a reset of the connection."""
    ours, theirs = multiprocessing.Pipe()
    worker = threading.Thread(target=workers._serve, args=(theirs, power, (2,)))
    worker.start()
    ours.send(5)
    assert ours.poll(30)
    if read:
        assert ours.recv() == (True, 32)
    ours.close()
    worker.join(30)
    assert not worker.is_alive()
