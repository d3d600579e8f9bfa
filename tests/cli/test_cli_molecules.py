"""`seqgen evaluate --domain molecules` and `corpus get moses`, as typed."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from seqgen.engine.report import write_report

REAL = ["CCO ethanol", "c1ccccc1 benzene", "CC(=O)O acid", "CCN amine", "CCCl chloride", "C1CCCCC1 ring"]


@pytest.fixture
def real(tmp_path: Path) -> Path:
    path = tmp_path / "real.smi"
    path.write_text("\n".join(REAL) + "\n")
    return path


def test_a_file_is_scored_as_molecules_beside_others(seqgen: Any, real: Path, tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    made = tmp_path / "made.txt"
    made.write_text("CCO\nOCC\nCCC\nC1CC\n")
    ended = seqgen("evaluate", made, "--references", real, "--domain", "molecules", "--json")
    table = json.loads(ended.out)
    scores = table["columns"][0]["scores"]
    assert table["protocol"] == "molecules"
    assert scores["valid"]["value"] == 0.75
    assert scores["unique_1k"]["value"] == pytest.approx(2 / 3)
    assert scores["fcd"]["value"] > 0
    none = tmp_path / "none.txt"
    none.write_text("the cat\nsat down\n")
    ended = seqgen("evaluate", made, "--references", none, "--domain", "molecules")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: 0 of 2 references are molecules; expected at least 2\n"


def test_options_of_other_tables_are_refused(seqgen: Any, real: Path) -> None:
    pytest.importorskip("rdkit")
    ended = seqgen("evaluate", real, "--references", real, "--domain", "molecules", "--protocol", "texygen")
    assert (ended.code, ended.err) == (2, "error: --domain molecules; it excludes --protocol\n")


def test_an_unknown_domain_is_refused_before_anything_is_scored(seqgen: Any, run: Path, real: Path) -> None:
    ended = seqgen("evaluate", run, "--references", real, "--domain", "molecule")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: --domain must be python or molecules, got 'molecule'\n"
    assert not (run / "evaluation.json").exists()


def test_lines_that_are_no_molecules_are_counted_and_dropped_only_if_asked(seqgen: Any, tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    text, keep = tmp_path / "text.smi", tmp_path / "keep.smi"
    text.write_text("smiles name\nCCO a\nC1CC b\nCC(C)(C)(C)C c\nCCN d\n")
    assert "no molecules" in (told := seqgen("corpus", "inspect", text).out)
    assert "2 lines, first 3" in told
    ended = seqgen("corpus", "filter", text, "--rule", "molecules", "--keep", keep)
    assert (ended.code, keep.read_text()) == (0, "CCO\nCCN\n")
    assert ended.err.endswith("2 of 4 lines in " + f"{keep}; 2 invalid\n")
    assert "no molecules" not in seqgen("corpus", "inspect", keep).out


def test_molecules_are_rewritten_as_other_strings_of_the_same_ones(seqgen: Any, real: Path, tmp_path: Path) -> None:
    chem = pytest.importorskip("rdkit.Chem")
    out, again, other = (tmp_path / name for name in ("a.smi", "b.smi", "c.smi"))
    ended = seqgen("corpus", "augment", real, "--domain", "molecules", "--copies", 5, "--out", out)
    assert (ended.code, ended.err) == (0, f"30 lines of 6 molecules in {out}\n")
    made = out.read_text().splitlines()
    wanted = [chem.CanonSmiles(line.split()[0]) for line in REAL]
    assert [chem.CanonSmiles(text) for text in made] == wanted * 5
    assert len(set(made[2::6])) > 1  # acetic acid can be written in several ways
    for path, seed in ((again, 0), (other, 1)):
        seqgen("corpus", "augment", real, "--domain", "molecules", "--copies", 5, "--seed", seed, "--out", path)
    assert again.read_text() == out.read_text() != other.read_text()


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (
            "CCO\nC1CC\nc1ccccc1\nnone\n",
            ["--domain", "molecules"],
            "T, line 2: not a SMILES string: 'C1CC'; 2 of 4 lines are none; seqgen corpus filter FILE --rule molecules "
            "--keep OTHER drops them",
        ),
        ("CCO\n", ["--domain", "molecules", "--copies", "0"], "--copies must be an integer >= 1, got 0"),
        ("CCO\n", ["--domain", "molecules", "--per-class", "3"], "--domain molecules; it excludes --per-class"),
        ("CCO\n", ["--domain", "molecules", "train.steps=3"], "expected one file of molecules, got T, train.steps=3"),
        ("CCO\n", ["--domain", "python"], "--domain must be molecules, got 'python'"),
        ("CCO\n", ["--copies", "3"], "--copies takes no effect without --domain molecules"),
    ],
)
def test_what_cannot_be_rewritten_is_told_and_nothing_is_written(
    content: str, words: list[str], message: str, seqgen: Any, tmp_path: Path
) -> None:
    pytest.importorskip("rdkit")
    text, out = tmp_path / "text.smi", tmp_path / "more.smi"
    text.write_text(content)
    ended = seqgen("corpus", "augment", text, "--out", out, *words)
    message = message.replace("T, ", f"{text}, ", 1)
    assert (ended.code, ended.out, ended.err) == (2, "", f"error: {message}\n")
    assert not out.exists()


def test_without_the_extra_the_line_that_installs_it_is_told(
    seqgen: Any, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended = seqgen("evaluate", real, "--references", real, "--domain", "molecules")
    assert ended.code == 3
    needs = "--domain molecules needs rdkit and fcd-torch; run: pip install 'neural-seqgen[chem]'"
    assert ended.err == f"error: {needs}\n"


def test_only_moses_is_taken_out_of_a_file(seqgen: Any, real: Path) -> None:
    ended = seqgen("corpus", "get", "names", "--file", real)
    assert (ended.code, ended.err) == (2, "error: --file takes moses out of its package; other sets are fetched\n")
    ended = seqgen("corpus", "get", "moses", "--file", real)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"error: {real}: not a wheel that can be read (File is not a zip file)\n"


def test_the_report_draws_the_samples_that_are_molecules(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    own = tmp_path / "run"
    shutil.copytree(run, own)
    (own / "evaluation.json").write_text('{"protocol": "molecules", "metrics": {}, "columns": []}')
    for path in (own / "samples").glob("*.txt"):
        path.write_text("CCO\nC1CC<b>\nc1ccccc1\n")
    page = write_report(own).read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "<b>" not in page.split("Molecules</h2>")[1].split("</section>")[0]
