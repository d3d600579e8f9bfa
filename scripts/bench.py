#!/usr/bin/env python3
"""Times ours against the usual way, one thread, and says whether the figures still hold.

Run: scripts/bench.py NAME... [--quick] [--json], scripts/bench.py --floors [--quick], scripts/bench.py --list
Each file in scripts/bench/ has BENCHES: name -> function(quick) that yields rows. A row with a floor is one JSON
object on stdout, {"bench", "case", "ratio", "floor", "gate"}; everything else goes to stderr. The gate is "ok",
"no bf16 units" (not judged), or what was wrong with the result that was timed.
Exit code 1: a gate failed or, without --quick, a ratio is below its floor. 2: no such bench.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded, so before any import that may do so

import argparse
import ast
import difflib
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COLUMNS = ("bench", "case", "ratio", "floor", "gate")
FLOORS = (
    "critic-train",
    "lm-train",
    "sampling",
    "nll",
    "rollouts",
    "batches",
    "corpus-bleu",
    "frechet",
    "prdc",
    "vae-step",
    "tokenize",
    "seqgan-iteration",
)
"""The benches of docs/speed.md's table of floors."""
NOT_JUDGED = ("no bf16 units", "fast-bleu is not installed", "hmmlearn is not installed")
"""Gates that say why a row could not be measured here."""
Bench = Callable[[bool], Iterator[dict[str, Any]]]


def bench_files(folder: Path) -> dict[str, Path]:
    """The file of every bench by its name, read from the keys of BENCHES without importing anything."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Dict) and any(isinstance(t, ast.Name) and t.id == "BENCHES" for t in targets):
                found |= {ast.literal_eval(key): path for key in value.keys if key}
    return found


def bench(name: str, path: Path) -> Bench:
    """The bench of this name; its file may import its neighbours by their plain names."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    benches: dict[str, Bench] = importlib.import_module(path.stem).BENCHES
    return benches[name]


def roof() -> str:
    """What one core of this machine can do at best: matrix products and copies, in CPU time."""
    import torch

    def rate(work: Callable[[], object], amount: float) -> float:
        work()
        rates = []
        for _ in range(5):
            begin = time.process_time()
            work()
            rates.append(amount / (time.process_time() - begin))
        return max(rates)

    def product(dtype: torch.dtype) -> float:
        a = torch.ones(1024, 1024, dtype=dtype)
        return rate(lambda: a @ a, 2 * 1024**3) / 1e9

    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    copied = rate(lambda: target.copy_(source), source.numel() * 4 / 2**30)
    fp32, bf16 = product(torch.float32), product(torch.bfloat16)
    return f"one thread: matmul fp32 {fp32:.0f}, bf16 {bf16:.0f} GFLOP/s; copy of 256 MB {copied:.0f} GiB/s"


def main(arguments: list[str], folder: Path = HERE / "bench") -> int:
    """Run the named benches and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes; floors are not judged")
    parser.add_argument("--json", action="store_true", help="rows only: no lines for people on stderr")
    parser.add_argument("--floors", action="store_true", help="the benches of the table of floors in docs/speed.md")
    parser.add_argument("--list", action="store_true", help="print the names there are")
    options = parser.parse_args(arguments)

    files = bench_files(folder)
    if options.list:
        print(*sorted(files), sep="\n")
        return 0
    options.names += FLOORS if options.floors else ()
    if not options.names:
        return refuse("name a bench: " + ", ".join(sorted(files)))
    for name in options.names:
        if name not in files:
            close = difflib.get_close_matches(name, files, 1)
            return refuse(
                f"no bench {name}; "
                + (f"did you mean {close[0]}?" if close else "there are: " + ", ".join(sorted(files)))
            )

    import torch

    torch.set_num_threads(1)
    if not options.json:
        print(roof(), file=sys.stderr)
    failed = False
    for name in options.names:
        for row in bench(name, files[name])(options.quick):
            judged = row["floor"] is not None
            wrong = row["gate"] not in ("ok", *NOT_JUDGED)
            slow = judged and row["gate"] not in NOT_JUDGED and not options.quick and row["ratio"] < row["floor"]
            failed |= wrong or slow
            if judged:
                print(json.dumps({column: row[column] for column in COLUMNS}), flush=True)
                more = {key: value for key, value in row.items() if key not in COLUMNS}
                if more and not options.json:
                    print(f"  {row['case']}: {json.dumps(more)}", file=sys.stderr)
            else:
                print(json.dumps(row), file=sys.stderr)
            if (wrong or slow) and not options.json:
                reason = row["gate"] if wrong else f"{row['ratio']} is below {row['floor']}"
                print(f"  {row['case']}: FAILED, {reason}", file=sys.stderr)
    return int(failed)


def refuse(reason: str) -> int:
    print(f"scripts/bench.py: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    environment = HERE.parent / ".venv" / "bin" / "python"
    if importlib.util.find_spec("seqgen") is None and environment.exists():
        # started by a Python that does not have seqgen: the checkout's own has
        os.execv(environment, [str(environment), *sys.argv])
    sys.exit(main(sys.argv[1:]))
