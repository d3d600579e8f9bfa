"""What the codes of a text VAE are for: texts to codes and back, paths between texts, and how good a code is.

    coder = seqgen.engine.latent.Coder(seqgen.load("runs/captions"))
    coder.interpolate("a dog runs .", "two men sit on a bench .", steps=7)

Shapes: N texts, Z code dimensions, K codes of a text.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqgen.core import rng
from seqgen.core.errors import DataError, RunError
from seqgen.data.sources import encode_sources, facts
from seqgen.engine.generate import Writer
from seqgen.images.samplers import between
from seqgen.nn.decode import Sampling

_ROWS = 512
"""Texts written together; results do not depend on it."""


class Coder:
    """A text VAE at work: its `Writer` with the way from texts to codes and back. RunError for any other run."""

    def __init__(self, writer: Writer) -> None:
        if not getattr(writer.model, "encodes", False):
            raise RunError(
                f"a run of {writer.settings.name} has no codes; train one that has: seqgen train text-vae --data FILE"
            )
        self.writer = writer

    def encode(self, lines: Sequence[str], sources: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of each line's code, (N, Z) float32 on the CPU.

        DataError, which names the line, for one without a known token and one longer than the run's limit.
        """
        self._check(lines)
        latent = self.writer.settings.model.latent
        mean, log_variance = torch.empty(len(lines), latent), torch.empty(len(lines), latent)
        with torch.inference_mode():
            for batch in self.writer.batches(lines, sources):
                found = self.writer.model.encode(batch.to(self.writer.device))
                mean[batch.rows], log_variance[batch.rows] = (part.cpu() for part in found)
        return mean, log_variance

    def _check(self, lines: Sequence[str]) -> None:
        tokenizer, limit = self.writer.tokenizer, self.writer.settings.model.max_length
        faults = []
        for number, ids in enumerate(tokenizer.encode(lines), 1):
            name = "the text" if len(lines) == 1 else f"line {number}"
            if not len(ids) or bool((ids == tokenizer.unk).all()):
                faults.append(f"{name} ({lines[number - 1][:40]!r}) holds no token that this run knows")
            elif len(ids) + 1 > limit:
                faults.append(f"{name} has {len(ids) + 1} tokens, its end counted; this run codes at most {limit}")
        if faults:
            more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise DataError("; ".join(faults[:3]) + more)

    def write(
        self, codes: Tensor, *, sources: Sequence[str] | None = None, seed: int = 0, temperature: float = 0.0
    ) -> list[str]:
        """The text of every code (N, Z), the likeliest token each time, or drawn at a temperature above 0."""
        prompts = self._prompts(sources, len(codes))
        seeds = rng.text_seeds(seed, 0, len(codes)).to(self.writer.device)
        decoder, state = self.writer.model.decoder(), self.writer.model.begin(codes.to(self.writer.device))
        texts: list[str] = []
        for first in range(0, len(codes), _ROWS):
            rows = slice(first, first + _ROWS)
            begun = tuple(part[rows] for part in state)
            made = decoder.decode(prompts[rows], seeds[rows], Sampling(temperature=temperature), state=begun)
            texts += self.writer.tokenizer.decode(made.ids)
        return texts

    def _prompts(self, sources: Sequence[str] | None, count: int) -> list[list[int]]:
        """What the writer reads before each text."""
        settings, tokenizer = self.writer.settings, self.writer.tokenizer
        start = int(facts(tokenizer, settings.data.mode, settings.model.max_length)["start"])
        if bool(settings.data.source) != (sources is not None):
            needs = "needs" if settings.data.source else "takes no"
            raise DataError(f"this run was trained with data.source = {settings.data.source!r} and {needs} --source")
        if sources is None:
            return [[start]] * count
        if len(sources) != count:
            raise DataError(f"{count} codes but {len(sources)} sources; give one source per code")
        return [[start, *ids.tolist()] for ids in encode_sources(tokenizer, sources)]

    def reconstruct(self, lines: Sequence[str], sources: Sequence[str] | None = None, **options: float) -> list[str]:
        """Each line written again from the mean of its code; the options are those of `write`."""
        return self.write(self.encode(lines, sources)[0], sources=sources, **options)  # type: ignore[arg-type]

    def interpolate(
        self, a: str, b: str, *, steps: int = 7, spherical: bool = False, source: str | None = None, seed: int = 0
    ) -> list[str]:
        """Texts on the way from one text's code to another's, both ends included, the likeliest token each time.

        spherical: along the great circle instead of the line. An empty text is a draw from the prior by `seed`.
        """
        seeds = rng.text_seeds(seed, 0, 2).to(self.writer.device)
        drawn = self.writer.model.prior(seeds).cpu()
        known = [None if source is None else [source]] * 2
        ends = [
            self.encode([x], own)[0][0] if x else drawn[i] for i, (x, own) in enumerate(zip((a, b), known, strict=True))
        ]
        path = between(ends[0], ends[1], steps, spherical=spherical)
        return self.write(path, sources=None if source is None else [source] * steps)
