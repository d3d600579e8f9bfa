"""The Transformer against a plain one written as the papers' equations, and the laws of its cache and its window."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import seqgen as library
from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import ConfigError
from seqgen.core.options import Beam, Sampling
from seqgen.core.rng import text_seeds
from seqgen.models import gpt
from seqgen.nn.beam import beam_search

VOCAB, START, STOP = 30, 2, 3
MODERN: dict[str, Any] = {}
GPT_2: dict[str, Any] = {"positions": "learned", "activation": "gelu", "norm": "layer", "bias": True, "tied": False}
KINDS = pytest.mark.parametrize("options", [MODERN, GPT_2], ids=["modern", "gpt-2"])


def made(**options: Any) -> gpt.Model:
    """Two layers, two heads, with weights large enough for uneven distributions."""
    plain = {"layers": 2, "heads": 2, "hidden": 16, "dropout": 0.0, "vocab_size": VOCAB, "stop": STOP}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = gpt.Model(gpt.Config(**(plain | {"suppress_tokens": (0, 1, START), "max_length": 20} | options))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def plain_logits(model: gpt.Model, ids: list[int]) -> Tensor:
    """Logits (T, V) by loops over heads and positions; pairs of features are turned as complex numbers."""
    config, length = model.config, len(ids)
    size = config.hidden // config.heads

    def norm(layer: gpt.Norm, x: Tensor) -> Tensor:
        if config.norm == "rms":
            return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    def turned(x: Tensor) -> Tensor:
        if config.positions == "learned":
            return x
        angle = torch.arange(length)[:, None] * 10_000.0 ** (-2 * torch.arange(size // 2) / size)
        pairs = torch.complex(x[:, : size // 2], x[:, size // 2 :]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([pairs.real, pairs.imag], 1)

    x = model.embedding.weight[ids]
    if model.positions is not None:
        x = x + model.positions.weight[:length]
    for block in model.blocks:
        mixed = []
        q, k, v = F.linear(norm(block.norm_1, x), block.qkv.weight, block.qkv.bias).chunk(3, 1)
        for head in range(config.heads):
            part = slice(head * size, (head + 1) * size)
            q_h, k_h, v_h = turned(q[:, part]), turned(k[:, part]), v[:, part]
            rows = [torch.softmax(k_h[: t + 1] @ q_h[t] / math.sqrt(size), 0) @ v_h[: t + 1] for t in range(length)]
            mixed.append(torch.stack(rows))
        x = x + F.linear(torch.cat(mixed, 1), block.out.weight, block.out.bias)
        up = F.linear(norm(block.norm_2, x), block.up.weight, block.up.bias)
        if config.activation == "gelu":
            inner = up / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        else:
            gate, value = up.chunk(2, 1)
            inner = gate * torch.sigmoid(gate) * value
        x = x + F.linear(inner, block.down.weight, block.down.bias)
    weight = model.embedding.weight if model.output_weight is None else model.output_weight
    return norm(model.norm, x) @ weight.t()


def windowed_logits(model: gpt.Model, ids: list[int]) -> Tensor:
    """What predicts the token after `ids`, read one by one into a window that begins anew with its half when full."""
    window: list[int] = []
    for token in ids:
        if len(window) == model.context:
            window = window[-(model.context // 2) :]
        window.append(token)
    return plain_logits(model, window)[-1].detach()


def batch_of(*rows: list[int]) -> SequenceBatch:
    """Rows of ids, padded on the right with id 0; every target counts."""
    lengths = torch.tensor([len(row) - 1 for row in rows])
    width = int(lengths.max())
    inputs, targets = torch.zeros(2, len(rows), width, dtype=torch.int64)
    for n, row in enumerate(rows):
        inputs[n, : len(row) - 1], targets[n, : len(row) - 1] = torch.tensor(row[:-1]), torch.tensor(row[1:])
    real = torch.arange(width) < lengths[:, None]
    return SequenceBatch(inputs, targets, real.flatten().nonzero()[:, 0], lengths, torch.arange(len(rows)))


def drawn(*lengths: int) -> list[list[int]]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randint(4, VOCAB, (n,), generator=draws).tolist() for n in lengths]


@KINDS
def test_likelihood_and_gradient_equal_the_plain_equations(options: dict[str, Any]) -> None:
    model, rows = made(**options), drawn(12, 5, 9)
    batch = batch_of(*rows)
    expected = torch.cat([plain_logits(model, r[:-1]).log_softmax(1)[range(len(r) - 1), r[1:]] for r in rows])
    torch.testing.assert_close(model.log_probs(batch), expected.double(), rtol=0, atol=1e-5)
    total, count = gpt.validate(model, batch)["nll"]
    assert (float(total), count) == (pytest.approx(-float(expected.detach().sum()), rel=1e-5), 11 + 4 + 8)
    parameters = list(model.parameters())
    loss = gpt.linear_cross_entropy(model.features(batch), *model.head(), batch.targets.flatten()[batch.positions])
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(-expected.sum(), parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_logits_equal_those_of_transformers_gpt_2() -> None:
    theirs = pytest.importorskip("transformers", reason="the reference is Hugging Face's own implementation")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        reference = theirs.GPT2LMHeadModel(
            theirs.GPT2Config(vocab_size=VOCAB, n_positions=20, n_embd=16, n_layer=2, n_head=2)
        ).eval()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    model = made(**GPT_2 | {"tied": True})
    names = {"wte": "embedding", "wpe": "positions", "ln_f": "norm", "ln_1": "norm_1", "ln_2": "norm_2", "h": "blocks"}
    names |= {"attn.c_attn": "qkv", "attn.c_proj": "out", "mlp.c_fc": "up", "mlp.c_proj": "down"}
    weights = {}
    for name, value in reference.transformer.state_dict().items():
        ours = name
        for old, new in names.items():
            ours = re.sub(rf"(^|\.){re.escape(old)}(?=\.)", rf"\g<1>{new}", ours)
        weights[ours] = value.t() if ".c_" in name and value.dim() == 2 else value  # stored as inputs by outputs there
    model.load_state_dict(weights)
    ids = torch.tensor(drawn(20, 20))
    with torch.no_grad():
        expected = reference(ids).logits
        torch.testing.assert_close(model.norm(model.scan(ids)) @ model.head()[0].t(), expected, rtol=0, atol=1e-5)
        greedy = reference.generate(ids[:, :3], max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
    plain = made(**GPT_2 | {"tied": True, "stop": -1, "suppress_tokens": ()})
    plain.load_state_dict(weights)
    options = Sampling(greedy=True, max_new_tokens=10)
    assert plain.sample(ids[:, :3].tolist(), text_seeds(0, 0, 2), options).ids == greedy[:, 3:].tolist()


@KINDS
def test_cached_steps_equal_the_whole_row_at_every_position(options: dict[str, Any]) -> None:
    """Across the border of a block of 64 positions, with prompts of different lengths, and rows that move and leave."""
    model, texts = made(**options, context=90), drawn(90, 90, 90, 90, 90)
    whole = [model.norm(model.scan(torch.tensor([text]))[0]) for text in texts]
    rows, lengths = list(range(5)), [0, 60, 1, 70, 33]
    steps = model.stepper()
    state = steps.prefill([text[:n] for text, n in zip(texts, lengths, strict=True)], room=20)
    orders = {3: [4, 0, 1, 3, 2], 5: [1, 1, 3, 0], 9: [3, 0]}  # a permutation, a copy, and rows that leave
    for t in range(20):
        if t in orders:
            state = steps.select(state, torch.tensor(orders[t]))
            rows = [rows[n] for n in orders[t]]
        features, state = steps.step(torch.tensor([texts[row][lengths[row] + t] for row in rows]), state)
        expected = torch.stack([whole[row][lengths[row] + t] for row in rows])
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


@KINDS
def test_text_k_has_the_same_bits_in_any_company(options: dict[str, Any]) -> None:
    model = made(**options, context=90, stop=-1)
    prompts, seeds, sampling = drawn(1, 70, 3, 1, 12, 1, 40, 9, 2), text_seeds(1, 0, 9), Sampling(details=True)
    together = model.sample(prompts, seeds, sampling)
    for n in range(9):
        alone = model.sample(prompts[n : n + 1], seeds[n : n + 1], sampling)
        assert alone.ids[0] == together.ids[n]
        assert alone.details is not None
        assert together.details is not None
        assert torch.equal(alone.details[0].log_prob, together.details[n].log_prob)


@KINDS
@pytest.mark.parametrize("length", [3, 8, 9, 20])
def test_a_text_beyond_the_context_goes_on_from_its_last_half(options: dict[str, Any], length: int) -> None:
    model, prompts = made(**options, context=8, stop=-1), drawn(length, length + 2, 2)
    samples = model.sample(prompts, text_seeds(0, 0, 3), Sampling(greedy=True, max_new_tokens=14))
    for prompt, ids in zip(prompts, samples.ids, strict=True):
        assert len(ids) == 14
        for n, token in enumerate(ids):
            logits = windowed_logits(model, prompt + ids[:n])
            logits[[0, 1, START]] = -math.inf
            assert float(logits[token]) == pytest.approx(float(logits.max()), abs=1e-4)
    rows = [prompt + ids for prompt, ids in zip(prompts, samples.ids, strict=True)]
    expected = [windowed_logits(model, row[:n]).log_softmax(0)[row[n]] for row in rows for n in range(1, len(row))]
    torch.testing.assert_close(model.log_probs(batch_of(*rows)), torch.stack(expected).double(), rtol=0, atol=1e-4)


def test_beams_have_the_likelihood_of_the_whole_row_and_do_not_mind_company() -> None:
    model, prompts = made(context=30), drawn(1, 4, 9)
    together = beam_search(model.decoder(), prompts, Beam(num_beams=5))
    for prompt, found in zip(prompts, together, strict=True):
        assert found == beam_search(model.decoder(), [prompt], Beam(num_beams=5))[0]
        for text in found:
            row = [*prompt, *text.ids, *[STOP] * text.finished]
            log_probs = plain_logits(model, row[:-1]).detach().log_softmax(1)[range(len(row) - 1), row[1:]]
            assert text.log_prob == pytest.approx(float(log_probs[len(prompt) - 1 :].sum()), abs=1e-4)


def test_where_it_does_not_slide_the_context_is_a_limit() -> None:
    model, prompt = made(context=12, slide=False, stop=-1), drawn(5)
    samples = model.sample(prompt, text_seeds(0, 0, 1), Sampling(max_new_tokens=8))
    assert len(samples.ids[0]) == 8
    with pytest.raises(ValueError, match=r"^prompt 0 of 5 tokens and 9 new ones exceed the model's context of 12; "):
        model.sample(prompt, text_seeds(0, 0, 1), Sampling(max_new_tokens=9))
    with pytest.raises(
        ConfigError, match=r"^a row of 13 positions exceeds model.context = 12, and model.slide is off$"
    ):
        model.log_probs(batch_of(*drawn(14)))


def test_no_later_token_is_seen_and_padding_changes_no_row() -> None:
    model, rows = made(), drawn(12, 5)
    changed = [*rows[0][:6], (rows[0][6] + 1 - 4) % (VOCAB - 4) + 4, *rows[0][7:]]
    first, second = model.log_probs(batch_of(rows[0])), model.log_probs(batch_of(changed))
    assert torch.equal(first[:5], second[:5])  # the sixth prediction is of the token that changed
    assert not torch.equal(first[6:], second[6:])
    both = model.log_probs(batch_of(*rows))
    torch.testing.assert_close(both[11:], model.log_probs(batch_of(rows[1])), rtol=0, atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    model, batch = made(dropout=0.5), batch_of(*drawn(12))
    assert torch.equal(model.features(batch), model.features(batch))
    model.train()
    assert not torch.equal(model.features(batch), model.features(batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "model.vocab_size must be at least 1, got 0"),
        ({"heads": 3}, "model.heads = 3 must divide model.hidden = 16"),
        (
            {"heads": 16},
            "rotary positions need an even number of features in a head, got model.hidden / .* = 1; change",
        ),
        ({"context": 1}, "model.context must be at least 2 positions, got 1"),
    ],
)
def test_sizes_that_do_not_go_together_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        made(**options)


def test_text_that_does_not_fit_is_refused_before_training() -> None:
    window = SimpleNamespace(mode="window", resolved=(SimpleNamespace(window=32),), facts={})
    with pytest.raises(
        ConfigError, match=r"^model.context = 20 is less than the 32 positions .* or data.window lower$"
    ):
        gpt.attach(made(), window)
    with pytest.raises(ConfigError, match=r"^gpt carries no state from window to window: set data.mode=window"):
        gpt.attach(made(), SimpleNamespace(mode="stream"))
    lines = SimpleNamespace(mode="sentence", resolved=(), facts={"max_length": 22})
    with pytest.raises(
        ConfigError, match=r"^model.context = 20 is less than the 21 positions .* data.max_length lower$"
    ):
        gpt.attach(made(), lines)
    lines.facts["max_length"] = 21
    gpt.attach(made(), lines)


SMALL = {"model.hidden": 16, "model.layers": 1, "train.steps": 2, "train.batch": 8, "train.samples": 8}


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        (
            "reviews.tsv",
            "label\ttext\n" + "".join(f"{kind}\t{kind} food {n}\n" for kind in ("good", "bad") for n in range(40)),
            {"data.source": "label"},
        ),
        ("prose.txt", "the food was fine .\nthe soup was cold .\n" * 60, {"data.mode": "window", "data.window": 16}),
    ],
    ids=["conditions", "windows"],
)
def test_a_run_generates_and_scores(name: str, text: str, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    more = {"data.target": "text"} if "data.source" in options else {}
    config = library.config("gpt", data=str(tmp_path / name), overrides=SMALL | options | more)
    library.train(config, tmp_path / "run", progress=False)
    writer = library.load(tmp_path / "run")
    if more:
        assert len(writer.generate(2, sources=["good", "bad"])) == 4
        assert writer.score(["fine food"], sources=["good"]).nats > 0
    else:
        # four windows long
        (written,) = writer.generate(1, max_new_tokens=64, seed=1)
        assert len(writer.tokenizer.encode([written]).row(0)) > 32
        assert math.isfinite(writer.score(["the food was fine . " * 12]).nats)
