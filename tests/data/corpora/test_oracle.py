"""Oracle tasks and rewards of text: against numpy written plainly, and every fault one line."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from seqgen.core.errors import ConfigError, DataError
from seqgen.core.rng import generator
from seqgen.data.corpora import oracle as tasks
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.corpora.oracle import LstmOracle, oracle
from seqgen.data.prepare import DataConfig, TokenizerConfig, prepare
from seqgen.data.rewards import imported, is_code, reward

V, E, H = 7, 3, 4


def arrays(seed: int = 1) -> list[np.ndarray]:
    draws = np.random.default_rng(seed)
    shapes = [(V, E), *[(E, H), (H, H), (H,)] * 4, (H, V), (V,)]
    return [draws.normal(size=shape).astype(np.float32) for shape in shapes]


def by_numpy(parameters: list[np.ndarray], row: list[int]) -> list[float]:
    """The log-probability of every token: the equations of the paper's target LSTM, one row at a time."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    embedding, output, bias = parameters[0], parameters[-2], parameters[-1]
    gates = [parameters[k : k + 3] for k in range(1, 13, 3)]
    h, c, token, result = np.zeros(H), np.zeros(H), 0, []
    for following in row:
        i, f, o, g = (embedding[token].astype(float) @ w + h @ u + b for w, u, b in gates)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        logits = h @ output + bias
        result.append(float(logits[following] - np.log(np.exp(logits).sum())))
        token = following
    return result


def test_log_probs_equal_numpy() -> None:
    given = arrays()
    rows = np.random.default_rng(2).integers(0, V, (5, 6)).tolist()
    got = LstmOracle(given).log_probs(torch.tensor(rows))
    np.testing.assert_allclose(got.numpy(), [by_numpy(given, row) for row in rows], atol=1e-5)


def test_samples_have_the_oracles_probabilities() -> None:
    """Pairs of first tokens against their exact probabilities (chi-square)."""
    target = LstmOracle(arrays())
    count = 20_000
    drawn = target.sample(count, 2, generator("test"))
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    expected = target.log_probs(pairs).sum(1).exp() * count
    counts = (drawn[:, 0] * V + drawn[:, 1]).bincount(minlength=V * V).double()
    used = expected > 5
    statistic = float(((counts - expected)[used] ** 2 / expected[used]).sum())
    freedom = int(used.sum()) - 1
    assert abs(statistic - freedom) / math.sqrt(2 * freedom) < 4


def test_given_parameters_come_back_from_npz(tmp_path: Path) -> None:
    given = arrays()
    np.savez(tmp_path / "target.npz", *given)
    rows = torch.tensor([[1, 2, 3]])
    assert torch.equal(LstmOracle.load(tmp_path / "target.npz").log_probs(rows), LstmOracle(given).log_probs(rows))


def test_parameters_of_other_shapes_are_one_line(tmp_path: Path) -> None:
    def refused(changed: list[np.ndarray], message: str) -> None:
        path = tmp_path / "target.npz"
        np.savez(path, *changed)
        with pytest.raises(DataError) as caught:
            LstmOracle.load(path)
        assert str(caught.value) == f"{path}: {message}"

    wrong = arrays()
    wrong[3] = wrong[3][:-1]
    refused(wrong, "array 4 (b of gate i) is (3,), expected (4,)")
    what = "embedding; W, U, b of the gates i, f, o, c; output weight and bias"
    refused(arrays()[:-1], f"expected 15 arrays ({what}), got 14")
    bad = arrays()
    bad[0][0, 0] = math.nan
    refused(bad, "array 1 (embedding) holds something else than finite numbers")


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "target.npz"
    np.savez(path, a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"not an \.npz file of plain arrays; pickled parameters are not read"):
        LstmOracle.load(path)
    np.savez(path, a=np.zeros(3))
    content = bytearray(path.read_bytes())
    for place in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[place] |= 1  # says that it is encrypted
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not an \.npz file of plain arrays"):
        LstmOracle.load(path)
    (tmp_path / "other.npz").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(DataError, match="pickled parameters are not read"):
        LstmOracle.load(tmp_path / "other.npz")
    with pytest.raises(DataError, match=r"absent\.npz: no such file$"):
        LstmOracle.load(tmp_path / "absent.npz")


@pytest.mark.parametrize("name", ["oracle:", "oracle:captions:3", "oracle:lstm:0"])
def test_unknown_tasks_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"^{name}: "):
        oracle(name)


def test_lstm_task_is_text_of_fixed_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TRAINING", 30)
    monkeypatch.setattr(tasks, "HELD_OUT", 10)
    np.savez(tmp_path / "target.npz", *arrays())
    data = DataConfig(files=(f"oracle:lstm:5:{tmp_path / 'target.npz'}",))
    made = prepare(data, TokenizerConfig(), batch=4, seed=1, device="cpu")
    assert (made.mode, len(made.train_lines), len(made.valid_lines)) == ("fixed", 30, 10)
    assert {key: made.facts[key] for key in ("start", "stop", "max_length", "vocab_size")} == {
        "start": made.tokenizer.bos,
        "stop": -1,
        "max_length": 5,
        "vocab_size": V + 5,
    }
    assert set(made.facts["suppress_tokens"]) == {0, 1, 2, 3, 4}
    batch = made.batches.at(0)
    assert batch.inputs.shape == batch.targets.shape == (4, 5)
    assert batch.count == 20
    # what the oracle says of its own lines is what numpy says
    assert made.oracle is not None
    words = [[int(word) for word in line.split()] for line in made.valid_lines]
    expected = -sum(sum(by_numpy(arrays(), row)) for row in words)
    assert made.oracle.valid_nats == pytest.approx(expected, rel=1e-5)
    scores = made.oracle.scores(made.valid_lines)
    assert scores["nll_oracle"] == pytest.approx(expected / 50, rel=1e-5)
    assert scores["oracle_share"] == 1


def test_seeded_oracles_are_as_surprised_by_themselves_as_the_published_one() -> None:
    """5.750 nats per token with the paper's parameters; any draw of N(0, 1) parameters lies near."""
    target = LstmOracle.seeded()
    own = -target.log_probs(target.sample(300, 20, generator("own"))).mean()
    assert float(own) == pytest.approx(5.75, abs=0.4)


def test_grammar_task_knows_what_is_grammatical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TRAINING", 20)
    monkeypatch.setattr(tasks, "HELD_OUT", 10)
    task = oracle("oracle:captions")
    grammar = Grammar.load("captions")
    assert not task.fixed
    line = task.valid[0]
    scores = task.scores([line, "dog dog dog"])
    assert scores["oracle_share"] == 0.5
    assert scores["nll_oracle"] == pytest.approx(-grammar.log_probability(line) / len(line.split()))


def test_fixed_mode_wants_rows_of_one_length() -> None:
    lines = [f"a b {i}" for i in range(20)]
    made = prepare(
        DataConfig(mode="fixed"), TokenizerConfig(kind="word"), batch=2, seed=1, device="cpu", extra_input=lines
    )
    assert made.facts["max_length"] == 3
    with pytest.raises(DataError, match=r"tokens, expected 3; data\.mode = fixed needs rows of the same length"):
        prepare(
            DataConfig(mode="fixed"), TokenizerConfig(kind="word"), batch=2, seed=1, device="cpu",
            extra_input=[*lines, *(f"one more word {i}" for i in range(20))],
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ rewards


def test_built_in_rewards() -> None:
    line = Grammar.load("captions").sample(1, seed=3)[0]
    assert reward("grammatical:captions")([line, "dog dog dog", line]) == [1, 0, 1]
    assert reward("length:2-3")(["a", "a b", "a b c", "a b c d"]) == [0, 1, 1, 0]
    assert reward("regex:^a .*dog$")(["a big dog", "the dog", "a dog "]) == [1, 0, 0]


def test_label_reward_is_the_probability_of_a_fitted_classifier(tmp_path: Path) -> None:
    path = tmp_path / "labelled.tsv"
    rows = [f"good\tvery nice thing {i}" for i in range(20)] + [f"bad\tvery poor thing {i}" for i in range(20)]
    path.write_text("label\ttext\n" + "\n".join(rows) + "\n")
    nice, poor = reward(f"label:good:{path}")(["a nice one", "a poor one"])
    assert 0 <= poor < 0.3 < 0.7 < nice <= 1
    with pytest.raises(ConfigError, match=r"expected odd and another label, got \['bad', 'good'\]$"):
        reward(f"label:odd:{path}")


def write(path: Path, body: str) -> str:
    path.write_text(body)
    return str(path)


def test_a_function_of_your_own(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "def words(lines):\n    return [len(line.split()) for line in lines]\n")
    assert reward(f"{path}:words", imported(f"{path}:words"))(["a b", "a", "a b"]) == [2, 1, 2]
    with pytest.raises(ConfigError, match=r"mine\.py:words is code; pass it to seqgen\.train as reward=$"):
        reward(f"{path}:words")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(lines): return [1.0]", "returned 1 numbers for 2 lines"),
        ("def f(lines): return [1.0, float('nan')]", "returned nan for 'b c'; expected finite numbers"),
        ("def f(lines): raise KeyError('x')", "raised KeyError: 'x' (given 2 lines, the first 'a')"),
        ("def f(lines): return 'ab'", "must return one number for each line, got 'ab'"),
    ],
)
def test_faults_of_a_reward_are_one_line(body: str, message: str, tmp_path: Path) -> None:
    spec = f"{write(tmp_path / 'mine.py', body)}:f"
    with pytest.raises(ConfigError) as caught:
        reward(spec, imported(spec))(["a", "b c"])
    assert str(caught.value) == f"model.reward.kind {spec} {message}"


def test_what_is_no_reward_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "def other(lines): return [0 for _ in lines]")
    broken = write(tmp_path / "broken.py", "import absent_module_of_nobody")
    for spec, message in {
        "nonsense": "model.reward.kind must be critic, logit, constant, grammatical:GRAMMAR, length:MIN-MAX, "
        "regex:PATTERN, python, chem:qed, similarity:SMILES, label:NAME:FILE or FILE.py:FUNCTION, got 'nonsense'",
        "length:5-2": "model.reward.kind = length:5-2: no length is in this range",
        "regex:(": "model.reward.kind = regex:( is no regular expression",
        f"{tmp_path}/absent.py:f": f"model.reward.kind: {tmp_path}/absent.py: no such file",
        f"{path}:f": f"model.reward.kind: {path} has no function 'f'; it has: other",
        f"{broken}:f": f"model.reward.kind: {broken} cannot be imported: ModuleNotFoundError",
    }.items():
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
            (imported if is_code(spec) else reward)(spec)
