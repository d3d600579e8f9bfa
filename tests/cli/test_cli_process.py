"""The command line as processes, and what it costs: quick help, pipes, a full standard output, torchrun."""

import gc
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import call
from torch.distributed.run import get_args_parser

from seqgen.cli import app
from seqgen.core.options import Beam, Constraints, Lengths, Sampling, help_texts

NO_UTF_8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
CAPTION = call("corpus", "sample", "captions", "--count", "1").out.encode()
HEAVY = ("torch", "numpy", "sklearn", "nltk", "sentencepiece", "matplotlib", "pydantic", "rich")


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seqgen", *arguments], capture_output=True, text=True, check=False, **options
    )


def modules_after(*arguments: str, also: Sequence[Sequence[str]] = ()) -> set[str]:
    """What is imported when a command has run, and others after it."""
    calls = f"[m.main(words) for words in {[list(arguments), *map(list, also)]!r}]"
    script = f"import sys, seqgen.__main__ as m; {calls}; print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ended.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    assert modules_after("--help").isdisjoint(HEAVY)
    every = [[*words, "--help"] for words, _ in commands(typer.main.get_command(app.app))]
    lean = [words for words in every if words[0] not in ("bleu", "self-bleu")]  # their settings bring numpy
    # typer parses the words of a command with pydantic, and an old one writes help with rich
    own = {"pydantic"} if tuple(map(int, typer.__version__.split(".")[:2])) >= (0, 29) else {"pydantic", "rich"}
    assert modules_after(*lean[0], also=lean[1:]).isdisjoint({*HEAVY} - own)
    assert "torch" not in modules_after(*every[0], also=every[1:])


def test_the_flags_of_generate_are_the_fields_of_its_options_in_panels(seqgen: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    titles = ("What to write", "Sampling", "Beam search", "Constraints", "Latents", "Images", "Output", "Run")
    shown = dict(
        zip(
            titles,
            re.split(rf"^(?:{'|'.join(titles)}):$", seqgen("generate", "--help").out, flags=re.M)[1:],
            strict=True,
        )
    )
    for cls, title in ((Sampling, "Sampling"), (Constraints, "Constraints"), (Beam, "Beam search")):
        for name, text in help_texts(cls).items():
            flag = {"bad_words": "--bad-word"}.get(name, f"--{name.replace('_', '-')}")
            if name in ("suppress_tokens", "details"):
                assert flag not in " ".join(shown.values())
            else:
                assert flag in shown["Sampling" if name in help_texts(Lengths) else title]
                assert text in " ".join(" ".join(shown.values()).split())


def test_scores_of_text_and_samples_of_grammars_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c\nd e f\n")
    assert "torch" not in modules_after("bleu", str(tmp_path / "a.txt"), str(tmp_path / "a.txt"))
    assert "torch" not in modules_after("corpus", "sample", "captions")


def test_train_says_what_it_reads_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch yet')")
    (tmp_path / "a.txt").write_text("a b c\n")
    for files, words in ((["a.txt"], "a.txt"), (["-", "a.txt"], "standard input and 1 more")):
        given = [word for file in files for word in ("--data", file)]
        ended = process("train", "lm", *given, "--out", "r", cwd=tmp_path)
        assert ended.stderr.splitlines()[0] == f"reading {words} ..."
        assert "no torch yet" in ended.stderr


def test_a_command_leaves_the_collector_as_it_was(seqgen: Any) -> None:
    before = gc.get_threshold()
    seqgen("--help")
    assert gc.get_threshold() == before


def test_a_bare_command_shows_the_help_and_is_wrong_usage(seqgen: Any) -> None:
    for words in ([], ["corpus"], ["tokenizer"]):
        bare = seqgen(*words)
        assert (bare.code, bare.err) == (2, "")
        assert bare.out == seqgen(*words, "--help").out


def test_every_command_is_listed_with_a_whole_sentence(seqgen: Any) -> None:
    for words in ([], ["corpus"], ["tokenizer"]):
        listed = seqgen(*words, "--help").out.split("Commands:\n")[1].rstrip().splitlines()
        assert all(line.endswith((".", "?")) and not line.endswith("...") for line in listed), listed


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_keeps_its_examples_and_fits_the_terminal(width: int, seqgen: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words, command in commands(typer.main.get_command(app.app)):
        shown = seqgen(*words, "--help").out
        assert max(map(len, shown.splitlines())) <= width, words
        assert "[[" not in shown
        examples = [line.strip() for line in (command.help or "").splitlines() if line.strip().startswith("seqgen ")]
        assert set(examples) <= {line.strip() for line in shown.splitlines()}, words


def test_version_is_the_package_s(seqgen: Any) -> None:
    from seqgen import __version__

    assert seqgen("--version").out == f"seqgen {__version__}\n"


# ---- options under torchrun


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that lead to it."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


def options() -> list[tuple[tuple[str, ...], str]]:
    found = []
    for words, command in commands(typer.main.get_command(app.app)):
        named = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
        found += [(words, name) for name in [*named, "--help"] if name.startswith("-")]
    return found


@pytest.mark.parametrize(
    ("words", "option"), options(), ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_torchrun_hands_every_option_on(words: tuple[str, ...], option: str) -> None:
    rest = [*words, option, "value"]
    parsed = get_args_parser().parse_args(["--nproc-per-node", "8", "-m", "seqgen", *rest])
    assert (parsed.training_script, parsed.training_script_args) == ("seqgen", rest)


def test_torchrun_would_stumble_over_run(capsys: Any) -> None:
    """The control: an option that torchrun takes for a beginning of its own."""
    if sys.version_info >= (3, 12):
        pytest.skip("argparse looks at later words no longer since Python 3.12")
    with pytest.raises(SystemExit):
        get_args_parser().parse_args(["-m", "seqgen", "generate", "--n", "value"])
    assert "ambiguous option: --n could match" in capsys.readouterr().err


# ---- standard output


def test_whoever_stops_reading_ends_it_quietly() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "seqgen", "corpus", "sample", "captions", "--count", "3000"],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_said() -> None:
    with Path("/dev/full").open("w") as disk:
        ended = subprocess.run(
            [sys.executable, "-m", "seqgen", "corpus", "sample", "captions"],
            stdout=disk,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ended.stderr == b"error: standard output: cannot be written (the disk is full)\n"
    assert ended.returncode == 2


def test_text_is_utf_8_whatever_the_locale_says(seqgen: Any) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    ended = process("corpus", "sample", "verse-zh", "--count", "2", encoding="utf-8", env=environment)
    assert (ended.stdout, ended.stderr) == (seqgen("corpus", "sample", "verse-zh", "--count", "2").out, "")


def test_errors_hold_what_the_locale_cannot(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    ended = process("bleu", "夏.txt", "b.txt", encoding="utf-8", env=environment, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (2, "error: 夏.txt: no such file\n")


# ---- streams that are closed, a locale without UTF-8, words that are no text


def shell(command: str, where: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell's command line, in which `seqgen` is ours."""
    program = f'seqgen() {{ {shlex.quote(sys.executable)} -m seqgen "$@"; }}; {command}'
    return subprocess.run(
        ["sh", "-c", program], capture_output=True, check=False, cwd=where, env=os.environ | environment
    )


@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [
        ("seqgen bleu - a.txt <&-", 2, b"", b"error: standard input: cannot be read (Bad file descriptor)\n"),
        ("seqgen bleu a.txt a.txt >&-", 2, b"", b"error: standard output: cannot be written (it is closed)\n"),
        ("seqgen bleu ./absent a.txt >&-", 2, b"", b"error: ./absent: no such file\n"),
        ("seqgen bleu ./absent a.txt 2>&-", 2, b"", b""),
        ("seqgen bleu ./absent a.txt 2>/dev/full", 2, b"", b""),
        ("seqgen corpus sample captions --count 1 --out made <&- >&- 2>&- && cat made", 0, CAPTION, b""),
        (
            "seqgen corpus sample captions --count 1 --out /dev/stdout | cat",
            0,
            CAPTION,
            b"1 lines written to /dev/stdout\n",
        ),
    ],
)
def test_closed_streams_are_said_and_take_no_other_file_s_place(
    command: str, code: int, out: bytes, err: bytes, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a b c d\ne f g h\n")
    ended = shell(command, tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, err)


@pytest.mark.parametrize(
    ("locale", "line"),
    [
        ({}, b"error: 'caf\\udce9.txt' on the command line is not UTF-8; rename the file, or convert the text\n"),
        (NO_UTF_8, b"error: 'caf\\udce9.txt' on the command line is not ASCII; set LC_ALL=C.UTF-8\n"),
    ],
)
def test_words_that_are_no_text_are_refused(locale: dict[str, str], line: bytes, tmp_path: Path) -> None:
    ended = shell("seqgen bleu $(printf 'caf\\351.txt') a.txt", tmp_path, **locale)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, b"", line)


def test_a_locale_without_utf_8_changes_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("春眠不覺曉\n處處聞啼鳥\n", encoding="utf-8")
    commands = "seqgen self-bleu a.txt --tokenizer char --order 1 && seqgen corpus sample verse-zh --count 2 --out made"
    there, here = shell(commands, tmp_path), shell(commands, tmp_path, **NO_UTF_8)
    assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)
    assert here.returncode == 0


CLEARS_THE_SCREEN = "a \x1b[2Jb\x9b2Jc\x07\n"


def test_a_terminal_sees_control_characters_and_does_not_obey_them(tmp_path: Path) -> None:
    rules = 'start = "s"\n[rules]\ns = "a \\u001b[2Jb\\u009b2Jc\\u0007"\n'
    (tmp_path / "grammar.toml").write_text(rules, encoding="utf-8")
    words = [sys.executable, "-m", "seqgen", "corpus", "sample", "grammar.toml", "--count", "1"]
    ours, theirs = pty.openpty()
    ended = subprocess.run(words, stdout=theirs, cwd=tmp_path, check=True)
    os.close(theirs)
    assert os.read(ours, 1000) == b"a \\x1b[2Jb\\x9b2Jc\\x07\r\n"
    os.close(ours)
    ended = subprocess.run(words, stdout=subprocess.PIPE, cwd=tmp_path, check=True)
    assert ended.stdout.decode() == CLEARS_THE_SCREEN  # a pipe gets the text itself
    ended = subprocess.run([*words[:-3], "\x1b[2J"], stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert ended.stderr.startswith(b"error: no grammar '\\x1b[2J'")


def test_texts_flow_through_a_pipe(run: Path, text: Path) -> None:
    program = f"{shlex.quote(sys.executable)} -m seqgen"
    command_line = f"{program} generate {run} --count 5 | {program} bleu - {text} --order 2"
    ended = subprocess.run(command_line, shell=True, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "hyp:5|nrefs:144" in ended.stdout
    assert ended.stderr == ""


# ---- the end from outside


def test_sigterm_leaves_no_half_written_corpus_but_what_a_repeated_command_goes_on_from(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"the cat number {i} sat on mat {i * i}\n" for i in range(200_000)))
    words = ["corpus", "build", str(tmp_path / "text.txt"), "--out", str(tmp_path / "ids"), "tokenizer.kind=char"]
    with subprocess.Popen([sys.executable, "-m", "seqgen", *words], stderr=subprocess.PIPE) as started:
        limit = time.monotonic() + 60
        while not (tmp_path / ".ids.building").exists():
            assert started.poll() is None, "it ended before it could be terminated"
            assert time.monotonic() < limit, "no progress"
            time.sleep(0.005)
        started.send_signal(signal.SIGTERM)
        started.wait()
    assert started.returncode == 143
    assert {p.name for p in tmp_path.iterdir()} - {".ids.building"} == {"text.txt"}
