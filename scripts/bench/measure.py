"""How every bench measures: process CPU time, one thread, both sides in turn in one process, medians of ratios."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process for one call; wall time moves with whatever else the machine does."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def ratios(usual: Callable[[], object], ours: Callable[[], object], *, rounds: int) -> list[float]:
    """How many times faster `ours` is than `usual`, one value per interleaved round, after one round of warm-up."""
    usual()
    ours()
    return [cpu_seconds(usual) / cpu_seconds(ours) for _ in range(rounds)]


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX; on ARM, bf16)."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def row(bench: str, case: str, values: list[float], floor: float | None, gate: str) -> dict[str, object]:
    """One result: the median ratio with its spread, what it must reach, and "ok" or what the gate found."""
    median = statistics.median(values)
    spread = [round(min(values), 3), round(max(values), 3)]
    return {"bench": bench, "case": case, "ratio": round(median, 3), "spread": spread, "floor": floor, "gate": gate}
