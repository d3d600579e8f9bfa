"""The n-gram model as a model module: the same numbers as `metrics.ngram_lm`, which is held to the equations."""

import random

import numpy as np
import pytest
import torch

from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import ConfigError
from seqgen.data.ragged import Ragged
from seqgen.metrics.ngram_lm import KneserNey
from seqgen.metrics.ngrams import Packed
from seqgen.models import kneser_ney

PAD, START, STOP, SEP = 0, 5, 2, 3  # the start has a greater id than some words, as in no tokenizer of ours
WORDS = [1, 4, 6, 7, 8, 9]  # 9 is never seen


def fitted(order: int = 4) -> tuple[kneser_ney.Model, KneserNey]:
    draw = random.Random(1)
    rows = [[draw.choice(WORDS[:5]) for _ in range(draw.choice([0, 1, 3, 8]))] for _ in range(30)]
    config = kneser_ney.Config(order=order, vocab_size=10, start=START, stop=STOP, pad=PAD, sep=SEP, max_length=9)
    model = kneser_ney.Model(config)
    wrapped = Ragged.from_lists([[START, *row, STOP] for row in rows])
    model.fit(wrapped.values, wrapped.lengths)
    tokens = np.array([token for row in rows for token in row])
    return model, KneserNey(Packed(tokens, np.array([len(row) for row in rows])), order, symbols=7)


def batch_of(rows: list[list[int]]) -> SequenceBatch:
    width = max(map(len, rows)) + 1
    inputs = torch.tensor([[START, *row, *[PAD] * (width - 1 - len(row))] for row in rows])
    targets = torch.tensor([[*row, STOP, *[PAD] * (width - 1 - len(row))] for row in rows])
    lengths = torch.tensor([len(row) + 1 for row in rows])
    positions = (torch.arange(width) < lengths[:, None]).flatten().nonzero().squeeze(1)
    return SequenceBatch(inputs, targets, positions, lengths, torch.arange(len(rows)))


@pytest.mark.parametrize("order", [1, 2, 4, 9])
def test_log_probabilities_are_those_of_the_equations(order: int) -> None:
    model, known = fitted(order)
    draw = random.Random(2)
    rows = [[draw.choice(WORDS) for _ in range(n)] for n in (0, 1, 5, 9, 9)]
    packed = Packed(np.array([t for row in rows for t in row]), np.array([len(row) for row in rows]))
    wanted = np.concatenate(known.token_log_probability(packed))
    np.testing.assert_allclose(model.log_probs(batch_of(rows)), wanted, rtol=1e-12)


def test_the_distribution_of_the_next_token_adds_up_to_1_and_is_what_lines_are_scored_by() -> None:
    model, _ = fitted()
    stepper, head = model.stepper(), model.decoder().output
    for before in ([], [1], [4, 6], [9, 1, 1, 7], [6, 6, 6, 6, 6]):
        features, _ = stepper.step(torch.tensor([(START, *before)[-1]]), stepper.prefill([[START, *before][:-1]]))
        log_p = head.logits(features, head.plain_bias)[0, :10]
        assert log_p.double().exp().sum().item() == pytest.approx(1, abs=1e-6)
        assert [i for i in range(10) if log_p[i] == -torch.inf] == [PAD, SEP, START]
        scored = [model.log_probs(batch_of([[*before, word]]))[len(before)].item() for word in WORDS]
        scored.append(model.log_probs(batch_of([before]))[-1].item())
        np.testing.assert_allclose(log_p[[*WORDS, STOP]], scored, rtol=1e-5)


def test_ids_of_16_bits_count_as_those_of_32() -> None:
    rows = [[START, 40_000, 1, STOP], [START, 1, 45_000, STOP]]
    fits = []
    for dtype in (torch.int32, torch.int16):
        model = kneser_ney.Model(kneser_ney.Config(order=2, vocab_size=50_257, start=START, stop=STOP, pad=PAD))
        whole = Ragged.from_lists(rows)
        model.fit(whole.values.to(dtype), whole.lengths)
        fits.append(model.log_probs(batch_of([[40_000, 1], [45_000]])))
    assert fits[0].tolist() == fits[1].tolist()


def test_before_the_fit_all_tokens_are_equally_likely() -> None:
    config = kneser_ney.Config(vocab_size=10, start=START, stop=STOP, pad=PAD, sep=SEP)
    assert kneser_ney.Model(config).log_probs(batch_of([[1, 9]])).exp().tolist() == pytest.approx([1 / 7] * 3)


def test_running_text_and_conditions_are_refused() -> None:
    class Data:
        mode = "stream"
        resolved = (type("Settings", (), {"source": ""}),)

    with pytest.raises(ConfigError, match=r"kneser-ney learns lines without conditions; got data\.mode = stream"):
        kneser_ney.attach(fitted()[0], Data)
    Data.mode, Data.resolved[0].source = "sentence", "label"
    with pytest.raises(ConfigError, match=r"got data\.source = label, expected data\.mode = sentence"):
        kneser_ney.attach(fitted()[0], Data)
