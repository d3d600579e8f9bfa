"""Sampling laws: what a text depends on, and that every option does what it says."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from peaked import peaked_model
from scipy import stats

from seqgen.core.errors import ConfigError, NonFiniteError
from seqgen.core.options import Sampling
from seqgen.core.rng import text_seeds, uniforms
from seqgen.nn import graphs
from seqgen.nn.decode import filtered
from seqgen.nn.sampler import OutputLayer, pick

STOP, START = 3, 2
PLAIN = Sampling()


def _model(vocab=30, **options):
    """A model with a peaked, uneven distribution; ids 0 to 2 are never emitted."""
    return peaked_model(vocab, **({"stop": STOP, "suppress_tokens": (0, 1, START), "max_length": 30} | options))


def _logits(model, ids):
    """Logits after a prefix, by the whole-sequence path."""
    with torch.no_grad():
        hidden, _ = model.scan(torch.tensor([ids]))
        weight, bias = model.head()
        return model.features(hidden[0, -1]) @ weight.t() + bias


def _prompts(count):
    return [[START] + [4 + (k + i) % 5 for i in range(k % 4)] for k in range(count)]


def _run(model, count, size, sampling, *, fast=False):
    """The first `count` texts decoded in batches of the given size: ids, and every detail as one tensor a text."""
    decoder = model.decoder(fast=fast)
    prompts, seeds = _prompts(count), text_seeds(5, 0, count)
    parts = [decoder.decode(prompts[k : k + size], seeds[k : k + size], sampling) for k in range(0, count, size)]
    values = [torch.cat([d.log_prob, d.sampling_log_prob, d.entropy]) for part in parts for d in part.details]
    return [ids for part in parts for ids in part.ids], values


def _equal(some, other):
    """Whether two runs agree in every bit, over the texts that both have."""
    pairs = list(zip(some[1], other[1], strict=False))
    return some[0][: len(pairs)] == other[0][: len(pairs)] and all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def restore_threads():
    yield
    torch.set_num_threads(1)


_SIZES = (1, 2, 3, 5, 7, 8)


@pytest.mark.parametrize(
    ("cell", "sampling"),
    [("lstm", PLAIN), ("gru", Sampling(top_p=0.9, temperature=0.8)), ("lstm", Sampling(typical_p=0.9, top_k=300))],
)
def test_text_k_does_not_depend_on_batch_size(cell, sampling):
    model = _model(2000, cell=cell, hidden=256, embedding=128, max_length=5, scale=3.0)
    sampling = replace(sampling, details=True)
    reference = _run(model, 64, 64, sampling)
    for size in _SIZES:
        assert _equal(_run(model, 10, size, sampling), reference), size


def test_text_k_does_not_depend_on_batch_size_with_two_threads(restore_threads):
    model = _model(2000, hidden=256, embedding=128, max_length=3, scale=3.0)
    reference = _run(model, 64, 64, Sampling(details=True))
    torch.set_num_threads(2)
    assert _equal(_run(model, 64, 64, Sampling(details=True)), reference)
    for size in _SIZES:
        assert _equal(_run(model, size, size, Sampling(details=True)), reference), size


def test_without_padded_rows_bits_do_depend_on_batch_size():
    # the control of the test above: it can fail
    model = _model(2000, hidden=256, embedding=128, max_length=5, scale=3.0)
    sampling = Sampling(details=True)
    reference = _run(model, 64, 64, sampling, fast=True)
    assert not all(_equal(_run(model, 10, size, sampling, fast=True), reference) for size in _SIZES)


@pytest.mark.parametrize("width", [37, 50])
def test_odd_widths_keep_the_law(width):
    model = _model(101, hidden=width, embedding=19, layers=2, max_length=8)
    reference = _run(model, 64, 64, Sampling(details=True))
    for size in (1, 3, 8):
        assert _equal(_run(model, 10, size, Sampling(details=True)), reference), size


@pytest.mark.parametrize("fast", [False, True])
def test_fast_mode_draws_from_the_same_distribution(fast):
    model = _model()
    texts = model.sample([[START]] * 50, text_seeds(0, 0, 50), PLAIN, fast=fast).ids
    # same uniforms, so only a draw within rounding of a border may differ
    assert texts == model.sample([[START]] * 50, text_seeds(0, 0, 50), PLAIN).ids


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_this_temperature(temperature):
    model = _model(suppress_tokens=())
    count = 20_000
    prompt = [START, 5, 6]
    options = Sampling(max_new_tokens=1, temperature=temperature)
    step = next(model.decoder().steps([prompt] * count, text_seeds(1, 0, count), options))
    expected = (_logits(model, prompt) / temperature).softmax(0) * count
    observed = step.ids.bincount(minlength=30)
    large = expected >= 5
    chi_square = float(((observed - expected)[large] ** 2 / expected[large]).sum())
    freedom = int(large.sum()) - 1
    assert abs(chi_square - freedom) / math.sqrt(2 * freedom) < 4


def test_token_t_is_the_inverse_cdf_at_the_hash_of_seed_and_t():
    model = _model(stop=-1, suppress_tokens=(), scale=1.0)
    seeds = text_seeds(4, 0, 3)
    texts = model.sample([[START]] * 3, seeds, Sampling(max_new_tokens=70)).ids
    for seed, ids in zip(seeds, texts, strict=True):
        with torch.no_grad():
            hidden, _ = model.scan(torch.tensor([[START, *ids[:-1]]]))
            weight, bias = model.head()
            ends = (model.features(hidden[0]) @ weight.t() + bias).double().softmax(-1).cumsum(-1)
        expected = [int((ends[t] <= uniforms(seed[None], t)).sum()) for t in range(70)]
        assert ids == expected


@pytest.mark.parametrize("temperature", [1e-12, 1e-37, 1e-320])
def test_near_temperature_zero_the_likeliest_token_is_drawn(temperature):
    model, prompts, seeds = _model(), _prompts(16), text_seeds(5, 0, 16)
    assert model.sample(prompts, seeds, Sampling(temperature=temperature)).ids == (
        model.sample(prompts, seeds, Sampling(greedy=True)).ids
    )


@pytest.mark.parametrize("temperature", [1e12, 1e300])
def test_at_a_very_large_temperature_every_token_that_may_come_is_equally_likely(temperature):
    model, count = _model(), 5000
    options = Sampling(max_new_tokens=1, temperature=temperature, details=True)
    samples = model.sample([[START]] * count, text_seeds(3, 0, count), options)
    # 30 ids, of which 0 to 2 are never emitted
    assert all(d.sampling_log_prob.sub(-math.log(27)).abs().max() < 1e-5 for d in samples.details)
    ids = torch.tensor([row[0] if row else STOP for row in samples.ids])
    assert stats.chisquare(ids.bincount(minlength=30)[3:]).pvalue > 1e-4


@pytest.mark.parametrize("options", [Sampling(greedy=True), Sampling(temperature=0.0), Sampling(top_k=1)])
def test_greedy_is_the_argmax_at_every_token(options):
    model = _model()
    for prompt in ([START], [START, 7, 8, 9]):
        written = model.sample([prompt], text_seeds(0, 0, 1), options).ids[0]
        for n, token in enumerate(written):
            logits = _logits(model, prompt + written[:n])
            logits[[0, 1, START]] = -math.inf
            assert token == int(logits.argmax())


def test_details_are_the_log_probabilities_of_teacher_forcing():
    model = _model()
    options = Sampling(temperature=0.7, top_k=8, details=True, max_new_tokens=12)
    samples = model.sample(_prompts(9), text_seeds(2, 0, 9), options)
    for prompt, ids, finished, details in zip(_prompts(9), samples.ids, samples.finished, samples.details, strict=True):
        tokens = ids + [STOP] * finished
        assert len(details.log_prob) == len(tokens)
        for n, token in enumerate(tokens):
            logits = _logits(model, prompt + tokens[:n])
            plain = logits.log_softmax(0)
            assert float(details.log_prob[n]) == pytest.approx(float(plain[token]), abs=1e-4)
            assert float(details.entropy[n]) == pytest.approx(float(-(plain.exp() * plain).sum()), abs=1e-4)
            logits[[0, 1, START]] = -math.inf
            drawn = (logits.topk(8).values / 0.7).log_softmax(0)
            place = logits.topk(8).indices.tolist().index(token)
            assert float(details.sampling_log_prob[n]) == pytest.approx(float(drawn[place]), abs=1e-4)
            assert float(details.sampling_entropy[n]) == pytest.approx(float(-(drawn.exp() * drawn).sum()), abs=1e-4)


def test_details_do_not_change_the_texts():
    model = _model()
    seeds = text_seeds(0, 0, 20)
    with_details = model.sample(_prompts(20), seeds, Sampling(top_p=0.9, details=True))
    assert with_details.ids == model.sample(_prompts(20), seeds, Sampling(top_p=0.9)).ids
    assert model.sample(_prompts(20), seeds, Sampling()).details is None


def test_never_and_forbidden_ids_do_not_appear():
    model = _model()
    texts = model.sample([[START]] * 200, text_seeds(0, 0, 200), Sampling(temperature=3.0, suppress_tokens=(7, 11))).ids
    assert {0, 1, START, 7, 11}.isdisjoint({token for text in texts for token in text})


def test_lengths_respect_their_limits():
    model = _model()
    samples = model.sample(
        [[START]] * 200, text_seeds(0, 0, 200), Sampling(min_new_tokens=4, max_new_tokens=9, temperature=2)
    )
    lengths = [len(ids) for ids in samples.ids]
    assert min(lengths) >= 4
    assert max(lengths) == 9
    assert all(finished or n == 9 for finished, n in zip(samples.finished, lengths, strict=True))
    assert any(samples.finished)
    assert not all(samples.finished)


def test_the_models_own_length_limit_holds_without_an_option():
    model = _model(max_length=5, stop=-1)
    samples = model.sample([[START]] * 3, text_seeds(0, 0, 3), PLAIN)
    assert [len(ids) for ids in samples.ids] == [5, 5, 5]
    assert samples.finished == [False] * 3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_appears_twice_in_prompt_and_text(n):
    model = _model(scale=6.0)
    prompts = [[START, 5, 6, 7, 5], [START], [START, 9]]
    options = Sampling(no_repeat_ngram_size=n, max_new_tokens=20, min_new_tokens=20)
    plain = model.sample(prompts, text_seeds(0, 0, 3), replace(options, no_repeat_ngram_size=0))
    blocked = model.sample(prompts, text_seeds(0, 0, 3), options)

    def repeats(prompt, ids):
        tokens = prompt + ids
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        return len(grams) - len(set(grams))

    given = repeats(prompts[0], [])
    assert sum(repeats(p, ids) for p, ids in zip(prompts, plain.ids, strict=True)) > given
    assert sum(repeats(p, ids) for p, ids in zip(prompts, blocked.ids, strict=True)) == given


def test_padding_before_a_short_prompt_is_no_token_that_could_repeat():
    model = _model(64)  # 64 ids fill their block: an index of -1 would mean the last of them
    options = Sampling(no_repeat_ngram_size=1, max_new_tokens=1, temperature=50.0)
    prompts = [[START], [START, 5, 6, 7]] * 500
    step = next(model.decoder().steps(prompts, text_seeds(0, 0, 1000), options))
    assert 63 in step.ids[::2].tolist()


def test_the_ngram_block_gives_way_where_it_would_leave_nothing():
    model = _model(6, stop=-1)  # only ids 3, 4, 5 may come
    ids = model.sample([[START]], text_seeds(0, 0, 1), Sampling(no_repeat_ngram_size=1, max_new_tokens=6)).ids[0]
    assert sorted(ids[:3]) == [3, 4, 5]
    assert len(ids) == 6


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    model = _model(64, suppress_tokens=())  # 64 ids fill their block: an index of -1 would mean the last of them
    prompt = [START, 5, 6, 6]
    options = Sampling(repetition_penalty=1.7, details=True, max_new_tokens=1)
    logits = _logits(model, prompt)
    seen = torch.tensor([START, 5, 6])
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / 1.7, logits[seen] * 1.7)
    expected = logits.log_softmax(0)
    # the second prompt is shorter and so padded in front: its padding counts as nothing seen
    samples = model.sample([prompt, [START]] * 4, text_seeds(0, 0, 8), options)
    for ids, finished, details in zip(samples.ids[::2], samples.finished[::2], samples.details[::2], strict=True):
        token = STOP if finished else ids[0]
        assert float(details.sampling_log_prob[0]) == pytest.approx(float(expected[token]), abs=1e-4)
    shorter = _logits(model, [START])
    shorter[START] = shorter[START] / 1.7 if shorter[START] > 0 else shorter[START] * 1.7
    for ids, finished, details in zip(samples.ids[1::2], samples.finished[1::2], samples.details[1::2], strict=True):
        token = STOP if finished else ids[0]
        assert float(details.sampling_log_prob[0]) == pytest.approx(float(shorter.log_softmax(0)[token]), abs=1e-4)


def test_steps_joined_are_the_decoded_texts():
    model = _model()
    seeds = text_seeds(3, 0, 13)
    texts = [[] for _ in range(13)]
    for step in model.decoder().steps(_prompts(13), seeds, PLAIN):
        for text, token, ended in zip(step.texts.tolist(), step.ids.tolist(), step.ended.tolist(), strict=True):
            if not ended:
                texts[text].append(token)
    assert texts == model.sample(_prompts(13), seeds, PLAIN).ids


def test_a_given_state_replaces_the_start():
    model = _model()
    seeds = text_seeds(0, 0, 4)
    with torch.no_grad():
        _, state = model.scan(torch.tensor([[START, 5, 6, 7]] * 4))
    # the same texts as from a prompt whose last token is fed next
    expected = model.sample([[START, 5, 6, 7, 8]] * 4, seeds, PLAIN).ids
    assert model.decoder().decode([[8]] * 4, seeds, PLAIN, state=state).ids == expected


def test_streaming_leaves_the_callers_gradient_mode_alone():
    model = _model()
    for _ in model.decoder().steps([[START]], text_seeds(0, 0, 1), PLAIN):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_a_new_decoder_uses_the_weights_of_now():
    model = _model()
    seeds = text_seeds(0, 0, 20)
    before = model.sample([[START]] * 20, seeds, PLAIN).ids
    with torch.no_grad():
        model.rnn.layers[0].weight_hh_l0.neg_()
    changed = model.sample([[START]] * 20, seeds, PLAIN).ids
    with torch.no_grad():
        model.rnn.layers[0].weight_hh_l0.neg_()
    assert changed != before
    assert model.sample([[START]] * 20, seeds, PLAIN).ids == before


def test_no_prompts_give_no_texts():
    samples = _model().sample([], text_seeds(0, 0, 0), Sampling(details=True))
    assert (samples.ids, samples.finished, samples.details) == ([], [], [])


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([[]], PLAIN, ValueError, "prompt 0 is empty; it must hold the start id at least"),
        ([[2, 30]], PLAIN, ValueError, "prompt 0 holds id 30, outside the vocabulary of 30"),
        (
            [[2]],
            Sampling(suppress_tokens=(99,)),
            ValueError,
            "suppress_tokens holds id 99, outside the vocabulary of 30",
        ),
        ([[2], [2]], PLAIN, ValueError, "expected one seed for each of 2 prompts, got 1"),
        ([[2]], Sampling(top_p=0.0), ConfigError, "sample.top_p must be a number > 0 and <= 1, got 0.0"),
        (
            [[2]],
            Sampling(suppress_tokens=tuple(range(30))),
            ValueError,
            "no token is left to choose from; relax suppress_tokens or min_new_tokens",
        ),
        (
            [[2]],
            Sampling(suppress_tokens=tuple(range(4, 30)), min_new_tokens=1),
            ValueError,
            "no token is left to choose from; relax suppress_tokens or min_new_tokens",
        ),
    ],
)
def test_wrong_arguments_are_named(prompts, options, error, message):
    with pytest.raises(error) as caught:
        _model().sample(prompts, text_seeds(0, 0, 1), options)
    assert str(caught.value) == message


def test_a_model_without_a_limit_needs_one():
    with pytest.raises(
        ValueError, match=r"^sample.max_new_tokens must be at least 1 for a model without a limit of its own"
    ):
        _model(max_length=0).sample([[START]], text_seeds(0, 0, 1), PLAIN)


def test_weights_that_are_not_finite_are_an_error():
    model = _model()
    with torch.no_grad():
        model.output_bias[5] = math.nan
    with pytest.raises(NonFiniteError, match=r"^text 0, token 0: the model's logits are not finite"):
        model.sample([[START]], text_seeds(0, 0, 1), PLAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            Sampling(min_new_tokens=6, max_new_tokens=5),
            "sample.min_new_tokens = 6 is more than sample.max_new_tokens = 5",
        ),
        (Sampling(min_new_tokens=31), "sample.min_new_tokens = 31 is more than the run's own limit of 30"),
    ],
)
def test_a_least_length_beyond_the_greatest_is_refused(options: Sampling, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}; ask for less, or allow more$"):
        _model().sample([[START]], text_seeds(0, 0, 1), options)


def _plain(model, prompt, seed, sampling):
    """The text of one prompt, a token at a time: what `decode` has to equal, whatever stands in the batch with it."""
    stepper, layer = model.stepper(), OutputLayer(model.head(), suppress_tokens=model.config.suppress_tokens)
    state, written, last = stepper.prefill([prompt[:-1]] * 8), [], prompt[-1]
    while len(written) < model.config.max_length:
        features, state = stepper.step(torch.full((8,), last), state)
        logits = layer.logits(features, layer.bias)
        if len(written) < sampling.min_new_tokens:
            logits[:, model.config.stop] = -math.inf
        if sampling.no_repeat_ngram_size:  # 2: no token again behind the last one
            row = prompt + written
            again = [b for a, b in itertools.pairwise(row) if a == row[-1]]
            logits[:, again] = -math.inf
        logits = filtered(logits, torch.tensor([prompt + written] * 8), sampling)
        uniform = uniforms(seed.expand(8), torch.tensor(len(written)))
        last = int(pick(logits.softmax(-1), uniform)[0])
        if last == model.config.stop:
            break
        written.append(last)
    return written


@pytest.mark.parametrize(
    "sampling",
    [
        PLAIN,
        Sampling(top_p=0.8, temperature=1.3, min_new_tokens=3),
        Sampling(typical_p=0.7, repetition_penalty=1.5),
        Sampling(top_k=6, no_repeat_ngram_size=2),
    ],
)
@pytest.mark.parametrize("every", [1, 4, 32])
def test_texts_are_those_of_a_plain_loop_however_seldom_the_ended_leave_the_batch(every, sampling):
    model, prompts, seeds = _model(max_length=12), _prompts(11), text_seeds(6, 0, 11)
    decoder = model.decoder()
    decoder.every = every
    samples = decoder.decode(prompts, seeds, replace(sampling, details=True))
    assert samples.ids == [_plain(model, p, seed, sampling) for p, seed in zip(prompts, seeds, strict=True)]
    assert samples.finished == [len(ids) < 12 for ids in samples.ids]
    assert [len(d.log_prob) for d in samples.details] == [len(ids) + (len(ids) < 12) for ids in samples.ids]


@pytest.mark.parametrize("every", [1, 5])
def test_a_text_without_a_token_left_is_named_by_its_first_one(every):
    model = _model(stop=-1, suppress_tokens=())
    with torch.no_grad():
        model.embedding.weight[7] = math.nan  # and with it the logits after token 7
    decoder, prompts = model.decoder(), [[START], [START], [START, 7]]
    decoder.every = every
    with pytest.raises(NonFiniteError, match=r"^text \d, token 0: the model's logits are not finite"):
        decoder.decode(prompts, text_seeds(0, 0, 3), PLAIN)


def test_recorded_steps_give_the_same_texts(monkeypatch):
    # a graph that is none: what was recorded runs again
    monkeypatch.setattr(graphs, "_recorded", lambda run: (run(), run)[1])
    decoder, prompts, seeds = _model(max_length=40).decoder(), _prompts(11), text_seeds(6, 0, 11)
    sampling = Sampling(top_p=0.9, min_new_tokens=2)
    expected = decoder.decode(prompts, seeds, sampling)
    decoder.every, decoder.graphs = 4, True
    assert decoder.decode(prompts, seeds, sampling) == expected
