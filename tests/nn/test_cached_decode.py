"""Sampling asks for what any autoregressive model can give: a Transformer with a preallocated cache, a bigram table.

What is expected comes from whole forward passes without a cache, and from the table itself.
"""

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqgen.core.options import Beam, Sampling
from seqgen.core.rng import text_seeds, uniforms
from seqgen.nn import decode, rollout, sampler
from seqgen.nn.beam import beam_search
from seqgen.nn.decode import Autoregressive, Decoder, Recurrent

START, STOP = 0, 1
LAYERS, HEADS, WIDTH = 2, 2, 8


@dataclass
class Cache:
    """Keys and values (layers, rows, heads, positions, features), and how many positions of each row are in use."""

    keys: Tensor
    values: Tensor
    used: Tensor


class Transformer:
    """Pre-norm, with learned positions."""

    def __init__(self, vocab: int = 9, context: int = 16) -> None:
        draws = torch.Generator().manual_seed(3)
        normal = lambda *shape: torch.randn(*shape, generator=draws)  # noqa: E731
        self.context, self.allocated = context, 0
        self.embedding, self.positions = normal(vocab, WIDTH), normal(context, WIDTH)
        self.qkv = [normal(3 * WIDTH, WIDTH) for _ in range(LAYERS)]
        self.out = [normal(WIDTH, WIDTH) for _ in range(LAYERS)]
        self.up = [normal(2 * WIDTH, WIDTH) for _ in range(LAYERS)]
        self.down = [normal(WIDTH, 2 * WIDTH) for _ in range(LAYERS)]

    def _layer(self, n: int, x: Tensor, attend: Any) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in F.linear(F.layer_norm(x, (WIDTH,)), self.qkv[n]).chunk(3, -1)
        )
        x = x + F.linear(attend(n, q, k, v).transpose(1, 2).flatten(2), self.out[n])
        return x + F.linear(F.gelu(F.linear(F.layer_norm(x, (WIDTH,)), self.up[n])), self.down[n])

    def _whole(self, ids_bt: Tensor, attend: Any) -> Tensor:
        x = self.embedding[ids_bt] + self.positions[: ids_bt.shape[1]]
        for n in range(LAYERS):
            x = self._layer(n, x, attend)
        return F.layer_norm(x, (WIDTH,))

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Of every position, (T, V), without any cache."""
        causal = lambda n, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
        return self._whole(torch.tensor([list(ids)]), causal)[0] @ self.embedding.t()

    def prefill(self, prompts: Sequence[Sequence[int]], state: Cache | None = None, *, room: int = 0) -> Cache:
        assert state is None
        self.allocated += 1
        longest = max(map(len, prompts))
        shape = (LAYERS, len(prompts), HEADS, longest + room, WIDTH // HEADS)
        cache = Cache(torch.zeros(shape), torch.zeros(shape), torch.tensor([len(p) for p in prompts]))

        def attend(n: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.keys[n, :, :, :longest], cache.values[n, :, :, :longest] = k, v
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        if longest:
            self._whole(torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts]), attend)
        return cache

    def step(self, ids: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        rows = torch.arange(len(ids))
        seen = torch.arange(state.keys.shape[3]) <= state.used[:, None]

        def attend(n: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            state.keys[n, rows, :, state.used], state.values[n, rows, :, state.used] = k[:, :, 0], v[:, :, 0]
            keys, values = state.keys[n, : len(ids)], state.values[n, : len(ids)]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen[:, None, None])

        x = (self.embedding[ids] + self.positions[state.used])[:, None]
        for n in range(LAYERS):
            x = self._layer(n, x, attend)
        return F.layer_norm(x[:, 0], (WIDTH,)), Cache(state.keys, state.values, state.used + 1)

    def select(self, state: Cache, rows: Tensor) -> Cache:
        used, count = state.used[rows], len(rows)
        if count > state.keys.shape[1]:  # only more rows than ever take new memory
            self.allocated += 1
            return Cache(state.keys[:, rows], state.values[:, rows], used)
        state.keys[:, :count], state.values[:, :count] = state.keys[:, rows], state.values[:, rows]
        return Cache(state.keys, state.values, used)

    def head(self) -> tuple[Tensor, None]:
        return self.embedding, None


class Bigrams:
    """A head with log-probabilities of its own: the last token's row of a table is all there is to know."""

    device = torch.device("cpu")

    def __init__(self, table_vv: Tensor) -> None:
        self.table, self.vocab_size = table_vv.log(), len(table_vv)

    def log_probs(self, features_cf: Tensor) -> Tensor:
        return features_cf

    def model(self) -> Recurrent:
        # the state of a bigram model is empty, but has rows
        return Recurrent(lambda rows: (torch.zeros(rows),), lambda ids, state: (self.table[ids], state), lambda: self)


def decoder(model: Autoregressive[Any], **options: Any) -> Decoder:
    return Decoder(model, **{"stop": STOP, "suppress_tokens": (START,), "max_length": 8} | options)


PROMPTS = [[START, 4, 5, 6, 2], [START], [START, 8], [START, 3, 3], [START, 4, 5, 6, 2]]


def test_cached_steps_equal_the_whole_forward_pass_at_every_position() -> None:
    model = Transformer()
    texts = torch.randint(2, 9, (5, 16), generator=torch.Generator().manual_seed(1)).tolist()
    rows, lengths = list(range(5)), [0, 5, 1, 3, 7]
    state = model.prefill([text[:n] for text, n in zip(texts, lengths, strict=True)], room=9)
    orders = {2: [4, 0, 1, 3, 2], 4: [1, 1, 3, 0], 6: [3, 0]}  # a permutation, a copy, and rows that leave
    for t in range(9):
        if t in orders:
            state = model.select(state, torch.tensor(orders[t]))
            rows = [rows[n] for n in orders[t]]
        features, state = model.step(torch.tensor([texts[row][lengths[row] + t] for row in rows]), state)
        for feature, row in zip(features, rows, strict=True):
            torch.testing.assert_close(
                feature @ model.embedding.t(), model.logits(texts[row][: lengths[row] + t + 1])[-1], rtol=0, atol=1e-5
            )


def test_the_fifteen_lines_above_the_decoder_write_what_the_decoder_writes() -> None:
    model, seeds = Transformer(), text_seeds(2, 0, 5)
    top_k, temperature, max_new_tokens = 4, 0.7, 8
    written = decoder(model).decode(
        PROMPTS, seeds, Sampling(top_k=top_k, temperature=temperature, max_new_tokens=max_new_tokens)
    )
    lines = textwrap.dedent(decode.__doc__.split("seed:\n\n")[1].split("`Autoregressive`")[0])
    output = decoder(model).output
    for n, prompt in enumerate(PROMPTS):
        names = {name: getattr(sampler, name) for name in ("keep_top_k", "pick")}
        names |= {"torch": torch, "uniforms": uniforms, "model": model, "output": output, "bias": output.bias}
        names |= {"top_k": top_k, "temperature": temperature, "max_new_tokens": max_new_tokens, "stop": STOP}
        names |= {"prompt": prompt, "seed": seeds[n : n + 1]}
        exec(lines, names)
        assert names["written"] == written.ids[n]


def test_each_text_is_what_feeding_the_whole_prefix_again_gives() -> None:
    model, seeds = Transformer(), text_seeds(5, 0, 5)
    samples = decoder(model, stop=-1).decode(PROMPTS, seeds, Sampling(max_new_tokens=12))
    for n, prompt in enumerate(PROMPTS):
        expected: list[int] = []
        while len(expected) < 12:  # max_new_tokens counts what is new, whatever the prompt
            logits = model.logits(prompt + expected)[-1]
            logits[START] = -math.inf
            ends = logits.double().softmax(0).cumsum(0)
            expected.append(int((ends <= uniforms(seeds[n : n + 1], torch.tensor(len(expected)))).sum()))
        assert samples.ids[n] == expected


def test_texts_do_not_depend_on_their_company() -> None:
    seeds = text_seeds(5, 0, 5)
    together = decoder(Transformer()).decode(PROMPTS, seeds, Sampling()).ids
    alone = [decoder(Transformer()).decode([PROMPTS[n]], seeds[n : n + 1], Sampling()).ids[0] for n in range(5)]
    assert together == alone


def test_the_cache_is_made_once_and_written_in_place() -> None:
    model = Transformer()
    samples = decoder(model).decode(PROMPTS * 2, text_seeds(1, 0, 10), Sampling(max_new_tokens=10))
    assert len({len(ids) for ids in samples.ids}) > 1  # texts ended at different steps: rows were selected
    assert model.allocated == 2  # four different prompts, then sixteen rows


def test_beam_search_over_a_cache_equals_exhaustive_search() -> None:
    model = Transformer(vocab=5)
    for prompt in ([START], [START, 2, 3, 4]):
        scores: dict[tuple[int, ...], float] = {}
        for length in range(1, 5):
            for tokens in itertools.product(range(1, 5), repeat=length):
                if STOP not in tokens[:-1] and (tokens[-1] == STOP or length == 4):
                    log_probs = model.logits([*prompt, *tokens]).double().log_softmax(1)[len(prompt) - 1 :]
                    scores[tokens] = float(sum(log_probs[t, token] for t, token in enumerate(tokens))) / length
        ranked = sorted(scores, key=lambda tokens: (tokens[-1] != STOP, -scores[tokens]))
        (found,) = beam_search(decoder(model, max_length=4), [prompt], Beam(num_beams=256))
        assert [text.ids for text in found] == [[token for token in tokens if token != STOP] for tokens in ranked]
        assert [text.score for text in found] == pytest.approx([scores[tokens] for tokens in ranked], abs=1e-4)


def test_rollouts_over_a_cache_complete_every_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    # every draw takes the median of its distribution, so that each completion has one right answer
    monkeypatch.setattr(torch, "rand", lambda count, dtype, device: torch.full((count,), 0.5, dtype=dtype))
    model = Transformer()
    texts = rollout.Texts(torch.tensor([[3, 4, 5, 6, 7], [8, 2, STOP, 0, 0]]), torch.tensor([5, 3]))
    made, cells = rollout.complete(model, texts, rollouts=2, start=START, stop=STOP, suppress_tokens=(START,))
    assert len(cells) == 2 * (4 + 2)
    for ids, length, cell in zip(made.ids.tolist(), made.lengths.tolist(), cells.tolist(), strict=True):
        row, t = divmod(cell, 5)
        expected = texts.ids[row, : t + 1].tolist()
        while len(expected) < 5 and expected[-1] != STOP:
            logits = model.logits([START, *expected])[-1]
            logits[START] = -math.inf
            expected.append(int((logits.double().softmax(0).cumsum(0) <= 0.5).sum()))
        assert ids[:length] == expected


def test_a_prompt_and_a_text_beyond_the_context_are_refused() -> None:
    model, seeds = Transformer(context=12), text_seeds(0, 0, 2)
    prompts = [[START], [START, 4, 5, 6, 2]]
    most = decoder(model, stop=-1).decode(prompts, seeds, Sampling(max_new_tokens=8))
    assert [len(ids) for ids in most.ids] == [8, 8]
    message = (
        r"^prompt 1 of 5 tokens and 9 new ones exceed the model's context of 12; shorten the prompt, or set "
        r"sample.max_new_tokens to at most 8$"
    )
    with pytest.raises(ValueError, match=message):
        decoder(model, stop=-1).decode(prompts, seeds, Sampling(max_new_tokens=9))
    with pytest.raises(ValueError, match=message):
        beam_search(decoder(model, max_length=9), prompts, Beam())
    with pytest.raises(ValueError, match=r"^prompt 0 of 13 tokens and 1 new ones .* context of 12; shorten"):
        decoder(model).decode([[START] * 13], seeds[:1], Sampling(max_new_tokens=1))


def test_a_head_may_give_log_probabilities_of_its_own() -> None:
    table = torch.tensor([[0, 0.1, 0.4, 0.5], [0.25] * 4, [0, 0.4, 0.6, 0], [0, 0.6, 0.0, 0.4]])
    head, seeds = Bigrams(table), text_seeds(3, 0, 200)
    samples = decoder(head.model()).decode([[START]] * 200, seeds, Sampling(details=True))
    assert samples.details is not None
    for n, (ids, ended, details) in enumerate(zip(samples.ids, samples.finished, samples.details, strict=True)):
        tokens = [START, *ids, *[STOP] * ended]
        drawn = torch.stack([table[a, b] for a, b in itertools.pairwise(tokens)])
        torch.testing.assert_close(details.log_prob, drawn.log())
        for t, (a, b) in enumerate(itertools.pairwise(tokens)):
            assert b == int((table[a].double().cumsum(0) <= uniforms(seeds[n : n + 1], torch.tensor(t))).sum())
    (found,) = beam_search(decoder(head.model(), max_length=3), [[START]], Beam(num_beams=2, length_penalty=0.0))
    # 3 and 1: .5 * .6; 2 and 1: .4 * .4; less are 3, 3 and 1: .12, and 1 alone: .1
    assert [(text.ids, round(math.exp(text.log_prob), 4)) for text in found] == [([3], 0.3), ([2], 0.16)]
