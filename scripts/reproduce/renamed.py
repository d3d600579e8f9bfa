#!/usr/bin/env python3
"""Whether two runs are the same but for the names in docs/renamed.toml: python scripts/reproduce/renamed.py OLD NEW

Every tensor of every checkpoint and every value of log.jsonl and scores.jsonl is compared; exit code 1 if one differs.
"""

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

NAMES = tomllib.loads((Path(__file__).resolve().parents[2] / "docs" / "renamed.toml").read_text(encoding="utf-8"))


def tensors(path: Path) -> dict[str, np.ndarray]:
    """A file of tensors under today's names; an optimizer's names end in the one of their parameter."""
    found = {}
    for name, value in load_file(path).items():
        parts = name.replace("/", "/.").split(".")
        found[".".join(NAMES["tensors"].get(part, part) for part in parts).replace("/.", "/")] = value
    return found


def rows(path: Path) -> list[dict[str, object]]:
    """A log under today's names; signatures are left out, their parts are renamed."""
    read = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{NAMES["log"].get(k, k): v for k, v in row.items() if k not in ("signature", "signs")} for row in read]


def main() -> int:
    """Compare two run folders; every difference is a line, and the last one says how much was compared."""
    old, new = map(Path, sys.argv[1:])
    apart, compared = [], 0
    for path in sorted(old.glob("checkpoints/**/*.safetensors")):
        a, b = tensors(path), tensors(new / path.relative_to(old))
        for name in sorted({*a, *b}):
            compared += 1
            same = name in a and name in b and a[name].tobytes() == b[name].tobytes()
            apart += [] if same else [f"{path.relative_to(old)}: {name}"]
    for log in ("log.jsonl", "scores.jsonl"):
        a_rows, b_rows = rows(old / log), rows(new / log)
        apart += [] if len(a_rows) == len(b_rows) else [f"{log}: {len(a_rows)} and {len(b_rows)} lines"]
        for number, (x, y) in enumerate(zip(a_rows, b_rows, strict=False), 1):
            names = {*x, *y}
            compared += len(names)
            apart += [f"{log}, line {number}: {name}" for name in sorted(names) if x.get(name) != y.get(name)]
    print("\n".join([*apart, f"{compared} values, {len(apart)} differ"]))
    return 1 if apart or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
