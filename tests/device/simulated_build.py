"""The library of the simulated device: whether it can be made here, and making it once."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("simulated.cpp")


def missing() -> str:
    """Why the device cannot be simulated here, or ""."""
    if _compiler() is None:
        return "the simulated device is compiled once, and there is no C++ compiler (c++, g++ or clang++)"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    text = (_torch() / "version.py").read_text()
    if "cuda: Optional[str] = None" not in text and "cuda = None" not in text:
        return "this torch has a CUDA of its own; the device is simulated for CPU builds"
    return ""


def built() -> Path:
    """The library, compiled if it is not yet for this source and this torch."""
    version = (_torch() / "version.py").read_bytes()
    name = hashlib.sha256(SOURCE.read_bytes() + version + str(_torch()).encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"seqgen-simulated-device-{os.getuid()}" / f"{name}.so"
    if not library.exists():
        library.parent.mkdir(mode=0o700, exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}")
        includes = [f"-I{_torch() / 'include'}", f"-I{_torch() / 'include/torch/csrc/api/include'}"]
        links = [f"-L{_torch() / 'lib'}", f"-Wl,-rpath,{_torch() / 'lib'}", "-lc10", "-ltorch_cpu"]
        command = [str(_compiler()), "-std=c++20", "-O1", "-w", "-shared", "-fPIC", str(SOURCE), "-o", str(part)]
        ended = subprocess.run([*command, *includes, *links], capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(f"{SOURCE.name} does not compile with this torch:\n{ended.stderr[-4000:]}")
        part.rename(library)
    return library


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    return Path(str(spec and spec.origin)).parent
