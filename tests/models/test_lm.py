"""The language model against torch's own layers and cross-entropy, and the laws of its training step."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.options import Sampling
from seqgen.core.rng import text_seeds
from seqgen.models import lm

VOCAB = 20


def _model(**options):
    plain = {"input_dropout": 0.0, "hidden_dropout": 0.0, "output_dropout": 0.0, "embedding": 12, "hidden": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lm.Model(lm.Config(**(plain | {"vocab_size": VOCAB, "stop": 3, "max_length": 20} | options)))


def _batch(lengths=(9, 4, 7), *, seed=0, stateful=False):
    """Rows of random ids, padded on the right with id 0."""
    lengths = torch.tensor(lengths)
    width = int(lengths.max())
    ids = torch.randint(3, VOCAB, (len(lengths), width + 1), generator=torch.Generator().manual_seed(seed))
    real = torch.arange(width) < lengths[:, None]
    return SequenceBatch(
        torch.where(real, ids[:, :-1], 0),
        torch.where(real, ids[:, 1:], 0),
        real.flatten().nonzero().squeeze(1),
        lengths,
        torch.arange(len(lengths)),
        stateful=stateful,
    )


def _reference_nll(model, batch):
    """Row by row with torch's layers, in the plainest way."""
    total = 0.0
    config = model.config
    kind = nn.LSTM if config.cell == "lstm" else nn.GRU
    for row, length in enumerate(batch.lengths.tolist()):
        x = F.embedding(batch.inputs[row, :length], model.embedding.weight)[None]
        for ours in model.rnn.layers:
            layer = kind(ours.input_size, ours.hidden_size, batch_first=True)
            layer.load_state_dict(ours.state_dict())
            x, _ = layer(x)
        if model.projection is not None:
            x = x @ model.projection.weight.t()
        logits = x[0] @ (model.embedding.weight if config.tied else model.output_weight).t() + model.output_bias
        counted = [p - row * batch.inputs.shape[1] for p in batch.positions.tolist()]
        counted = [t for t in counted if 0 <= t < length]
        targets = batch.targets[row, counted]
        total += F.cross_entropy(logits[counted], targets, reduction="sum").item()
    return total


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(
    "options",
    [{}, {"tied": False}, {"layers": 3, "last_hidden": 12}, {"layers": 2, "last_hidden": 8, "tied": False}],
    ids=["projected", "untied", "awd", "untied-narrow"],
)
def test_nll_equals_plain_torch_row_by_row(cell, options):
    model = _model(cell=cell, **options).eval()
    batch = _batch()
    expected = _reference_nll(model, batch)
    total, count = lm.validate(model, batch)["nll"]
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert count == 20
    loss, nll, _ = model.loss(batch)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert float(nll) == pytest.approx(expected, rel=1e-5)


def test_only_counted_positions_count():
    model = _model().eval()
    batch = _batch()
    # a condition of two tokens in row 0 and of three in row 2: their targets are not counted
    conditioned = replace(batch, positions=batch.positions[[*range(2, 13), *range(16, 20)]])
    assert float(lm.validate(model, conditioned)["nll"][0]) == pytest.approx(
        _reference_nll(model, conditioned), rel=1e-5
    )


def test_padding_does_not_change_a_row():
    model = _model().eval()
    batch = _batch()
    alone = [model.log_probs(_batch_row(batch, row)) for row in range(3)]
    torch.testing.assert_close(model.log_probs(batch), torch.cat(alone), rtol=1e-6, atol=1e-6)


def _batch_row(batch, row):
    length = int(batch.lengths[row])
    return SequenceBatch(
        batch.inputs[row : row + 1, :length],
        batch.targets[row : row + 1, :length],
        torch.arange(length),
        batch.lengths[row : row + 1],
        batch.rows[row : row + 1],
    )


def test_the_model_sees_no_later_token():
    model = _model(layers=2).eval()
    batch = _batch((9,))
    changed = replace(batch, inputs=batch.inputs.clone())
    changed.inputs[0, 5] = (changed.inputs[0, 5] + 1 - 3) % (VOCAB - 3) + 3
    first, second = model.log_probs(batch), model.log_probs(changed)
    assert torch.equal(first[:5], second[:5])
    assert not torch.equal(first[5:], second[5:])


def test_tied_weights_are_one_tensor_and_projection_only_where_widths_differ():
    projected = _model()
    assert projected.head()[0] is projected.embedding.weight
    assert projected.projection.weight.shape == (12, 16)
    assert _model(last_hidden=12).projection is None
    untied = _model(tied=False)
    assert untied.head()[0].shape == (VOCAB, 16)
    assert untied.projection is None


def test_initial_weights_are_as_stated():
    model = _model(tied=False)
    for weight in (model.embedding.weight, model.output_weight):
        assert 0.09 < weight.abs().max() <= 0.1
    assert not model.output_bias.any()
    layer = model.rnn.layers[0]
    assert layer.weight_hh_l0.abs().max() <= 1 / math.sqrt(16)
    assert torch.equal(layer.bias_ih_l0[16:32] + layer.bias_hh_l0[16:32], torch.ones(16))


def test_penalties_are_those_of_the_paper():
    batch = _batch()
    model = _model(activation_penalty=2.0, slowness_penalty=1.5)
    loss, nll, _ = model.loss(batch)
    hidden, _ = model.scan(batch.inputs)
    rows = [hidden[row, :length] for row, length in enumerate(batch.lengths.tolist())]
    activation = torch.cat(rows).square().mean()
    slowness = torch.cat([row[1:] - row[:-1] for row in rows]).square().mean()
    expected = float(nll) + 20 * (2.0 * activation.item() + 1.5 * slowness.item())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_activation_penalty_is_of_the_dropped_output_and_the_other_is_not():
    batch = _batch()
    torch.manual_seed(1)
    model = _model(output_dropout=0.5, activation_penalty=1.0).train()
    dropped = model.loss(batch)[0] - model.loss(batch)[1]
    plain = model.eval().loss(batch)[0] - model.loss(batch)[1]
    assert dropped.item() > 1.3 * plain.item()  # squares of doubled halves: twice as large on average
    model = _model(output_dropout=0.5, slowness_penalty=1.0).train()
    torch.manual_seed(1)
    loss, nll, _ = model.loss(batch)
    training = (loss - nll).item()
    loss, nll, _ = model.eval().loss(batch)
    assert training == pytest.approx((loss - nll).item(), rel=1e-4)


def test_slowness_of_rows_of_one_token_is_zero():
    loss, nll, _ = _model(slowness_penalty=1.0).loss(_batch((1, 1)))
    assert loss.item() == pytest.approx(float(nll))


def _train(model, batches, **options):
    optimizers = lm.optimizers(model, Train(optimizer="sgd", schedule="constant", lr=0.1, clip=0.0, **options))
    model.train()
    return [lm.train_step(model, optimizers, batch, step) for step, batch in enumerate(batches)]


def test_a_step_follows_the_gradient_of_the_mean_nll():
    model, batch = _model(), _batch()
    reference = copy.deepcopy(model)
    hidden, _ = reference.scan(batch.inputs)
    flat = reference.features(hidden.flatten(0, 1)[batch.positions])
    logits = F.linear(flat, *reference.head())
    loss = F.cross_entropy(logits, batch.targets.flatten()[batch.positions])
    loss.backward()
    (scalars,) = _train(model, [batch])
    assert scalars["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert float(scalars["nll"]) == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_accumulation_gives_the_same_step(parts):
    batches = [_batch((9, 4, 7, 2, 5)), _batch((3, 3, 9, 9, 1), seed=1)]
    whole, cut = _model(), _model()
    first, second = _train(whole, batches), _train(cut, batches, accumulate=parts)
    assert first[1]["loss"] == pytest.approx(second[1]["loss"], rel=1e-5)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole.stream_state, cut.stream_state)


def _windows(ids, window):
    """A stream in columns as training batches."""
    rows = len(ids)
    return [
        SequenceBatch(
            ids[:, at : at + window],
            ids[:, at + 1 : at + window + 1],
            torch.arange(rows * window),
            torch.full((rows,), window),
            torch.arange(rows),
            stateful=at > 0,
        )
        for at in range(0, ids.shape[1] - 1, window)
    ]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_stateful_stream_is_scored_like_one_long_row(cell):
    model = _model(cell=cell, layers=2).eval()
    ids = torch.randint(VOCAB, (3, 25), generator=torch.Generator().manual_seed(1))
    whole = model.log_probs(_windows(ids, 24)[0]).view(3, 24)
    parts = torch.cat([model.log_probs(batch).view(3, 6) for batch in _windows(ids, 6)], 1)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    fresh = torch.cat([model.log_probs(replace(b, stateful=False)).view(3, 6) for b in _windows(ids, 6)], 1)
    assert not torch.allclose(fresh, whole, atol=1e-3)


def test_training_carries_its_state_and_evaluation_leaves_it_alone():
    ids = torch.randint(VOCAB, (3, 25), generator=torch.Generator().manual_seed(1))
    windows = _windows(ids, 6)
    model = _model()
    optimizers = lm.optimizers(model, Train(optimizer="sgd", schedule="constant", lr=1e-9))
    assert model.stream_state is None
    lm.train_step(model.train(), optimizers, windows[0], 0)
    _, state = model.scan(windows[0].inputs)
    torch.testing.assert_close(model.stream_state, torch.cat(state, 1))
    before = model.stream_state.clone()
    model.eval()
    for batch in windows:
        lm.validate(model, batch)
    assert torch.equal(model.stream_state, before)
    scalars = lm.train_step(model.train(), optimizers, windows[1], 1)
    long = _windows(ids, 12)[0]
    expected = -model.eval().log_probs(long).view(3, 12)[:, 6:].mean()
    assert scalars["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert not model.stream_state.requires_grad


def test_a_stream_that_begins_in_the_middle_is_refused():
    model = _model().eval()
    with pytest.raises(
        ValueError, match=r"^a carried batch came first; a stream must begin with a batch whose `carried`"
    ):
        model.log_probs(_batch(stateful=True))


def test_the_stateful_state_is_saved_with_the_buffers():
    model = _model(layers=2)
    assert "stream_state" not in model.state_dict()
    _train(model, [_batch()])
    assert model.state_dict()["stream_state"].shape == (3, 4 * 16)
    assert lm.Model.rank_local == ("stream_state",)


def test_the_learning_rate_follows_the_length_of_the_window():
    model = _model()
    (scalars,) = _train(model, [replace(_batch(), weight=0.5)])
    assert scalars["lr"] == pytest.approx(0.05)


def test_dropout_is_off_outside_training():
    model = _model(
        embedding_dropout=0.5, input_dropout=0.5, hidden_dropout=0.5, output_dropout=0.5, weight_drop=0.5, layers=2
    )
    batch = _batch()
    plain = _model(layers=2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval().log_probs(batch), plain.eval().log_probs(batch))
    assert float(model.train().loss(batch)[1]) != float(model.loss(batch)[1])


def test_it_learns_a_text_by_heart_in_bf16_too():
    batch = _batch((9, 9, 9))
    for on in (False, True):
        model = _model(embedding_dropout=0.05, weight_drop=0.1)
        optimizers = lm.optimizers(model, Train(lr=0.02, schedule="constant"))
        model.train()
        for step in range(100):
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                lm.train_step(model, optimizers, batch, step)
        total, count = lm.validate(model.eval(), batch)["nll"]
        assert float(total) / count < 0.6


def test_sampled_log_probabilities_are_those_of_scoring():
    model = _model(cell="gru", layers=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    samples = model.sample([[2]] * 5, text_seeds(0, 0, 5), Sampling(details=True))
    for ids, finished, details in zip(samples.ids, samples.finished, samples.details, strict=True):
        row = torch.tensor([[2, *ids, *([3] if finished else [])]])
        n = row.shape[1] - 1
        batch = SequenceBatch(row[:, :-1], row[:, 1:], torch.arange(n), torch.tensor([n]), torch.tensor([0]))
        torch.testing.assert_close(model.log_probs(batch).float(), details.log_prob, rtol=1e-4, atol=1e-4)


def test_a_model_without_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"^model.vocab_size must be at least 1, got 0$"):
        lm.Model(lm.Config())
