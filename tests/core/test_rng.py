"""Random numbers: splitmix64 against its definition in plain integers, and independence of the batch around a text."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seqgen.core import rng

_MASK = (1 << 64) - 1


def splitmix64(seed: int, t: int) -> float:
    x = (seed + (t + 1) * 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((x ^ (x >> 31)) >> 11) * 2.0**-53


@given(st.integers(0, 2**63 - 1), st.integers(0, 100_000))
def test_uniforms_are_splitmix64(seed: int, t: int) -> None:
    assert rng.uniforms(torch.tensor([seed]), t).item() == splitmix64(seed, t)
    assert rng.uniforms(torch.tensor([seed]), torch.tensor([t])).item() == splitmix64(seed, t)


def test_a_text_draws_the_same_numbers_in_every_batch() -> None:
    alone = rng.uniforms(rng.text_seeds(7, 3, 1), 5)
    together = rng.uniforms(rng.text_seeds(7, 0, 10), 5)
    assert together[3] == alone[0]


def test_neighbouring_seeds_share_no_texts() -> None:
    assert not set(rng.text_seeds(1, 0, 1000).tolist()) & set(rng.text_seeds(2, 0, 1000).tolist())
    assert not set(rng.text_seeds(1, 0, 1000, "the dog").tolist()) & set(rng.text_seeds(1, 0, 1000, "the").tolist())


@pytest.mark.parametrize("stream", [0, 1])
def test_uniforms_are_uniform_over_texts_and_over_steps(stream: int) -> None:
    over_texts = rng.uniforms(rng.text_seeds(0, 0, 5000), 3, stream=stream).numpy()
    seed = rng.text_seeds(0, 0, 1)
    over_steps = np.array([rng.uniforms(seed, t, stream=stream).item() for t in range(3000)])
    for values in (over_texts, over_steps):
        assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_streams_differ() -> None:
    seeds = rng.text_seeds(0, 0, 100)
    assert not torch.equal(rng.uniforms(seeds, 0), rng.uniforms(seeds, 0, stream=1))


def test_a_step_draws_the_same_whatever_was_drawn_before() -> None:
    rng.enter_step(1, 10, 0)
    first = torch.rand(4)
    torch.rand(99)
    rng.enter_step(1, 10, 0)
    assert torch.equal(torch.rand(4), first)
    for other in [(2, 10, 0), (1, 11, 0), (1, 10, 1)]:
        rng.enter_step(*other)
        assert not torch.equal(torch.rand(4), first)


def test_parts_of_a_hash_do_not_run_together() -> None:
    assert rng.hash64("a", "bc") != rng.hash64("ab", "c")
    assert rng.hash64(1) != rng.hash64("1")


def test_normals_are_normal_and_belong_to_their_seed() -> None:
    seeds = rng.text_seeds(3, 0, 3000)
    x = rng.normals(seeds, 5)
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(rng.normals(seeds[40:43], 3), x[40:43, :3])
    assert not torch.equal(rng.normals(seeds, 5, stream=1), x)
