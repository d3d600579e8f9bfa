"""Files appear whole or not at all."""

import errno
import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seqgen.core import files, log
from seqgen.core.errors import DataError, RunError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("1")

    def fill_and_fail() -> None:
        with files.new_folder(tmp_path / "f") as folder:
            (folder / "x").write_text("2")
            raise KeyError

    with pytest.raises(KeyError):
        fill_and_fail()
    assert (tmp_path / "f" / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_json_names_the_file_that_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(DataError, match=r"a\.json: not JSON .*truncated or altered"):
        files.read_json(tmp_path / "a.json")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_log_cut_back_equals_one_that_never_went_on(tmp_path: Path) -> None:
    lines = log.JsonLines(tmp_path / "a.jsonl")
    lines.write({"step": 1, "loss": 0.1})
    size, sha256 = lines.position()
    lines.write({"step": 2, "loss": float("inf")})
    assert log.read(tmp_path / "a.jsonl")[1] == {"step": 2, "loss": None}
    lines.cut(size, sha256)
    lines.write({"step": 2, "loss": 0.5})
    lines.close()
    assert log.read(tmp_path / "a.jsonl") == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.5}]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda content: content[:-1], "truncated or altered (16 bytes, the checkpoint knows 32)"),
        (lambda content: content.replace(b"2", b"3"), "truncated or altered (SHA-256 differs)"),
        (lambda content: b"", "truncated or altered (0 bytes, the checkpoint knows 32)"),
    ],
)
def test_a_log_that_is_not_what_it_was_is_refused_and_never_padded(harm: Any, message: str, tmp_path: Path) -> None:
    lines = log.JsonLines(tmp_path / "a.jsonl")
    lines.write({"step": 10000})
    lines.write({"step": 20000})
    known = lines.position()
    lines.close()
    assert known == (32, hashlib.sha256(b'{"step": 10000}\n{"step": 20000}\n').hexdigest())
    (tmp_path / "a.jsonl").write_bytes(harm((tmp_path / "a.jsonl").read_bytes()))
    before = (tmp_path / "a.jsonl").read_bytes()
    again = log.JsonLines(tmp_path / "a.jsonl")
    with pytest.raises(RunError, match=re.escape(message)):
        again.cut(*known)
    again.close()
    assert b"\0" not in (tmp_path / "a.jsonl").read_bytes()
    assert before.startswith((tmp_path / "a.jsonl").read_bytes())


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    for line in ("nonsense", "[1]", "[" * 100_000, '{"step": "2"}'):
        (tmp_path / "a.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
        with pytest.raises(DataError, match=r"a\.jsonl, line 2: not a JSON object with a step; the file is altered$"):
            log.read(tmp_path / "a.jsonl")


def test_a_last_line_cut_short_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n{"st')
    assert log.read(tmp_path / "a.jsonl") == [{"step": 1}]
    assert log.read(tmp_path / "absent.jsonl") == []


def test_files_below_follows_links_and_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    shown = ["b.txt", "a/c.txt", "a/deep/d.txt", "a-b.txt"]
    hidden = [".h.txt", "a/._c.txt", ".ipynb_checkpoints/b.txt", "__MACOSX/b.txt", "a/.git/config"]
    for name in (*shown, *hidden):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "e.txt").write_text("e")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "in" / "f.txt").symlink_to(tmp_path / "other" / "e.txt")
    os.mkfifo(tmp_path / "in" / "pipe")
    expected = sorted(tmp_path / "in" / name for name in (*shown, "linked/e.txt", "f.txt"))
    assert files.files_below(tmp_path / "in") == expected
    for loop, target in (("a/up", ".."), ("a/self", "."), ("linked/back", tmp_path / "in"), ("deep", "a/deep")):
        (tmp_path / "in" / loop).symlink_to(target, target_is_directory=True)
    assert files.files_below(tmp_path / "in") == sorted([*expected, tmp_path / "in" / "deep" / "d.txt"])


def test_what_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        files.files_below(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/gone.txt: cannot be read (a link that leads nowhere); mend it or remove it from {tmp_path}"
    )
    (tmp_path / "gone.txt").unlink()

    def forbidden(self: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", forbidden)  # who runs tests may be allowed to read everything
    with pytest.raises(DataError, match=r": cannot be read \(Permission denied\); mend it or remove it from "):
        files.files_below(tmp_path)


# ---- one owner for a folder


HOLD = """
import sys, time
from pathlib import Path
from seqgen.core import files
with files.owned(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that keeps the folder `f`."""
    line = [sys.executable, "-c", HOLD, str(tmp_path / "f")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_the_second_owner_is_refused_by_name_and_a_killed_one_is_none(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    words = f"{tmp_path / 'f'} is in use by process {holder.pid} on {platform.node()}; wait until it ends, or use"
    with pytest.raises(RunError, match=f"^{re.escape(words)} another --out$"), files.owned(tmp_path / "f"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "f" / ".lock").exists()
    (tmp_path / "f" / "x").touch()
    with files.owned(tmp_path / "f"):
        pass
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["x"]


def test_of_many_first_owners_one_has_the_folder_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(k: int) -> None:
        for _ in range(20):
            with files.owned(tmp_path / "a" / "f"):
                inside.append(k)
                most.append(len(inside))
                inside.remove(k)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert (len(most), max(most)) == (80, 1)


def test_a_folder_that_stays_empty_goes_with_what_was_made_for_it(tmp_path: Path) -> None:
    with files.owned(tmp_path / "a" / "f"):
        assert (tmp_path / "a" / "f" / ".lock").exists()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic links"), files.owned(tmp_path / "f"):
        pass
    assert (tmp_path / "outside").read_text() == "precious"


def test_an_owner_removes_what_killed_processes_left_and_nothing_else(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = int(gone.stdout)
    run = tmp_path / "run"
    (run / "checkpoints" / ".step-00000006.tmp").mkdir(parents=True)
    (run / "samples").mkdir()
    (run / "checkpoints" / "step-00000003").mkdir()
    (run / "checkpoints" / "step-00000003" / f".state.json.{dead}.tmp").touch()
    (run / "samples" / f".00000006.txt.{dead}.tmp").touch()
    (run / f".tokenizer.{dead}.tmp").mkdir()
    kept = [run / f".report.html.{holder.pid}.tmp", run / "notes.tmp", run / ".hidden", run / "samples" / "mine.txt"]
    for path in kept:
        path.touch()
    with files.owned(run):
        pass
    assert sorted(p for p in run.rglob("*") if p.is_file()) == sorted(kept)
    assert not [p for p in run.rglob("*") if p.name.endswith(f"{dead}.tmp") or p.name.startswith(".step")]


def test_a_folder_made_anew_removes_what_a_killed_process_left_of_it(tmp_path: Path) -> None:
    (tmp_path / ".f.999999999.tmp").mkdir()
    (tmp_path / ".other.999999999.tmp").mkdir()
    with files.new_folder(tmp_path / "f"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.999999999.tmp", "f"]
