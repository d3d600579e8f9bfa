"""What can be had by name: the corpora that come with the package, and public sets with their origin and SHA-256.

Wherever a file of text or images is wanted, the name of a set stands for one of its parts: the training part for
training (`--data captions`), the valid part, where there is one, for choosing a checkpoint (`--valid`), the test part
for everything else (`--references captions`). A path that exists wins.
A public set is found under the folder that SEQGEN_DATA names (else ./data), or fetched into a folder laid out the same
way. Nothing is used that does not have the SHA-256 of corpora/known.toml.
Run: seqgen corpus list, seqgen corpus get NAME
"""

import difflib
import functools
import gzip
import hashlib
import http.client
import os
import tomllib
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqgen.core.errors import DataError

Use = Literal["train", "valid", "test"]

MADE_IMAGES = ("digits", "shapes")
"""Names of images that come without a file."""

_BLOCK = 1 << 18  # Bytes read at once.

Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes so far, bytes in all or 0 where the server does not say)."""


@dataclass(frozen=True)
class KnownFile:
    """One file of a public set."""

    part: str
    """What it is within the set: train, test, all ..."""
    use: str
    """What it is for: train (also where a set has no parts), valid or test."""
    path: str
    """Where it lies under the folder of the set."""
    sha256: str
    """SHA-256 of the file, in hexadecimal; of its content where it is unpacked first."""
    unpacked: bool
    """Whether `sha256` is that of the content of a .gz, whose wrapper differs from copy to copy."""
    url: str
    """Where it is fetched from; empty where it must be had by hand."""
    member: str
    """Where it lies in the package that has it, for a set that comes in one."""


@dataclass(frozen=True)
class KnownSet:
    """A set: what it is, whose it is and how it is read."""

    name: str
    about: str
    kind: str
    """text, images, or what is neither yet: music."""
    licence: str
    page: str
    shipped: bool
    """Whether it comes with the package."""
    settings: dict[str, dict[str, Any]]
    """How it is read: settings of the sections `data` and `tokenizer`."""
    files: tuple[KnownFile, ...]
    how: str
    """The commands that get it, where it cannot be fetched but comes in a package."""

    def folder(self) -> Path:
        """Return where its files lie."""
        return corpora_folder() if self.shipped else Path(os.environ.get("SEQGEN_DATA") or "data")

    def at_hand(self) -> bool:
        """Return whether all of its files are there."""
        return all((self.folder() / file.path).is_file() for file in self.files)


def corpora_folder() -> Path:
    """Return the folder of grammars and corpora: inside an installed package, at the root of a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "corpora"
    return installed if installed.is_dir() else package.parent / "corpora"


def shipped() -> dict[str, Path]:
    """Return the corpora that come with the package: name -> text to train on."""
    return {name: paths_of(entry, "train")[0] for name, entry in read_catalogue().items() if entry.shipped}


def read_catalogue(path: Path | None = None) -> dict[str, KnownSet]:
    """Return the sets of a catalogue by name; without a path the package's own, corpora/known.toml."""
    return dict(_catalogue(path or corpora_folder() / "known.toml"))


@functools.cache
def _catalogue(path: Path) -> dict[str, KnownSet]:
    with path.open("rb") as file:
        return {name: _known_set(name, entry) for name, entry in tomllib.load(file).items()}


def named(name: str | Path, kind: str) -> KnownSet | None:
    """Return the set that a name stands for; None for a path that exists and for what no set is called.

    DataError where it is not of the kind, text or images.
    """
    known = None if os.path.exists(name) else read_catalogue().get(str(name))  # noqa: PTH110 # takes any text
    if known is not None and known.kind != kind:
        raise DataError(f"{name} is a set of {known.kind}; expected {kind}")
    return known


def paths_of(known: KnownSet, use: Use) -> list[Path]:
    """Return the files of a set to train on, choose by or test with; label files are found beside those of images.

    Without a valid part the test part is that, and of a set without a test part all of it is both. Raises DataError if
    a file is missing or altered.
    """
    uses = (use, "test") if use == "valid" else (use,)
    wanted = next(filter(None, ([file for file in known.files if file.use == one] for one in uses)), list(known.files))
    found = {file.part: _found(known, file, known.folder()) for file in wanted}
    return [path for part, path in found.items() if not part.endswith("-labels")]


def expanded(files: Iterable[str | Path], use: Use, kind: str = "text") -> list[str | Path]:
    """Return the files with every name of a set replaced by the paths of its part."""
    entries = [(file, named(file, kind)) for file in files]
    return [path for file, entry in entries for path in ([file] if entry is None else paths_of(entry, use))]


def no_such_file(file: str | Path, kind: str = "text") -> DataError:
    """Return the error for a path that does not exist; for a bare name with the nearest name of a set, or all."""
    if Path(file).name != str(file) or "." in str(file):
        return DataError(f"{file}: no such file")
    names = [name for name, entry in read_catalogue().items() if entry.kind == kind]
    names = [*MADE_IMAGES, *names] if kind == "images" else names
    close = difflib.get_close_matches(str(file), names, 1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
    return DataError(f"{file}: no such file, and no set is called so; {hint}")


def find(
    name: str, *, folder: str | Path | None = None, catalogue: Mapping[str, KnownSet] | None = None
) -> dict[str, Path]:
    """Return all files of a set, part -> path, each with the right SHA-256, under `folder` or where sets lie.

    Raises DataError if the name is unknown, or a file is missing or altered.
    """
    known = _named(name, catalogue)
    return {file.part: _found(known, file, Path(folder or known.folder())) for file in known.files}


def _found(known: KnownSet, file: KnownFile, folder: Path) -> Path:
    path = folder / file.path
    if not path.is_file():
        here = f"put a copy there, or set SEQGEN_DATA to a folder with {file.path}"
        here = here if not os.environ.get("SEQGEN_DATA") else "put a copy there (SEQGEN_DATA)"
        raise DataError(f"{known.name}: no {path}; {here}, {_or_fetch(known)}")
    _check(path, file, f"{path}: ", "replace it by a good copy")
    return path


def get(
    name: str,
    out: str | Path,
    *,
    progress: Progress | None = None,
    catalogue: Mapping[str, KnownSet] | None = None,
    timeout_s: float = 30.0,
) -> dict[str, Path]:
    """Fetch a public set into folder `out`, laid out as SEQGEN_DATA is; part -> path of files with the right SHA-256.

    A set that comes with the package lies where it is. Good copies that are there are kept. What an interruption leaves
    lies beside as `.NAME.part`, and the next call continues it. Raises DataError if the name is unknown, the server
    cannot be reached or sends something else.
    """
    known = _named(name, catalogue)
    if known.shipped:
        return find(name, catalogue=catalogue)
    by_hand = [file for file in known.files if not file.url and not (Path(out) / file.path).is_file()]
    if by_hand and known.how:
        raise DataError(f"{name} comes in a package; run: {known.how}")
    if by_hand:
        raise DataError(
            f"{name} cannot be fetched; see {known.page}, and put a copy with SHA-256 {by_hand[0].sha256} "
            f"at {Path(out) / by_hand[0].path}"
        )
    found: dict[str, Path] = {}
    for file in known.files:
        path = Path(out) / file.path
        if path.is_file():
            _check(path, file, f"{path}: ", "remove it to fetch it again")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            try:
                _fetch(file.url, part, path.name, progress, timeout_s)
            except (OSError, http.client.HTTPException) as error:
                raise DataError(
                    f"{name}: cannot fetch {file.url} ({_reason(error)}); try again later to continue, or put a copy "
                    f"with SHA-256 {file.sha256} at {path} (see {known.page})"
                ) from None
            try:
                _check(part, file, f"{file.url}: ", f"the source has changed; see {known.page}")
            except DataError:
                part.unlink()
                raise
            part.replace(path)
        found[file.part] = path
    return found


def _fetch(url: str, part: Path, name: str, progress: Progress | None, timeout_s: float) -> None:
    """Load `url` into `part`, from where it ends; OSError or HTTPException if that fails, with what came kept."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return  # nothing is left to send: the part is whole, or its hash will show that it is not
        raise
    with answer:
        if answer.status != 206:
            have = 0  # the server sends all of it again
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                have += len(block)
                if progress:
                    progress(name, have, total)
            file.flush()
            os.fsync(file.fileno())
    if have < total:
        raise ConnectionError(f"broke off after {have} of {total} bytes")


def _check(path: Path, file: KnownFile, where: str, remedy: str) -> None:
    """Raise DataError unless the file, or what it holds, has the SHA-256 of the catalogue."""
    try:
        with gzip.open(path) if file.unpacked else path.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{where}not a whole gzip file ({error}); {remedy}") from None
    if actual != file.sha256:
        raise DataError(f"{where}SHA-256 is {actual}, expected {file.sha256}; {remedy}")


def _named(name: str, catalogue: Mapping[str, KnownSet] | None) -> KnownSet:
    sets = read_catalogue() if catalogue is None else catalogue
    if name not in sets:
        close = difflib.get_close_matches(name, sets, 1)
        raise DataError(
            f"unknown set {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sets)}")
        )
    return sets[name]


def _or_fetch(known: KnownSet) -> str:
    if known.how:
        return f"or run: {known.how}"
    return f"or run: seqgen corpus get {known.name}" if all(file.url for file in known.files) else f"see {known.page}"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__


def _known_set(name: str, entry: dict[str, Any]) -> KnownSet:
    files = tuple(
        KnownFile(
            file["part"],
            file.get("use") or ("test" if file["part"].startswith("test") else "train"),
            file["path"],
            file.get("sha256") or file["unpacked_sha256"],
            "unpacked_sha256" in file,
            file.get("url", ""),
            file.get("member", ""),
        )
        for file in entry["files"]
    )
    return KnownSet(
        name,
        entry["about"],
        entry["kind"],
        entry["licence"],
        entry["page"],
        entry.get("shipped", False),
        entry.get("settings", {}),
        files,
        entry.get("how", ""),
    )
