"""MOSES out of its wheel: molecules to train on and to compare with, filters, and the statistics of its test sets.

The wheel of `molsets` 0.3.1 (Polykovskiy et al. 2020) holds all of them; today's packages keep it from being installed.
Nothing of it is imported or run: its statistics are a pickle in a NumPy file, of which `plain` takes the data alone, by
an interpreter of the few operations that build arrays, numbers, texts and tables.
Run: pip download --no-deps molsets==0.3.1 && seqgen corpus get moses --file molsets-0.3.1-py3-none-any.whl
"""

import csv
import hashlib
import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from seqgen.core import files
from seqgen.core.errors import DataError
from seqgen.data.corpora import known
from seqgen.metrics.molecules import Statistics

STATISTICS = {
    "test": (
        "moses/dataset/data/test_stats.npz",
        "ded25073225a895d4ed17bf1d4223d27560e87ff4cb85786346ca1cc8efa03d3",
    ),
    "scaffolds": (
        "moses/dataset/data/test_scaffolds_stats.npz",
        "7b7aba6c1474634a019bebf16f389d554cb9dd1021dfc8c1d1e54430a9f0e7f8",
    ),
}
"""By the part of the set, the member of the wheel that holds its statistics, and its SHA-256."""

_PROPERTIES = {"logp": "logP", "sa": "SA", "qed": "QED", "weight": "weight"}


def take(wheel: Path, out: Path) -> dict[str, Path]:
    """Take the set out of a wheel into a folder laid out as SEQGEN_DATA is; part -> path, as `known.find` returns.

    DataError where the file is no such wheel.
    """
    entry = known.read_catalogue()["moses"]
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in entry.files:
                content = _member(archive, wheel, file.member, file.sha256)
                (out / file.path).parent.mkdir(parents=True, exist_ok=True)
                files.write_bytes(out / file.path, content)
            for part, (member, sha256) in STATISTICS.items():
                content = _member(archive, wheel, member, sha256)
                files.write_bytes(_statistics_path(out, part), _arrays(content))
    except FileNotFoundError:
        raise DataError(f"{wheel}: no such file; run: pip download --no-deps molsets==0.3.1") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{wheel}: not a wheel that can be read ({error})") from None
    return known.find("moses", folder=out)


def statistics(part: str) -> Statistics | None:
    """Return MOSES's own statistics of its part `test` or `scaffolds`; None where it was not taken out."""
    path = _statistics_path(known.read_catalogue()["moses"].folder(), part)
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        tables = {
            name: dict(zip(bytes(stored[name]).decode().split("\n"), stored[f"{name}_counts"].tolist(), strict=True))
            for name in ("fragments", "scaffolds")
        }
        return Statistics(
            len(stored["bits"]),
            (stored["mean"], stored["covariance"]),
            stored["bits"],
            tables["fragments"],
            tables["scaffolds"],
            {name: stored[name] for name in _PROPERTIES},
        )


def filters() -> list[str]:
    """Return the SMARTS patterns of MOSES's filters, MCF and then PAINS; DataError where the set is not at hand."""
    found = known.find("moses")
    with (
        found["mcf"].open(encoding="utf-8", newline="") as mcf,
        found["pains"].open(encoding="utf-8", newline="") as pains,
    ):
        return [row["smarts"] for row in csv.DictReader(mcf)] + [row[0] for row in csv.reader(pains)]


def _statistics_path(folder: Path, part: str) -> Path:
    return folder / "text" / "moses" / f"{part}-statistics.npz"


def _member(archive: zipfile.ZipFile, wheel: Path, name: str, sha256: str) -> bytes:
    try:
        content = archive.read(name)
    except KeyError:
        raise DataError(f"{wheel}: holds no {name}; expected the wheel of molsets 0.3.1") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{wheel}: SHA-256 of {name} is not that of molsets 0.3.1; download it again")
    return content


def _arrays(packed: bytes) -> bytes:
    """Return a NumPy file of plain arrays that holds what MOSES's statistics do."""
    with zipfile.ZipFile(io.BytesIO(packed)) as inside:
        content = io.BytesIO(inside.read("stats.npy"))
    np.lib.format.read_magic(content)
    np.lib.format.read_array_header_1_0(content)
    stored = plain(content.read())[0]
    columns: dict[str, Any] = {"mean": stored["FCD"]["mu"], "covariance": stored["FCD"]["sigma"]}
    columns["bits"] = np.packbits(stored["SNN"]["fps"], axis=1)
    for name, table in (("fragments", stored["Frag"]["frag"]), ("scaffolds", stored["Scaf"]["scaf"])):
        columns[name] = np.frombuffer("\n".join(table).encode(), np.uint8)
        columns[f"{name}_counts"] = np.array(list(table.values()), np.int64)
    columns |= {name: np.array(stored[theirs]["values"], np.float64) for name, theirs in _PROPERTIES.items()}
    made = io.BytesIO()
    np.savez_compressed(made, **columns)
    return made.getvalue()


# ------------------------------------------------------------------------------
# the data of a pickle


class _Array:
    """An array while it is built: made empty, then given what it holds."""

    value: Any = None


def plain(pickled: bytes) -> Any:
    """Return the lists, tables, texts, numbers and NumPy arrays of a pickle; nothing that it names is called.

    DataError for an operation, or a name, that such data does not need.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def above() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    argument: Any
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        if name in ("BINUNICODE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"):
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "GLOBAL":
            stack.append(_NAMES.get(argument.replace("numpy._core", "numpy.core")) or _refuse(argument))
        elif name == "TUPLE":
            stack.append(tuple(above()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            values = above()
            stack[-1].extend(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            values = above()
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name == "REDUCE":
            arguments, make = stack.pop(), stack.pop()
            stack.append(make(*arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _Array):
                _, shape, kind, fortran, content = state
                held = content if isinstance(content, list) else np.frombuffer(content, kind)
                stack[-1].value = held if isinstance(held, list) else held.reshape(shape, order="F" if fortran else "C")
        elif name == "STOP":
            return _values(stack.pop())
        elif name != "PROTO":
            _refuse(name)
    return _refuse("no end")


def _values(built: Any) -> Any:
    if isinstance(built, _Array):
        return _values(built.value)
    if isinstance(built, list):
        return [_values(one) for one in built] if any(isinstance(one, list | dict | _Array) for one in built) else built
    return {key: _values(value) for key, value in built.items()} if isinstance(built, dict) else built


def _refuse(name: str) -> Any:
    raise DataError(f"a pickle with {name!r}, which plain data does not need; nothing of it was used")


_CONSTANTS: dict[str, Any] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWFALSE": lambda: False,
    "NEWTRUE": lambda: True,
}
_NAMES: dict[str, Any] = {
    "numpy.core.multiarray _reconstruct": lambda *_: _Array(),
    "numpy.core.multiarray scalar": lambda kind, content: np.frombuffer(content, kind)[0].item(),
    "numpy ndarray": "ndarray",
    "numpy dtype": lambda kind, *_: kind,
    "_codecs encode": lambda text, coding: text.encode(coding if coding == "latin1" else "ascii"),
    "collections Counter": lambda table: table,
}
"""What stands in for the names in a pickle of arrays."""
