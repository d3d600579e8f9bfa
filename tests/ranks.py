"""Processes that work together as under torchrun, forked from one that has everything imported already."""

import os
import socket
import traceback
from collections.abc import Callable

from seqgen.core import dist


def together(processes: int, work: Callable[[], None], *, port: int = 0) -> list[int]:
    """Run `work` as rank 0 to N - 1 and return how each ended: 0, 1 for an error, or minus the signal."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            try:
                work()
                dist.stop()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
