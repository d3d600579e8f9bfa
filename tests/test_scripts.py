"""The scripts of the checkout: set-up against a stand-in for Python that logs its calls, the checks, the benches."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHELL_SCRIPTS = [
    f"scripts/{name}" for name in ("setup", "test", "check", "lowest", "docs", "quickstart", "release")
] + [".ci/run"]

# stands in for python3 and, copied, for .venv/bin/python: `-m venv` and `-m pip` are logged and done in small, a
# program that imports torch prints the version that would be found, everything else goes to the real Python
STAND_IN = f"""#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in
"-m venv "*) mkdir -p .venv/bin .venv/lib && touch .venv/pyvenv.cfg && cp "$0" .venv/bin/python ;;
"-m pip --version") exit 0 ;;
"-m pip install "*torch==*)
    [ -z "${{BREAK_TORCH-}}" ] || exit 1
    echo 2.13.0+cpu >.venv/torch ;;
"-m pip install "*) [ -z "${{BREAK_PIP-}}" ] || exit 1 ;;
*purelib*) echo .venv/lib ;;
"- "*/.venv/) echo "$0" ;;
"-") code=$(cat)
    case "$code" in
    *"import torch"*)
        case "$0" in
        .venv/*) cat .venv/torch 2>/dev/null || echo "${{FOUND_TORCH-}}" ;;
        *) echo "${{FOUND_TORCH-}}" ;;
        esac ;;
    *) printf '%s\\n' "$code" | exec "{sys.executable}" - ;;
    esac ;;
*) exec "{sys.executable}" "$@" ;;
esac
"""


class Checkout:
    """A checkout with nothing but what the set-up reads, and a machine without GPU that has one Python."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a check out"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "scripts/setup"):
            shutil.copy(ROOT / name, self.root / name)
        self.tools = folder / "tools"
        self.tools.mkdir()
        self.log = folder / "log"
        self.tool("python3", STAND_IN)
        self.tool("nvidia-smi", "#!/bin/sh\nexit 9\n")

    def tool(self, name: str, text: str) -> Path:
        path = self.tools / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def change(self, name: str) -> None:
        with (self.root / name).open("a") as file:
            file.write("# changed\n")

    def setup(self, **options: str) -> tuple[int, str, list[str]]:
        """Exit code, stderr and the calls of Python of one set-up, started from another folder."""
        self.log.write_text("")
        environment = {"PATH": f"{self.tools}:{os.defpath}", "LOG": str(self.log), **options}
        command = ["sh", str(self.root / "scripts" / "setup")]
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
        assert done.stdout == ""
        return done.returncode, done.stderr, self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def installs(calls: list[str]) -> list[str]:
    """What pip was asked to install, without the options that every call has."""
    common = "-m pip install -qq --no-input --disable-pip-version-check "
    return [call.removeprefix(common) for call in calls if call.startswith(common)]


def pinned_torch() -> str:
    return next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_a_shell_can_read_the_script(name):
    shell = "bash" if name == ".ci/run" else "sh"
    assert subprocess.run([shell, "-n", ROOT / name], check=False).returncode == 0


def test_setup_from_nothing_installs_the_pinned_torch_and_warns_of_its_size(checkout):
    code, said, calls = checkout.setup()
    assert code == 0
    assert installs(calls) == [pinned_torch(), "-c .venv/seqgen-constraints.txt -e .[dev]"]
    assert said.count("no GPU answers, yet torch may bring several GB") == 1
    assert "set SEQGEN_TORCH_INDEX to" in said
    assert (checkout.root / ".venv" / "seqgen-constraints.txt").read_text().startswith("torch==")


def test_setup_again_starts_no_python(checkout):
    checkout.setup()
    assert checkout.setup() == (0, "", [])


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt", "scripts/setup"])
def test_setup_after_a_change_keeps_the_environment_and_installs_again(checkout, changed):
    checkout.setup()
    checkout.change(changed)
    code, said, calls = checkout.setup()
    assert code == 0
    assert "making .venv" not in said
    assert installs(calls) == ["-c .venv/seqgen-constraints.txt -e .[dev]"]
    assert checkout.setup() == (0, "", [])


@pytest.mark.parametrize("broken", ["BREAK_TORCH", "BREAK_PIP"])
def test_setup_that_failed_starts_over(checkout, broken):
    code, said, _ = checkout.setup(**{broken: "1"})
    assert code == 1
    assert "setup: pip could not install" in said
    assert "setup: ready" not in said
    code, said, _ = checkout.setup()
    assert code == 0
    assert "making .venv" in said
    assert "setup: ready" in said


def test_setup_that_failed_after_a_change_starts_over(checkout):
    checkout.setup()
    checkout.change("constraints.txt")
    assert checkout.setup(BREAK_PIP="1")[0] == 1
    assert "making .venv" in checkout.setup()[1]


def test_an_interrupted_removal_of_the_old_environment_does_not_pass_for_one(checkout):
    checkout.setup(BREAK_PIP="1")
    # interrupted where the removal of the unfinished environment had begun: all but its first steps is still there
    interrupted = 'for last; do :; done; /bin/rm -f "$last/seqgen-unfinished"; [ "$1" = -rf ] && exit 1; /bin/rm "$@"'
    checkout.tool("rm", f"#!/bin/sh\n{interrupted}\n")
    assert checkout.setup()[0] == 1
    (checkout.tools / "rm").unlink()
    code, said, _ = checkout.setup()
    assert code == 0
    assert "making .venv" in said


def test_an_environment_without_its_cfg_is_made_anew_as_its_python_would_install_elsewhere(checkout):
    checkout.setup()
    (checkout.root / ".venv" / "pyvenv.cfg").unlink()
    checkout.change("constraints.txt")
    code, said, _ = checkout.setup()
    assert code == 0
    assert "making .venv" in said


def test_pip_never_installs_outside_an_environment(checkout):
    log = 'echo "require $PIP_REQUIRE_VIRTUALENV" >>"$LOG"'
    checkout.tool("python3", STAND_IN.replace("#!/bin/sh\n", f'#!/bin/sh\ncase "$*" in *install*) {log} ;; esac\n'))
    calls = checkout.setup()[2]
    assert len(installs(calls)) == calls.count("require 1") == 2


def test_setup_takes_torch_as_the_options_say_and_is_silent_about_size(checkout):
    code, said, calls = checkout.setup(SEQGEN_TORCH="torch==2.6.*", SEQGEN_TORCH_INDEX="file:///wheels")
    assert code == 0
    assert installs(calls)[0] == "--index-url file:///wheels torch==2.6.*"
    assert "several GB" not in said


def test_setup_is_silent_about_size_where_a_gpu_answers(checkout):
    checkout.tool("nvidia-smi", "#!/bin/sh\nexit 0\n")
    assert "several GB" not in checkout.setup()[1]


def test_setup_keeps_an_installed_torch(checkout):
    code, said, calls = checkout.setup(FOUND_TORCH="2.13.0+cpu", SEQGEN_TORCH="torch==2.6.*")
    assert code == 0
    assert installs(calls) == ["-c .venv/seqgen-constraints.txt -e .[dev]"]
    assert "setup: keeping torch 2.13.0+cpu" in said
    assert "SEQGEN_TORCH and SEQGEN_TORCH_INDEX take no effect where a torch is installed" in said
    assert "site-packages" in (checkout.root / ".venv" / "lib" / "seqgen-found.pth").read_text()


def test_another_torch_than_the_tested_one_frees_the_pins_of_its_own_parts(checkout):
    checkout.setup(FOUND_TORCH="2.5.1")
    pins = (checkout.root / ".venv" / "seqgen-constraints.txt").read_text()
    assert "sympy==" in (ROOT / "constraints.txt").read_text()
    assert "sympy==" not in pins
    assert "numpy==" in pins


def test_setup_without_a_new_enough_python_says_so(checkout):
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        checkout.tool(name, "#!/bin/sh\nexit 1\n")
    code, said, _ = checkout.setup()
    assert code == 1
    assert said == (
        "setup: seqgen needs Python 3.11 or newer, found none; install one, or name it: PYTHON=/path/to/python3.11\n"
    )
    code, said, _ = checkout.setup(PYTHON="/no/python")
    assert (code, said) == (1, "setup: PYTHON=/no/python does not run as Python 3.11 or newer\n")


def test_setup_with_an_old_python3_takes_a_newer_one_by_its_name(checkout):
    checkout.tool("python3", "#!/bin/sh\nexit 1\n")
    checkout.tool("python3.12", STAND_IN)
    assert checkout.setup()[0] == 0


def test_setup_without_venv_says_what_to_install(checkout):
    checkout.tool("python3", '#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n')
    code, said, _ = checkout.setup()
    assert code == 1
    assert said == (
        "setup: python3 has no venv or ensurepip; install them (Debian and Ubuntu: apt-get install python3-venv)\n"
    )


def test_check_refuses_what_it_does_not_know():
    done = subprocess.run(["sh", ROOT / "scripts/check", "--quick"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: scripts/check [--slow | --lowest]\n")


def test_every_step_of_check_runs_and_the_failed_ones_are_named(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/check", tmp_path / "scripts/check")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ncase "$*" in *mypy*|*format*) exit 1;; *pytest*) echo "1 passed";; esac\n')
    python.chmod(0o755)
    command = ["sh", tmp_path / "scripts/check"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == "1 passed\n"
    assert done.stderr.splitlines()[-1] == "check: failed: ruff format, mypy, mypy of scripts/gpu"


def test_a_release_is_made_of_a_commit_that_the_changelog_names(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "seqgen").mkdir()
    shutil.copy(ROOT / "scripts/release", tmp_path / "scripts/release")
    (tmp_path / "seqgen/_version.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("## 0.1.0\n")
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HOME": str(tmp_path)}
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]

    def run(*command: str) -> str:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        ).stderr

    run("git", "init", "-q")
    assert "release: the checkout has changes that are not committed" in run("sh", "scripts/release")
    run("git", "add", ".")
    run("git", *identity, "commit", "-qm", "all")
    assert run("sh", "scripts/release") == "release: CHANGELOG.md has no heading '## 0.2.0'\n"


def test_quickstart_says_how_it_is_used():
    done = subprocess.run(["sh", ROOT / "scripts/quickstart", "--quick"], capture_output=True, text=True, check=False)
    usage = "usage: scripts/quickstart [--fast] [FOLDER] [SECTION.OPTION=VALUE ...]\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", usage)


def twice(folder: Path, *words: str | Path) -> list[subprocess.CompletedProcess[str]]:
    """A quickstart of tiny models, and again in the same folder."""
    if not (ROOT / ".venv" / "seqgen-stamp").exists():
        pytest.skip("needs the environment of scripts/setup")
    tiny = ["model.hidden=16", "train.steps=20", "train.eval_every=20", "train.samples=20"]
    command = ["sh", ROOT / "scripts/quickstart", *words, *tiny]
    return [subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False) for _ in range(2)]


@pytest.mark.slow
def test_quickstart_fast_shows_a_language_model_and_again_without_training(tmp_path):
    run = tmp_path / "a run"
    first, second = twice(tmp_path, "--fast", run)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("finished at step 20") == 1
    assert "bleu_4" in first.stdout
    assert first.stdout.splitlines()[-1] == str(run / "report.html")
    assert second.returncode == 0, second.stderr
    assert "nothing to do" in second.stderr
    assert second.stdout == first.stdout
    assert not (tmp_path / "a run-set").exists()


@pytest.mark.slow
def test_quickstart_shows_every_model_on_one_page_and_again_without_training(tmp_path):
    run, models = tmp_path / "a run", tmp_path / "a run-set"
    first, second = twice(tmp_path, run)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("finished at step 20") == 5
    assert first.stdout.splitlines()[-1] == str(models / "index.html")
    page = (models / "index.html").read_text()
    linked = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(linked) == 7
    assert [link for link in linked if not (models / link).is_file()] == []
    for shown in ("a run |", "seqgan |", "text-vae |", "ffd"):  # rows have the whole path
        assert shown in page
        assert shown in first.stdout
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("nothing to do") == 5
    assert second.stdout == first.stdout


@pytest.mark.slow
def test_torture_leaves_a_table_and_goes_on(tmp_path):
    command = [sys.executable, ROOT / "scripts/torture", tmp_path / "out", "--inputs", "120", "--only", "log"]
    for hours in ("0.00001", "1"):
        done = subprocess.run([*command, "--hours", hours], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
    assert re.search(r"\| log \| 120 \| \d+ \| 0 \|", done.stdout)
    assert (tmp_path / "out" / "table.md").read_text() == done.stdout


# ---- benches


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_script", ROOT / "scripts" / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_file(folder: Path, name: str, **row: object) -> None:
    row = {"bench": name, "case": "c", "ratio": 2.0, "floor": 1.5, "gate": "ok", **row}
    (folder / f"file_of_{name}.py").write_text(f"def rows(quick):\n    yield {row!r}\n\nBENCHES = {{{name!r}: rows}}\n")


def test_bench_names_are_read_without_importing(bench, tmp_path, capsys):
    (tmp_path / "one.py").write_text('raise SystemExit("imported")\nBENCHES = {"b": 1, "a": 2}\n')
    assert bench.main(["--list"], tmp_path) == 0
    assert capsys.readouterr().out == "a\nb\n"


def test_every_bench_of_the_project_has_a_name(bench):
    names = bench.bench_files(ROOT / "scripts" / "bench")
    assert {"sampling", "batches"} <= set(names)


@pytest.mark.parametrize(
    ("row", "options", "code"),
    [
        ({}, [], 0),
        ({"ratio": 1.4}, [], 1),
        ({"ratio": 1.4}, ["--quick"], 0),
        ({"gate": "rows differ"}, ["--quick"], 1),
        ({"gate": "no bf16 units", "ratio": 0.1}, [], 0),
        ({"floor": None, "ratio": 0.1}, [], 0),
        ({"floor": None, "gate": "rows differ"}, [], 1),
    ],
)
def test_bench_exit_code(bench, tmp_path, monkeypatch, capsys, row, options, code):
    monkeypatch.setattr(sys, "path", list(sys.path))
    rows_file(tmp_path, "bench_of_test", **row)
    monkeypatch.delitem(sys.modules, "file_of_bench_of_test", raising=False)
    assert bench.main(["bench_of_test", "--json", *options], tmp_path) == code
    out, err = capsys.readouterr()
    lines = (err if row.get("floor", 1) is None else out).splitlines()
    expected = {"bench": "bench_of_test", "case": "c", "ratio": 2.0, "floor": 1.5, "gate": "ok", **row}
    assert [json.loads(line) for line in lines] == [expected]


def test_an_unknown_bench_is_one_line_with_a_suggestion(bench, tmp_path, capsys):
    rows_file(tmp_path, "sampling")
    assert bench.main(["samplin"], tmp_path) == 2
    assert capsys.readouterr().err == "scripts/bench.py: no bench samplin; did you mean sampling?\n"
    assert bench.main(["xyz"], tmp_path) == 2
    assert capsys.readouterr().err == "scripts/bench.py: no bench xyz; there are: sampling\n"
    assert bench.main([], tmp_path) == 2
    assert capsys.readouterr().err == "scripts/bench.py: name a bench: sampling\n"
