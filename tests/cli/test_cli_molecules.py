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
