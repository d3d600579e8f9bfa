"""Resampling by a critic is a normalised model: enumeration, known density ratios, and features by hand."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from seqgen.core import config as settings_of
from seqgen.core import rng
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.data.ragged import Ragged
from seqgen.metrics.ngram_lm import KneserNey
from seqgen.metrics.ngrams import Packed
from seqgen.models import gpt, lm, refined

START, STOP, SIZE, LONGEST = 0, 1, 5, 3
ROWS = [[2, 3, 4], [2, 2], [4, 3], [3], [2, 3, 2], [], [4, 4, 3]]


@pytest.fixture(scope="module")
def model() -> refined.Model:
    """A base of three words whose texts have three tokens at most, with a critic of random weights."""
    facts = {"vocab_size": SIZE, "stop": STOP, "suppress_tokens": (START,), "max_length": LONGEST}
    rng.enter_step(5, 0)
    base = lm.Config(embedding=4, hidden=4, **facts)
    made = refined.Model(
        refined.Config(base="lm", settings=settings_of.to_dict(base), vocab_size=SIZE, start=START, stop=STOP)
    ).eval()
    for weight in made.base.parameters():
        weight.data.normal_()
    made.base.output_bias.data[START] = -1e9  # as in sampling: all mass is on texts that can be drawn
    wrapped = Ragged.from_lists([[START, *row, STOP] for row in ROWS])
    made.fit_ngrams(wrapped.values, wrapped.lengths)
    texts = every_text()
    features = made.features(texts, made.decoder().read([[START, *text] for text in texts]))
    made.mean.copy_(features.mean(0))
    made.scale.copy_(features.std(0))
    made.weights.normal_(std=0.2, generator=rng.generator("test"))
    return made


def every_text() -> list[list[int]]:
    """All that can be drawn: texts that ended, and those that the limit cut."""
    words = range(2, SIZE)
    ended = [[*text, STOP] for n in range(LONGEST) for text in itertools.product(words, repeat=n)]
    return ended + [list(text) for text in itertools.product(words, repeat=LONGEST)]


def read(model: refined.Model, texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The probability and the score of each text."""
    details = model.decoder().read([[START, *text] for text in texts])
    log_p = torch.tensor([float(one.log_prob.double().sum()) for one in details], dtype=torch.float64)
    return log_p.exp(), model.scores(model.features(texts, details))


def q_2(p: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """The chance that a text is one of two that are drawn, and is kept."""
    both = p[:, None] * p[None, :]
    kept = s.exp()[:, None] / (s.exp()[:, None] + s.exp()[None, :])
    return 2 * (both * kept).sum(1)


def test_q_n_sums_to_one_and_is_what_is_drawn(model: refined.Model) -> None:
    texts = every_text()
    p, s = read(model, texts)
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    exact = q_2(p / p.sum(), s)
    assert float(exact.sum()) == pytest.approx(1, abs=1e-12)
    assert float((exact / p).log().abs().max()) > 0.3  # the critic does change the model
    size = 4000
    drawn = model.decoder().decode([[START]] * size, rng.text_seeds(1, 0, size), Sampling(details=True))
    ids = [[*row, STOP][: len(d.log_prob)] for row, d in zip(drawn.ids, drawn.details or [], strict=True)]
    scores = model.scores(model.features(ids, drawn.details or []))
    estimated = refined.resampled_gains(s, scores, 2)
    torch.testing.assert_close(estimated, (exact / p).log(), atol=0.05, rtol=0)
    assert float((p * estimated.exp()).sum()) == pytest.approx(1, abs=1e-2)
    kept = model.chosen(scores.view(-1, 2), rng.text_seeds(2, 0, size // 2)).tolist()
    seen = Counter(tuple(ids[2 * k + i]) for k, i in enumerate(kept))
    for text, chance in zip(texts, exact.tolist(), strict=True):
        assert abs(seen[tuple(text)] / (size // 2) - chance) < 4.5 * (chance / (size // 2)) ** 0.5


def test_given_texts_have_the_values_they_had_when_they_were_drawn(model: refined.Model) -> None:
    decoder = model.decoder()
    drawn = decoder.decode([[START]] * 30, rng.text_seeds(4, 0, 30), Sampling(details=True))
    assert drawn.details is not None
    rows = [[START, *row, STOP][: 1 + len(d.log_prob)] for row, d in zip(drawn.ids, drawn.details, strict=True)]
    assert len({len(row) for row in rows}) > 1
    for one, read_again in zip(drawn.details, decoder.read(rows), strict=True):
        for name in ("log_prob", "entropy", "top_log_prob"):
            assert torch.equal(getattr(one, name), getattr(read_again, name))
    assert decoder.read(rows[5:6])[0].log_prob.tolist() == decoder.read(rows)[5].log_prob.tolist()
    with pytest.raises(ValueError, match=r"row 1 must hold the start id and a token at least, got \[0\]"):
        decoder.read([rows[0], [START]])
    short = gpt.Model(
        gpt.Config(layers=1, hidden=8, heads=2, context=4, slide=False, vocab_size=SIZE, stop=STOP)
    ).eval()
    assert len(short.decoder().read([[START, 2, 3, 2, 3]])[0].log_prob) == 4
    with pytest.raises(ValueError, match="row 0 of 6 tokens exceeds the model's context of 4; leave it out"):
        short.decoder().read([[START, 2, 3, 2, 3, 2]])


def test_a_constant_critic_gains_nothing() -> None:
    same = torch.full((3000,), 1.7, dtype=torch.float64)
    for n in (1, 2, 16, 256):
        assert refined.resampled_gains(same[:5], same, n).abs().max() < 1e-12


def test_the_ratio_of_two_known_models_leads_from_one_to_the_other() -> None:
    draw = np.random.default_rng(0)
    p = draw.dirichlet(np.full(30, 5.0))
    target = p * np.exp(draw.normal(size=30))
    target /= target.sum()
    s = torch.from_numpy(np.log(target / p))
    pool = s[draw.choice(30, 100_000, p=p)]
    apart = []
    for n in (1, 4, 16, 64, 256):
        q = p * refined.resampled_gains(s, pool, n).exp().numpy()
        assert q.sum() == pytest.approx(1, abs=0.02)
        apart.append(float((target * np.log(target / q)).sum()))
    assert apart[:3] == sorted(apart[:3], reverse=True)
    assert apart[0] > 0.2
    assert max(apart[3:]) < 0.01


def test_features_are_sums_and_least_values_of_the_tokens(model: refined.Model) -> None:
    texts = [[2, 3, STOP], [4, 2, 2], [STOP]]
    details = model.decoder().read([[START, *text] for text in texts])
    found = model.features(texts, details)
    words = Packed(np.array([w for row in ROWS for w in row]), np.array([len(row) for row in ROWS]))
    backwards = Packed(np.array([w for row in ROWS for w in row[::-1]]), np.array([len(row) for row in ROWS]))
    for row, (text, detail) in enumerate(zip(texts, details, strict=True)):
        inner = [w for w in text if w != STOP]
        ended = len(inner) < len(text)

        def nats(ngrams: KneserNey, inner: list[int], ended: bool = ended) -> np.ndarray:
            values = ngrams.token_log_probability(Packed(np.array(inner, dtype=np.int64), np.array([len(inner)])))[0]
            return values if ended else values[:-1]

        three, five = (nats(KneserNey(words, order, symbols=4), inner) for order in (3, 5))
        back = nats(KneserNey(backwards, 5, symbols=4), inner[::-1])
        own = detail.log_prob.double().numpy()
        both = np.log((np.exp(own) + np.exp(five)) / 2)
        wanted = [
            *(len(text), own.sum(), detail.entropy.sum(), (own - detail.top_log_prob.numpy()).sum(), three.sum()),
            *(five.sum(), back.sum(), both.sum(), own.min(), five.min(), both.min()),
        ]
        np.testing.assert_allclose(found[row].numpy(), np.array(wanted, dtype=float), rtol=1e-5)


def test_scores_are_polynomials_of_degree_two(model: refined.Model) -> None:
    features = torch.randn(4, 11, dtype=torch.float64, generator=rng.generator("features"))
    pairs = [(i, j) for i in range(11) for j in range(i, 11)]
    for z, score in zip(features.tolist(), model.scores(features).tolist(), strict=True):
        z = np.clip((np.array(z) - model.mean.numpy()) / model.scale.numpy(), -5, 5).tolist()
        terms = [*z, *(z[i] * z[j] for i, j in pairs)]
        assert score == pytest.approx(float(np.dot(terms, model.weights.numpy())))
    far = torch.full((1, 11), 1e9, dtype=torch.float64)
    assert model.scores(far) == model.scores(1e9 * far)


def test_a_reader_is_a_bidirectional_gru_over_each_text_alone() -> None:
    rng.enter_step(6, 0)
    reader = refined.Reader(SIZE, 4).eval()
    both = torch.nn.GRU(4 + refined.VALUES, 4, batch_first=True, bidirectional=True)
    names = [name for name, _ in reader.forth.named_parameters()]
    both.load_state_dict(
        {
            f"{name}{end}": own.state_dict()[name]
            for end, own in (("", reader.forth), ("_reverse", reader.back))
            for name in names
        }
    )
    texts = [[2, 3, STOP], [4, 2, 2, 3, 3, STOP], [STOP]]
    values = [torch.randn(len(text), refined.VALUES, dtype=torch.float64) for text in texts]
    read = reader(*refined.padded(texts, values, 8, 5))[:3]
    for text, own, score in zip(texts, values, read, strict=True):
        states = both(torch.cat([reader.embedding(torch.tensor([text])), own[None].float() / 5], 2))[0][0]
        wanted = reader.out(torch.cat([states.mean(0), states.amax(0)]))
        torch.testing.assert_close(score[None], wanted, atol=1e-6, rtol=1e-5)


def test_what_a_reader_thinks_of_a_text_does_not_depend_on_others(model: refined.Model) -> None:
    made = refined.Model(replace(model.config, critic="gru", hidden=8)).eval()
    made.base, made.trigram, made.ngram, made.backward = model.base, model.trigram, model.ngram, model.backward
    texts = every_text() * 3
    details = made.decoder().read([[START, *text] for text in texts])
    together = made.features(texts, details)
    assert together.shape[1] == 12
    torch.testing.assert_close(together[:, :11], model.features(texts, details), atol=0, rtol=0)
    for k in (0, 5, 31, len(texts) - 1):
        assert torch.equal(made.features(texts[k : k + 1], details[k : k + 1])[0], together[k])
    assert made.scores(together).std() == 0  # no weights yet


def test_what_is_no_base_and_training_are_refused(model: refined.Model) -> None:
    with pytest.raises(ConfigError, match=r"model\.models: 'text-vae' cannot be mixed; these can: lm, "):
        refined.Model(refined.Config(base="text-vae", vocab_size=SIZE))
    with pytest.raises(ConfigError, match="a refined run is not trained; it is made by: seqgen refine"):
        refined.train_step(model, {}, None, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="resampling of 16 needs 15 scores of the base, got 3"):
        refined.resampled_gains(torch.zeros(2), torch.zeros(3), 16)
