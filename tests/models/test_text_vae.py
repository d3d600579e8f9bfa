"""The text VAE against closed forms, enumeration and quadrature, and the laws of its measures against collapse."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, MixtureSameFamily, Normal, kl_divergence

from seqgen.core import rng
from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.models import lm, text_vae

VOCAB = 20
PLAIN = {"input_dropout": 0.0, "hidden_dropout": 0.0, "output_dropout": 0.0, "embedding": 12, "hidden": 16, "latent": 3}


def _model(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = text_vae.Config(**(PLAIN | {"vocab_size": VOCAB, "stop": 3, "max_length": 20} | options))
        return text_vae.Model(config)


def _talkative(**options):
    """A model whose latent code matters: what it says of a text depends on z by several nats."""
    model = _model(**options).eval()
    with torch.no_grad():
        for weight in (model.lm.embedding.weight, model.encoder_embedding.weight, model.to_input.weight):
            weight.mul_(10)
        model.to_posterior.weight.mul_(4)
        model.to_posterior.bias[model.config.latent :] = -1.0
    return model


def _batch(lengths=(9, 4, 7), *, seed=0):
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
    )


def _rows(batch, rows):
    """Some rows of a batch, cut to their own longest."""
    rows = torch.tensor(rows)
    lengths = batch.lengths[rows]
    width = int(lengths.max())
    real = torch.arange(width) < lengths[:, None]
    inputs, targets = batch.inputs[rows, :width], batch.targets[rows, :width]
    return SequenceBatch(inputs, targets, real.flatten().nonzero().squeeze(1), lengths, rows)


def _train(model, steps, *, batch=None, lr=0.01, observed=None, **options):
    """Steps as the loop makes them; the scalars of each."""
    train = Train(lr=lr, schedule="constant", optimizer="adamw", **options)
    optimizers = text_vae.optimizers(model, train)
    told = []
    for step in range(steps):
        rng.enter_step(1, step)
        model.train()
        told.append(text_vae.train_step(model, optimizers, batch or _batch((6,) * 16, seed=step), step))
        if observed is not None:
            observed(step, told[-1])
    model.eval()
    return told


# ---- terms


def test_kl_is_that_of_torch_distributions():
    mean, log_variance = torch.randn(2, 50, 7, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(text_vae.gaussian_kl(mean, log_variance), expected)


def test_twice_the_length_doubles_reconstruction_and_leaves_kl_alone():
    model = _model(pool="max").eval()
    with torch.no_grad():  # no memory, and an output layer that hears nothing: every token costs what it costs
        for module in (*model.encoder, model.lm.rnn):
            for weight in (module.layers[0].weight_hh_l0, module.layers[0].bias_hh_l0, module.layers[0].bias_ih_l0):
                weight.zero_()
            # cells would remember too: the forget gate shuts
            module.layers[0].bias_ih_l0[16:32] = -100.0
        model.lm.projection.weight.zero_()
        model.lm.output_bias.normal_(generator=torch.Generator().manual_seed(1))
    once = _batch((6, 6, 6, 6))
    twice = replace(
        once,
        inputs=once.inputs.repeat(1, 2),
        targets=once.targets.repeat(1, 2),
        positions=torch.arange(48),
        lengths=2 * once.lengths,
    )
    noise = torch.randn(4, 3)
    (short, kl_short, _), (long, kl_long, _) = (model.terms(batch, noise) for batch in (once, twice))
    torch.testing.assert_close(long, 2 * short)
    torch.testing.assert_close(kl_long, kl_short)
    assert (kl_short > 0).all()


def test_loss_is_reconstruction_and_weighted_kl_summed_per_text_over_tokens():
    batch = _batch()
    for beta in (0.0, 0.5, 2.0):
        model = _model(beta=beta)
        told = _train(copy.deepcopy(model), 1, batch=batch)[0]
        rng.enter_step(1, 0)
        with torch.no_grad():
            reconstruction, kl, _ = model.train().terms(batch, torch.randn(3, 3))
        assert told["loss"] == pytest.approx(float(reconstruction + beta * kl.sum()) / 20, rel=1e-5)
        assert told["reconstruction"] == pytest.approx(float(reconstruction) / 3, rel=1e-5)
        assert told["kl"] == pytest.approx(float(kl.sum()) / 3, rel=1e-5)


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_latent_depends_on_its_text_alone(pool, cell, bidirectional):
    model = _talkative(pool=pool, cell=cell, bidirectional=bidirectional)
    batch = _batch()
    together = model.encode(batch)
    for row in range(3):
        for whole, alone in zip(together, model.encode(_rows(batch, [row])), strict=True):
            torch.testing.assert_close(whole[row : row + 1], alone)
    assert (together[0][0] - together[0][1]).abs().max() > 0.01


def test_the_second_reader_reads_backwards():
    model = _talkative(bidirectional=True, pool="last")
    batch = _batch((5, 5))
    backwards = replace(batch, inputs=batch.inputs.flip(1))
    swapped = copy.deepcopy(model)
    with torch.no_grad():
        swapped.encoder[0].load_state_dict(model.encoder[1].state_dict())
        swapped.encoder[1].load_state_dict(model.encoder[0].state_dict())
        swapped.to_posterior.weight.copy_(model.to_posterior.weight.roll(16, 1))
    torch.testing.assert_close(model.encode(batch)[0], swapped.encode(backwards)[0])


def test_word_dropout_acts_in_training_only():
    model, batch, latents = _talkative(word_dropout=0.9), _batch(), torch.randn(3, 3)
    assert torch.equal(model.eval().written(batch, latents), model.written(batch, latents))
    assert not torch.equal(model.train().written(batch, latents), model.eval().written(batch, latents))


# ---- likelihood


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_importance_weighted_nll_is_the_integral_over_a_latent_of_one_dimension(cell):
    model, batch = _talkative(latent=1, cell=cell), _batch()
    with torch.no_grad():
        model.to_posterior.bias.zero_()  # a wide proposal, which weighs well
    grid = torch.linspace(-8, 8, 4001)
    given = torch.stack([model.token_log_probs(batch, z.expand(3, 1)).sum(1) for z in grid])
    exact = -(given + Normal(0.0, 1.0).log_prob(grid).double()[:, None] + math.log(16 / 4000)).logsumexp(0)
    spread = given.amax(0) - given.amin(0)
    assert spread.amax() > 1  # the latent code matters, so the integral is no mean of equal values
    torch.testing.assert_close(model.nll(batch, 3000), exact, atol=0.03, rtol=0)
    mean, log_variance = model.encode(batch)
    bound = -model.token_log_probs(batch, mean).sum(1) + text_vae.gaussian_kl(mean, log_variance).sum(1)
    assert (bound + 0.5 > exact).all()


def test_more_latents_give_a_tighter_bound():
    model = _talkative()
    batches = [_batch((6,) * 32, seed=seed) for seed in range(4)]
    means = [sum(float(model.nll(batch, k).mean()) for batch in batches) / 4 for k in (1, 10, 200)]
    assert means[0] > means[1] > means[2]
    with pytest.raises(ValueError, match=r"^samples must be at least 1, got 0$"):
        model.nll(batches[0], 0)


def test_token_log_probs_add_up_to_the_nll_of_twenty_latents_wherever_the_text_stands():
    model, batch = _talkative(), _batch()
    whole = torch.zeros(3, dtype=torch.float64)
    whole.index_add_(0, batch.positions // 9, model.log_probs(batch))
    torch.testing.assert_close(-whole, model.nll(batch, 20))
    alone = model.log_probs(_rows(batch, [1]))
    torch.testing.assert_close(alone, model.log_probs(batch)[9:13])


def test_a_condition_is_read_and_not_counted():
    model, batch = _talkative(), _batch()
    counted = torch.tensor([2, 3, 4, 5, 6, 7, 8, 11, 12, 18, 19, 20, 21, 22, 23, 24])
    conditional = replace(batch, positions=counted)
    found = torch.zeros(3, dtype=torch.float64).index_add_(0, counted // 9, model.log_probs(conditional))
    torch.testing.assert_close(-found, model.nll(conditional, 20))
    assert len(model.log_probs(conditional)) == 16


def test_validation_is_the_bound_and_its_parts():
    model, batch = _talkative(), _batch()
    with torch.no_grad():
        sums = text_vae.validate(model, batch)
    assert sums["nll"][1] == 20
    assert float(sums["nll"][0]) == pytest.approx(float(sums["reconstruction"][0] + sums["kl"][0]))
    with torch.no_grad():
        mean, log_variance = model.encode(batch)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(sums["kl"][0].float(), expected)


# ---- what latents say


def test_information_is_that_of_a_double_loop():
    mean, log_variance = torch.randn(30, 2), torch.randn(30, 2)
    seeds = rng.text_seeds(0, 0, 30)
    latents = mean + (0.5 * log_variance).exp() * rng.normals(seeds, 2, stream=2)
    posteriors = Independent(Normal(mean.double(), (0.5 * log_variance.double()).exp()), 1)
    log_q = torch.stack([posteriors.log_prob(z) for z in latents.double()])
    expected = (log_q.diagonal() - log_q.exp().mean(1).log()).mean()
    assert text_vae.information(mean, log_variance, seeds) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0, 20.0])
def test_information_of_two_kinds_of_text_is_the_integral(distance):
    kinds = torch.tensor([[-distance / 2], [distance / 2]])
    mean = kinds.repeat(2000, 1)
    grid = torch.linspace(-20, 20, 40001, dtype=torch.float64)
    each = Normal(kinds.double(), 1.0)
    both = MixtureSameFamily(torch.distributions.Categorical(torch.ones(2)), Normal(kinds.double()[:, 0], 1.0))
    integrand = each.log_prob(grid).exp() * (each.log_prob(grid) - both.log_prob(grid))
    exact = float(integrand.sum(1).mean()) * 40 / 40000
    assert text_vae.information(mean, torch.zeros(4000, 1), rng.text_seeds(1, 0, 4000)) == pytest.approx(
        exact, abs=0.03
    )


def test_information_is_at_most_the_logarithm_of_the_number_of_texts():
    mean = torch.arange(64.0)[:, None] * 100
    assert text_vae.information(mean, torch.zeros(64, 1), torch.arange(64)) == pytest.approx(math.log(64))


def test_active_units_vary_with_the_text():
    mean = torch.randn(500, 4) * torch.tensor([0.0, 0.05, 0.2, 1.0])
    assert text_vae.active_units(mean) == 2


# ---- measures against collapse


def test_the_factor_is_a_function_of_the_step():
    linear = text_vae.Config(anneal="linear", anneal_steps=100, anneal_from=0.2, beta=2.0)
    assert [text_vae.kl_weight(linear, step) for step in (0, 50, 100, 1000)] == pytest.approx([0.4, 1.2, 2.0, 2.0])
    cyclical = text_vae.Config(anneal="cyclical", anneal_steps=400, cycles=4)
    steps = (0, 25, 50, 99, 100, 125, 375, 400, 9999)
    assert [text_vae.kl_weight(cyclical, s) for s in steps] == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1, 1])
    assert text_vae.kl_weight(text_vae.Config(), 0) == 1.0


def test_free_bits_leave_dimensions_below_them_alone():
    batch = _batch()
    gradients = []
    for free in (0.0, 100.0):
        model = _model(free_bits=free, beta=5.0).train()
        reconstruction, kl, _ = model.terms(batch, torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
        pull = 3 * kl.mean(0).clamp_min(free).sum()
        gradients.append(torch.autograd.grad(reconstruction + 5 * pull, model.to_posterior.weight)[0])
    model = _model().train()
    reconstruction, _, _ = model.terms(batch, torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(gradients[1], torch.autograd.grad(reconstruction, model.to_posterior.weight)[0])
    assert not torch.allclose(gradients[0], gradients[1])
    told = [_train(_model(free_bits=free), 1, batch=batch)[0] for free in (0.0, 100.0)]
    assert told[1]["loss"] == pytest.approx(told[0]["loss"] + 3 * (300 - told[0]["kl"]) / 20, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.4, 1.0])
def test_batch_norm_keeps_the_mean_kl_above_its_bound(gamma):
    model = _model(bn_gamma=gamma, latent=8, beta=20.0)
    told = _train(model, 120)
    assert min(scalars["kl"] for scalars in told) > 8 * gamma**2 / 2 * 0.999
    mean, log_variance = model.encode(_batch((6,) * 64, seed=999))
    kl = text_vae.gaussian_kl(mean, log_variance).sum(1).mean()
    assert kl > 0.7 * 8 * gamma**2 / 2  # by running statistics, of other texts


def test_batch_norm_needs_two_texts():
    message = r"^model\.bn_gamma needs two texts at least in each part of a batch; raise train\.batch$"
    with pytest.raises(ConfigError, match=message):
        text_vae.optimizers(_model(bn_gamma=0.5), Train(batch=8, accumulate=8))


def test_the_controller_holds_its_target_on_a_model():
    model = _model(kl_target=2.0, hidden=24)
    told = _train(model, 800, lr=0.01)
    last = [scalars["kl"] for scalars in told[-100:]]
    assert sum(last) / 100 == pytest.approx(2.0, abs=0.3)
    assert all(0 <= scalars["kl_weight"] <= 1 for scalars in told)


@pytest.mark.parametrize(("kl", "weight"), [(1.0, 0.0), (7.0, 1.0)])
def test_the_controllers_sum_does_not_run_away(kl, weight):
    control = torch.zeros(2)
    for _ in range(10_000):
        text_vae.control_step(control, 4.0, kl, 1.0)
    assert text_vae.controlled_weight(control, 1.0) == pytest.approx(weight, abs=0.02)
    for _ in range(300):  # and it comes back at once
        text_vae.control_step(control, 4.0, 8 - kl, 1.0)
    assert text_vae.controlled_weight(control, 1.0) == pytest.approx(1 - weight, abs=0.05)


def _changed(before, model):
    now = model.state_dict()
    names = {name for name, _ in model.named_parameters()}
    return {name for name in names if not torch.equal(before[name], now[name])}


def test_aggressive_steps_change_the_encoder_until_the_writers_turn_and_end_for_good():
    model = _model(aggressive=True, aggressive_steps=4)
    turns = []
    state = copy.deepcopy(model.state_dict())

    def look(step, _):
        nonlocal state
        changed = _changed(state, model)
        parts = {name.startswith(("encoder", "to_posterior")) for name in changed}
        turns.append("both" if len(parts) == 2 else "encoder" if parts == {True} else "writer")
        state = copy.deepcopy(model.state_dict())
        if step in (6, 8):  # validations: information rises, then falls
            found = 2.0 if step == 6 else 1.0
            scores = {"mutual_information": found, "active_units": 3.0, "kl": 2.0, "information_ceiling": 5.0}
            said = text_vae.observe(model, scores)
            assert ("aggressive encoder steps end: mutual information fell from 2.00" in str(said)) == (step == 8)

    _train(model, 12, observed=look)
    assert turns == [*["encoder"] * 4, "writer", *["encoder"] * 4, "both", "both", "both"]


def test_a_row_of_encoder_steps_ends_when_their_loss_no_longer_falls():
    model = _model(aggressive=True, aggressive_steps=100)
    for step in range(60):
        text_vae._note_inner(model, "encoder", 10.0 - step if step < 30 else 5.0)
        if model.inner[0] < 0:
            break
    assert step == 44  # the look after 30 steps finds a lower mean than that after 15, the one after 45 a higher one


def test_the_critic_has_its_own_steps():
    model = _model(match="adversarial", critic_steps=2)
    states = [copy.deepcopy(model.state_dict())]
    told = _train(model, 6, observed=lambda *_: states.append(copy.deepcopy(model.state_dict())))
    for step in range(6):
        changed = {n for n in states[step] if not torch.equal(states[step][n], states[step + 1][n])}
        assert {name.startswith("critic.") for name in changed} == {step % 3 > 0}
        assert ("critic_loss" in told[step]) == (step % 3 > 0)


def test_the_best_adversarial_autoencoder_reconstructs_best():
    model = _model(match="adversarial")
    scores = {"mutual_information": 3.0, "active_units": 2.0, "kl": 30.0, "information_ceiling": 9.21}
    said = [text_vae.observe(model, scores | {"reconstruction": nats}) for nats in (40.0, 30.0, 35.0, 29.0)]
    assert [one["best"] for one in said] == [True, True, False, True]
    assert "best" not in text_vae.observe(_model(), scores | {"reconstruction": 40.0})


def test_contradictions_are_told_together():
    with pytest.raises(ConfigError) as error:
        _model(match="adversarial", kl_target=3.0, aggressive=True, anneal="linear")
    assert str(error.value) == (
        "model.kl_target needs match = kl; turn one of them off; model.aggressive needs match = kl; turn one of them "
        "off; model.kl_target sets the factor itself: set it to 0, or anneal to none and free_bits to 0"
    )


def test_the_verdict_is_told_when_it_changes():
    model = _model()
    scores = {"mutual_information": 0.02, "active_units": 0.0, "kl": 0.01, "information_ceiling": 9.21}
    first = text_vae.observe(model, scores)
    assert first["event"] == (
        "the latent code is collapsed: KL 0.01 nats, mutual information 0.02 of a possible 9.21, 0 of 3 units active; "
        "try model.kl_target=4 or model.aggressive=true"
    )
    assert text_vae.observe(model, scores) == {}
    used = text_vae.observe(model, scores | {"mutual_information": 3.0, "active_units": 2.0, "kl": 4.0})
    assert used["event"] == (
        "the latent code is used: KL 4.00 nats, mutual information 3.00 of a possible 9.21, 2 of 3 units active"
    )


def test_the_survey_sees_latents_that_differ():
    model = _talkative()
    found = text_vae.survey(model, [_batch(seed=seed) for seed in range(5)])
    assert found["information_ceiling"] == pytest.approx(math.log(15))
    assert 0 < found["mutual_information"] <= math.log(15)
    assert found["active_units"] > 0


# ---- texts


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("tied", [False, True])
def test_text_k_and_its_latent_do_not_depend_on_the_batch(cell, tied):
    model = _talkative(cell=cell, tied=tied, latent=16)
    seeds = rng.text_seeds(5, 0, 70)
    whole = model.sample([[2]] * 70, seeds, Sampling(max_new_tokens=12)).ids
    assert len(set(map(tuple, whole))) > 60
    for first, size in ((0, 1), (3, 2), (8, 3), (20, 5), (11, 8), (6, 64)):
        rows = slice(first, first + size)
        assert model.sample([[2]] * size, seeds[rows], Sampling(max_new_tokens=12)).ids == whole[rows]


def test_what_a_text_is_drawn_from_is_what_is_scored():
    """Step by step and whole: the same probabilities for the same latent code."""
    model = _talkative(latent=16)
    seeds = rng.text_seeds(7, 0, 3)
    made = model.sample([[2]] * 3, seeds, Sampling(max_new_tokens=9, min_new_tokens=9, details=True))
    ids = torch.tensor(made.ids)
    inputs = torch.cat([torch.full((3, 1), 2), ids[:, :-1]], 1)
    batch = SequenceBatch(inputs, ids, torch.arange(27), torch.full((3,), 9), torch.arange(3))
    expected = model.token_log_probs(batch, model.prior(seeds))
    found = torch.stack([details.log_prob for details in made.details]).double()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_run_of_lm_gives_the_writer_its_weights():
    other = lm.Config(embedding=8, hidden=24, layers=2, cell="gru", tied=False)
    config, part = text_vae.inherit(text_vae.Config(latent=5), "lm", other)
    assert (config.embedding, config.hidden, config.layers, config.cell, config.tied) == (8, 24, 2, "gru", False)
    assert (config.latent, part) == (5, "lm")
    filled = replace(config, vocab_size=VOCAB)
    wanted = lm.Model(replace(other, vocab_size=VOCAB)).state_dict()
    assert {n: t.shape for n, t in text_vae.Model(filled).lm.state_dict().items()} == {
        n: t.shape for n, t in wanted.items()
    }
    assert text_vae.inherit(config, "text-vae", config) == (config, "")
    with pytest.raises(ConfigError, match=r"^--from a run of seqgan: a text-vae starts from a run of lm or text-vae$"):
        text_vae.inherit(config, "seqgan", other)
