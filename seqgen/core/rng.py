"""Random numbers as functions of what they are for: (seed, step, rank) in training, (seed, k, t) in sampling.

Nothing about randomness is ever saved, because nothing is carried: a resumed step draws what the first one drew.
"""

import hashlib

import torch
from torch import Tensor

_MASK_53 = (1 << 53) - 1


def hash64(*parts: int | str) -> int:
    """Hash any parts to a 63-bit integer, the same on every machine.

    Hash, do not add: `seed + k` would share texts between neighbouring seeds.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def enter_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed the generators that dropout and noise of this step draw from, on the CPU and on every CUDA device.

    The generators are seeded directly: `torch.manual_seed` visits every backend, 300 us a step against 6.
    """
    value = hash64("step", seed, step, rank)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for generator in torch.cuda.default_generators:
            generator.manual_seed(value)


def generator(*parts: int | str) -> torch.Generator:
    """Return a fresh generator seeded by `hash64(*parts)`, on the CPU: what it draws is the same for every device."""
    made = torch.Generator()
    made.manual_seed(hash64(*parts))
    return made


def text_seeds(seed: int, first: int, count: int, prompt: str = "") -> Tensor:
    """Return the seeds of texts `first` to `first + count - 1` of a call with `seed`, (count,) int64.

    Each prompt has its own, so that texts of different prompts are drawn independently.
    """
    own = [prompt] if prompt else []
    return torch.tensor([hash64("text", seed, k, *own) for k in range(first, first + count)], dtype=torch.int64)


def _signed(value: int) -> int:
    """Return the int64 with the low 64 bits of any integer."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_STREAM = _signed(0xD1B54A32D192ED03)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(text_seeds_b: Tensor, t: int | Tensor, *, stream: int = 0) -> Tensor:
    """Return the t-th uniform number of every text, (B,) float64 in [0, 1), on the seeds' device.

    Counter-based: splitmix64's output function (Steele, Lea, Flood 2014) of seed + t * golden gamma, so draw t of a
    text depends on its seed and t alone, not on the batch around it. `t` is one step or a (B,) tensor of steps;
    `stream` numbers further independent draws at the same t.
    """
    x = text_seeds_b + (_signed((t + 1) * _GAMMA) if isinstance(t, int) else (t + 1) * _GAMMA)
    if stream:
        x = x ^ _signed(stream * _STREAM)
    x = (x ^ _logical_shift(x, 30)) * _MIX_1
    x = (x ^ _logical_shift(x, 27)) * _MIX_2
    x = x ^ _logical_shift(x, 31)
    return (_logical_shift(x, 11) & _MASK_53).double() * 2.0**-53


def normals(seeds_b: Tensor, width: int, *, stream: int = 0) -> Tensor:
    """Return standard normal numbers (B, width) float64, a function of each row's seed and the stream alone."""
    drawn = uniforms(seeds_b[:, None], torch.arange(width, device=seeds_b.device), stream=stream)
    # the middle of each of the 2^53 cells, so that 0 and with it -infinity cannot come
    return torch.special.ndtri(drawn + 2.0**-54)  # type: ignore[no-any-return]
