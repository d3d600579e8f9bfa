"""The hidden Markov model against sums over all paths of states, and against `hmmlearn`."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import ConfigError
from seqgen.data.ragged import Ragged
from seqgen.models import hmm

PAD, START, STOP, SEP = 0, 5, 2, 3
WORDS = [1, 4, 6, 7]
ROWS = [[1, 4, 4], [], [7], [6, 1, 7, 4], [4, 4]]


def made(states: int = 3, smoothing: float = 0.0, rows: list[list[int]] = ROWS) -> hmm.Model:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = hmm.Model(
            hmm.Config(
                states=states,
                smoothing=smoothing,
                vocab_size=8,
                start=START,
                stop=STOP,
                pad=PAD,
                sep=SEP,
                suppress_tokens=(PAD, SEP, START),
                max_length=9,
            )
        )
    model.rows = Ragged.from_lists([[START, *row, STOP] for row in rows])
    return model


def batch_of(rows: list[list[int]]) -> SequenceBatch:
    width = max(map(len, rows)) + 1
    inputs = torch.tensor([[START, *row, *[PAD] * (width - 1 - len(row))] for row in rows])
    targets = torch.tensor([[*row, STOP, *[PAD] * (width - 1 - len(row))] for row in rows])
    lengths = torch.tensor([len(row) + 1 for row in rows])
    positions = (torch.arange(width) < lengths[:, None]).flatten().nonzero().squeeze(1)
    return SequenceBatch(inputs, targets, positions, lengths, torch.arange(len(rows)))


def paths(model: hmm.Model, row: list[int]) -> dict[tuple[int, ...], float]:
    """P(x, z) of a line and its end, for all paths of states."""
    tokens, k = [*row, STOP], model.config.states
    initial, move, emit = (t.tolist() for t in (model.initial, model.transition, model.emission))
    return {
        z: initial[z[0]]
        * math.prod(move[a][b] for a, b in itertools.pairwise(z))
        * math.prod(emit[x][s] for x, s in zip(tokens, z, strict=True))
        for z in itertools.product(range(k), repeat=len(tokens))
    }


def test_the_likelihood_of_a_line_is_the_sum_over_all_paths() -> None:
    model = made()
    found = model.log_probs(batch_of(ROWS)).split([len(row) + 1 for row in ROWS])
    for row, log_p in zip(ROWS, found, strict=True):
        assert float(log_p.sum()) == pytest.approx(math.log(sum(paths(model, row).values())), abs=1e-12)


def test_an_iteration_is_that_of_the_counts_expected_over_all_paths() -> None:
    model, k = made(smoothing=0.5), 3
    initial, move, emit = np.zeros(k), np.zeros((k, k)), np.zeros((8, k))
    emit[[*WORDS, STOP]] = 0.5
    nll = 0.0
    for row in ROWS:
        weights = paths(model, row)
        total = sum(weights.values())
        nll -= math.log(total)
        for z, p in weights.items():
            initial[z[0]] += p / total
            for a, b in itertools.pairwise(z):
                move[a, b] += p / total
            for x, s in zip([*row, STOP], z, strict=True):
                emit[x, s] += p / total
    found, tokens = model.improve()
    assert (float(found), tokens) == (pytest.approx(nll, abs=1e-12), sum(len(row) + 1 for row in ROWS))
    np.testing.assert_allclose(model.initial, initial / initial.sum(), rtol=1e-12)
    np.testing.assert_allclose(model.transition, move / move.sum(1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(model.emission, emit / emit.sum(0), rtol=1e-12)


def test_the_likeliest_path_is_that_of_all_paths() -> None:
    model = made()
    states, log_p = model.viterbi(batch_of(ROWS))
    for row, path, value in zip(ROWS, states.tolist(), log_p.tolist(), strict=True):
        best, p = max(paths(model, row).items(), key=lambda item: item[1])
        assert (tuple(path[: len(row) + 1]), value) == (best, pytest.approx(math.log(p), abs=1e-12))
        assert set(path[len(row) + 1 :]) <= {-1}


def many() -> list[list[int]]:
    draw = random.Random(3)
    return [[draw.choice(WORDS) for _ in range(draw.choice([0, 2, 5, 11]))] for _ in range(700)]


def test_iterations_and_paths_are_those_of_hmmlearn() -> None:
    theirs = pytest.importorskip("hmmlearn.hmm", reason="an independent implementation")
    rows = many()
    model = made(5, rows=rows)
    reference = theirs.CategoricalHMM(5, n_iter=4, tol=-math.inf, params="ste", init_params="")
    reference.n_features = 8
    reference.startprob_, reference.transmat_ = model.initial.numpy(), model.transition.numpy()
    reference.emissionprob_ = model.emission.t().numpy()
    text = np.array([token for row in rows for token in (*row, STOP)])[:, None]
    lengths = [len(row) + 1 for row in rows]
    reference.fit(text, lengths)
    nll = [float(model.improve()[0]) for _ in range(4)]
    np.testing.assert_allclose(nll, -np.array(list(reference.monitor_.history)[-4:]), rtol=1e-12)
    np.testing.assert_allclose(model.transition, reference.transmat_, atol=1e-10)
    np.testing.assert_allclose(model.emission.t(), reference.emissionprob_, atol=1e-10)
    log_p = model.log_probs(batch_of(rows)).sum()
    assert float(log_p) == pytest.approx(reference.score(text, lengths), rel=1e-12)
    states, total = model.viterbi(batch_of(rows))
    expected, path = reference.decode(text, lengths)
    assert float(total.sum()) == pytest.approx(expected, rel=1e-12)
    # a path that goes round its loops in another order is as likely
    assert (states[states >= 0].numpy() == path).mean() > 0.98


def test_no_iteration_makes_the_text_less_likely() -> None:
    model = made(4, rows=many())
    nll = [float(model.improve()[0]) for _ in range(30)]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(nll))
    assert nll[-1] < nll[0] - 100


def test_without_smoothing_the_unseen_has_no_probability_and_with_it_some() -> None:
    for smoothing, impossible in ((0.0, True), (0.01, False)):
        model = made(smoothing=smoothing, rows=[[1, 4], [4]])
        model.improve()
        assert (float(model.log_probs(batch_of([[7]])).sum()) == -math.inf) is impossible
        assert float(model.log_probs(batch_of([[1], [4, 4]])).sum()) > -math.inf


def test_the_next_token_is_distributed_as_lines_are_scored() -> None:
    model = made(smoothing=0.1)
    model.improve()
    stepper, head = model.stepper(), model.decoder().output
    for before in ([], [1], [4, 6], [7, 1, 1, 7]):
        features, _ = stepper.step(torch.tensor([(START, *before)[-1]]), stepper.prefill([[START, *before][:-1]]))
        log_p = head.logits(features, head.plain_bias)[0, :8]
        assert log_p.double().exp().sum().item() == pytest.approx(1, abs=1e-6)
        assert [i for i in range(8) if log_p[i] == -torch.inf] == [PAD, SEP, START]
        scored = [model.log_probs(batch_of([[*before, word]]))[len(before)].item() for word in WORDS]
        scored.append(model.log_probs(batch_of([before]))[-1].item())
        np.testing.assert_allclose(log_p[[*WORDS, STOP]], scored, rtol=1e-5)


def test_running_text_and_conditions_are_refused() -> None:
    class Data:
        mode = "stream"
        resolved = (type("Settings", (), {"source": ""}),)

    with pytest.raises(ConfigError, match=r"^hmm learns lines without conditions; got data\.mode = stream, expected"):
        hmm.attach(made(), Data)
    Data.mode, Data.resolved[0].source = "sentence", "label"
    with pytest.raises(ConfigError, match=r"got data\.source = label, expected data\.mode = sentence"):
        hmm.attach(made(), Data)
