"""Molecules: MOSES's definitions against RDKit and fcd-torch themselves, closed forms, and MOSES's own statistics."""

import math
import warnings
from collections import Counter

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from seqgen.core.errors import ConfigError
from seqgen.data.corpora import known, moses
from seqgen.data.rewards import reward
from seqgen.data.text import read_lines
from seqgen.metrics import molecules

pytest.importorskip("rdkit")
pytest.importorskip("fcd_torch")

from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Crippen, rdFingerprintGenerator

ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"
SOME = [ASPIRIN, CAFFEINE, "CCO", "c1ccc2ccccc2c1", "C1CCNCC1C(=O)N", "CC(C)Cc1ccc(C)cc1", "OCC", "Nc1ccncc1"]
OTHERS = ["CCCO", "c1ccc2[nH]ccc2c1", "CC(=O)Nc1ccc(O)cc1", "O=C(O)c1ccccc1", "C1CCCCC1Cl", "CCN(CC)CC"]


def bits(smiles: list[str]) -> list[object]:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    return [generator.GetFingerprint(Chem.MolFromSmiles(one)) for one in smiles]


@pytest.fixture(scope="module")
def statistics() -> molecules.Statistics:
    return molecules.statistics([molecules.molecule(one) for one in OTHERS], device="cpu")


@pytest.mark.parametrize(
    ("text", "valid"),
    [("CCO", True), ("c1ccccc1", True), ("C1CC", False), ("C(C", False), ("C(C)(C)(C)(C)C", False), ("", False)],
)
def test_a_molecule_closes_rings_and_branches_and_keeps_valences(text: str, valid: bool) -> None:
    assert molecules.is_molecule(text) is valid


def test_shares_are_of_valid_and_of_distinct_molecules(statistics: molecules.Statistics) -> None:
    texts = ["CCO", "OCC", "C(C)O", "CCC", "C1CC", "nothing"]  # three ways to write ethanol, propane, two that are none
    scores = molecules.score_molecules(texts, statistics, train=["OCC", "CCCC"], device="cpu")
    assert float(scores["valid"]) == pytest.approx(4 / 6)
    assert float(scores["unique_1k"]) == pytest.approx(2 / 4)
    assert float(scores["novel"]) == pytest.approx(1 / 2)  # the training set's ethanol is not written canonically
    assert scores["unique_1k"].note == "of 4 valid ones"
    assert "scaf" not in scores


def test_without_valid_molecules_the_share_alone_is_told(statistics: molecules.Statistics) -> None:
    assert set(molecules.score_molecules(["C1CC", "C"], statistics, device="cpu")) == {"valid"}
    with pytest.raises(ValueError, match=r"^no texts to score$"):
        molecules.score_molecules([], statistics, device="cpu")


def test_scores_of_sets_are_those_of_rdkit_and_fcd_torch(statistics: molecules.Statistics) -> None:
    import fcd_torch

    scores = molecules.score_molecules(SOME, statistics, filters=["[#35]"], device="cpu")
    ours, theirs = bits(SOME), bits(OTHERS)
    near = [DataStructs.BulkTanimotoSimilarity(one, theirs) for one in ours]
    assert float(scores["snn"]) == pytest.approx(np.mean([max(row) for row in near]), abs=1e-6)
    pairs = np.array([DataStructs.BulkTanimotoSimilarity(one, ours) for one in ours])
    assert float(scores["int_div"]) == pytest.approx(1 - pairs.mean(), abs=1e-6)
    assert float(scores["int_div_2"]) == pytest.approx(1 - math.sqrt((pairs**2).mean()), abs=1e-6)
    values = [[Crippen.MolLogP(Chem.MolFromSmiles(one)) for one in part] for part in (SOME, OTHERS)]
    assert float(scores["logp_w1"]) == pytest.approx(wasserstein_distance(*values))
    canonical = [[Chem.MolToSmiles(Chem.MolFromSmiles(one)) for one in part] for part in (OTHERS, SOME)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        far = fcd_torch.FCD(device="cpu")(ref=canonical[0], gen=canonical[1])
    assert float(scores["fcd"]) == pytest.approx(far, rel=1e-2)  # its square root of a singular matrix is rough
    assert float(scores["filters"]) == 1.0


def test_scaffolds_need_two_rings_and_fragments_end_at_brics_bonds() -> None:
    assert [molecules.scaffold(molecules.molecule(one)) for one in (CAFFEINE, ASPIRIN, "CCO")] == [
        "O=c1[nH]c(=O)c2[nH]cnc2[nH]1",
        "",
        "",
    ]
    # an amide: BRICS cuts beside its nitrogen, L1-L5 and L4-L5 (Degen et al. 2008), and marks the ends by these numbers
    parts = molecules.fragments(molecules.molecule("CC(=O)NCC"))
    assert Counter(parts) == Counter(["[1*]C(C)=O", "[5*]N[5*]", "[4*]CC"])
    assert molecules.cosine({"a": 3, "b": 4}, {"b": 5}) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("CCO", True),
        ("CC(=O)[O-]", False),  # a charge
        ("C[Si](C)(C)C", False),  # silicon
        ("C1CCCCCC1", True),  # a ring of seven
        ("C1CCCCCCC1", False),  # of eight
        ("C=CC#N", False),  # the first pattern of MCF
    ],
)
def test_filters_are_rings_atoms_charges_and_patterns(text: str, passing: bool) -> None:
    patterns = molecules.catalogue(["[#6]=&!@[#6]-[#6]#[#7]"])
    assert molecules.passes(molecules.molecule(text), patterns) is passing


def test_a_pattern_that_is_none_is_told() -> None:
    with pytest.raises(ValueError, match=r"^not a SMARTS pattern: '\[\['$"):
        molecules.catalogue(["[["])


def test_rewards_of_molecules_are_rdkit_s() -> None:
    assert reward("chem:qed")([ASPIRIN, "C1CC"]) == [QED.qed(Chem.MolFromSmiles(ASPIRIN)), 0.0]
    one, other = bits(["CCO", "CCCO"])
    near = reward("similarity:OCC")(["CCO", "CCCO", "x"])
    assert near == [1.0, DataStructs.TanimotoSimilarity(one, other), 0.0]
    with pytest.raises(ConfigError, match=r"^model.reward.kind = similarity:C1C: not a SMILES string: 'C1C'$"):
        reward("similarity:C1C")


def test_a_drawing_is_svg_and_nothing_for_what_is_no_molecule() -> None:
    assert molecules.drawing(CAFFEINE).rstrip().endswith("</svg>")
    assert molecules.drawing("C1CC") == ""


@pytest.mark.skipif(not known.read_catalogue()["moses"].at_hand(), reason="SEQGEN_DATA does not hold moses")
def test_what_we_compute_is_what_moses_stored() -> None:
    stored = moses.statistics("test")
    assert stored is not None
    lines = read_lines(known.find("moses")["test"], field="SMILES")
    assert len(lines) == stored.count
    first = [molecules.molecule(line) for line in lines[:50]]
    assert [molecules.canonical(one) for one in first] == lines[:50]
    assert (np.packbits(np.stack([molecules.fingerprint(one) for one in first]), axis=1) == stored.bits[:50]).all()
    for name, of in molecules.PROPERTIES.items():
        assert [of(one) for one in first] == pytest.approx(stored.properties[name][:50].tolist(), abs=1e-9)
    assert {part for one in first for part in molecules.fragments(one)} <= set(stored.fragments)
    assert {frame for one in first if (frame := molecules.scaffold(one))} <= set(stored.scaffolds)
    patterns = molecules.catalogue(moses.filters())
    assert all(molecules.passes(one, patterns) for one in first)
