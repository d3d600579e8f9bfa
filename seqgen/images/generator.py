"""Images from a trained run: generated, reconstructed, interpolated, restored, scored.

    generator = seqgen.load_image_generator("runs/digits")
    pixels = generator.generate(64, seed=1)                  # (64, 1, 8, 8) uint8
    seqgen.images.grids.save_grid(pixels, "grid.png")

Image k of a call is a function of (weights, options, seed, k) alone, not of the count or of earlier calls.
Shapes: N images, C channels, S pixels a side, Z latent dimensions.
"""

import base64
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from seqgen.core import files, log, rng
from seqgen.core.errors import DataError
from seqgen.images import grids, reading
from seqgen.images.data import DataConfig, ImageBatch, ImageData, prepare
from seqgen.images.grids import as_bytes
from seqgen.nn.latents import (
    TILE,
    Mixture,
    between,
    calibrate,
    drawn_labels,
    fit_head,
    fit_mixture,
    langevin,
    metropolis,
)

Method: TypeAlias = Literal["prior", "mixture", "metropolis", "langevin"]
METHODS: tuple[Method, ...] = ("prior", "mixture", "metropolis", "langevin")
"""Where latents come from; `mixture` needs an encoder, the last two a critic."""

_TOGETHER = 16 * TILE  # images made between two looks at the time
_FITTED = 20_000  # latents that the mixture is fitted to
_JUDGED = 2000  # training and held-out images that the critic's last layer is fitted to again
_STARTS = 256  # latents of which the best begins a chain of `restore`
_CHAIN = 64  # proposals of a Metropolis chain
_STARTING = 1 << 21  # streams of draws made before a chain begins, above those of its steps


@dataclass(frozen=True, eq=False)
class Restored:
    """What `ImageGenerator.restore` found: images the model finds likely that agree with the damaged one."""

    pixels: Tensor
    """(N, C, S, S) uint8: one image from each chain."""
    mean: Tensor
    """(C, S, S) uint8: their mean, the estimate with the least squared error."""
    deviation: Tensor
    """(C, S, S) float32: standard deviation of each pixel between the chains, 0..1: where the model is unsure."""
    acceptance: float
    """Share of proposals accepted after the warm-up; .3 to .8 is healthy."""


def blurred(images: Tensor, deviation: float) -> Tensor:
    """Return images (B, C, H, W) blurred by a Gaussian of this standard deviation in pixels, 0 leaving them.

    Weights beyond three deviations and beyond the border are left out, and the others sum to 1.
    """
    if not deviation:
        return images
    blurs = []
    for size in images.shape[2:]:
        place = torch.arange(size, device=images.device, dtype=images.dtype)
        apart = place[:, None] - place
        weights = torch.exp(-(apart**2) / (2 * deviation**2)) * (apart.abs() <= max(1.0, 3 * deviation))
        blurs.append(weights / weights.sum(1, keepdim=True))
    return blurs[0] @ images @ blurs[1].t()


class ImageGenerator:
    """A trained image model: what `seqgen.load_image_generator` returns. No optimizer, no loop."""

    def __init__(self, model: Any, data: DataConfig, seed: int, device: torch.device, folder: Path | None) -> None:
        """Take a model; by `data` and `seed` of its run its images are found again where a method needs them."""
        self.model, self.config, self.data = model, model.config, data
        self.seed, self.device, self.folder = seed, device, folder
        self._images: ImageData | None = None
        self._mixture: Mixture | None = None

    def __repr__(self) -> str:
        return f"ImageGenerator({self.folder or type(self.model).__module__}, {self.device})"

    def _repr_html_(self) -> str:
        content = base64.b64encode(grids.png(grids.grid(self.generate(16)))).decode()
        return f'<p>{escape(repr(self))}</p><img alt="16 samples" src="data:image/png;base64,{content}">'

    @property
    def conditional(self) -> bool:
        """Whether the model is given a class, so that `labels` may be chosen."""
        return bool(self.config.conditional)

    @property
    def encodes(self) -> bool:
        """Whether the model has an encoder (a VAE) and not a critic of images (a GAN)."""
        return bool(self.model.encodes)

    # Making

    def generate(
        self,
        count: int = 1,
        *,
        seed: int = 0,
        labels: Sequence[str] = (),
        method: Method = "prior",
        temperature: float = 1.0,
        components: int = 10,
    ) -> Tensor:
        """Generate `count` images (N, C, S, S) uint8, rounded.

        labels: names of classes, taken in turn; none: each image's is drawn as often as in the training images.
        method: `prior`; `mixture`: latents from a mixture of `components` Gaussians fitted to the latents of training
        images; `metropolis`, `langevin`: Markov chains that follow the calibrated critic, for better single
        images, not a better set. temperature: factor of the deviation of prior latents. ValueError for options out of
        range or a method the model has no part for, DataError for unknown labels or training images that have moved.
        """
        if count < 1:
            raise ValueError(f"count must be an integer >= 1, got {count}")
        if temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        if method not in METHODS:
            raise ValueError(f"method must be {', '.join(METHODS[:-1])} or {METHODS[-1]}, got {method!r}")
        seeds = rng.text_seeds(seed, 0, count).to(self.device)
        numbers = self.labels(seeds, labels)
        with torch.no_grad():
            latents = None
            if method == "mixture":
                latents = self._fitted(components).sample(seeds).float()
            elif method != "prior":
                latents = self._chains(method, seeds, numbers)
            parts = []
            for at in range(0, count, _TOGETHER):
                log.part("images", at, count)
                rows = slice(at, at + _TOGETHER)
                own = None if numbers is None else numbers[rows]
                if latents is None:
                    made = self.model.sample(seeds[rows], own, temperature=temperature)
                else:
                    made = self.model.decode(latents[rows], own)
                parts.append(as_bytes(made).cpu())
            return torch.cat(parts)

    def labels(self, seeds: Tensor, names: Sequence[str] = ()) -> Tensor | None:
        """Return the class number (N,) of each image to be generated; None where the model is not conditional."""
        if not self.conditional:
            if names:
                raise DataError("this run is not conditional: it was trained without classes, so none can be chosen")
            return None
        if not names:
            return drawn_labels(seeds, self.config.class_counts)
        for name in names:
            if name not in self.config.classes:
                raise DataError(f"class {name!r} was never seen in training; known: {', '.join(self.config.classes)}")
        chosen = [self.config.classes.index(names[k % len(names)]) for k in range(len(seeds))]
        return torch.tensor(chosen, device=self.device)

    def label_names(self, count: int, *, seed: int = 0, labels: Sequence[str] = ()) -> list[str]:
        """Name the class of each image that `generate` makes with these arguments; [] unless conditional."""
        numbers = self.labels(rng.text_seeds(seed, 0, count).to(self.device), labels)
        return [] if numbers is None else [self.config.classes[k] for k in numbers.tolist()]

    def _fitted(self, components: int) -> Mixture:
        self._needs("method = mixture", encoder=True)
        if self._mixture is None or len(self._mixture.weights) != components:
            split = self.images.train
            order = torch.randperm(len(split.pixels), generator=rng.generator("fitted codes", self.seed))
            batch = split.batch(order[:_FITTED].to(self.device))
            mean, log_variance = self._encoded(batch)
            # with their noise, as the decoder met them in training
            latents = mean + (0.5 * log_variance).exp() * rng.normals(batch.rows, mean.shape[1]).float()
            self._mixture = fit_mixture(latents.cpu().numpy(), components=components, seed=self.seed)
        return self._mixture

    def _chains(self, method: Method, seeds: Tensor, labels: Tensor | None) -> Tensor:
        self._needs(f"method = {method}", encoder=False)
        log_odds, real = self._calibrated(labels)
        latent = self.config.latent
        if method == "metropolis":
            start = real[(rng.uniforms(seeds, 0, stream=_STARTING) * len(real)).long()]
            return metropolis(log_odds, start, seeds, latent, length=_CHAIN)[0]

        def energy(latents: Tensor, warmed: float) -> Tensor:
            return 0.5 * latents.square().sum(1) - log_odds(latents)

        return langevin(energy, rng.normals(seeds, latent), seeds, steps=2 * _CHAIN).latents

    def _calibrated(self, labels: Tensor | None) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the log-odds of a latent's image to be real, and those of the held-out images.

        The critic itself is no measure: at every moment it objects to what its opponent has just made too much of, a
        class for example, and it never saw the averaged generator. So its last layer is fitted again, to training
        images against as many made, and calibrated on held-out ones.
        """
        if getattr(self.config, "pack", 1) > 1:
            raise ValueError(f"chains follow a critic of single images; model.pack = {self.config.pack} scores several")
        splits = []
        for k, split in enumerate((self.images.train, self.images.valid)):
            rows = torch.randperm(len(split.pixels), generator=rng.generator("judged pictures", self.seed))[:_JUDGED]
            batch = split.batch(rows.to(self.device))
            own = batch.labels if self.conditional else None
            seeds = rng.text_seeds(self.seed + k, 0, len(rows)).to(self.device)
            made = self.model.sample(seeds, own)
            splits.append([self._evidence(x, own) for x in (batch.pixels.float() / 255, made)])
        weights, offset = fit_head(*splits[0])

        def head(evidence: Tensor) -> Tensor:
            return (evidence * weights).sum(1) + offset  # no matrix product: the same bits for any number of rows

        real, made = map(head, splits[1])
        line = calibrate(real, made)

        def log_odds(latents: Tensor) -> Tensor:
            found = head(self._evidence(self.model.decode(latents, labels), labels))
            return line.slope * found + line.offset

        return log_odds, line.slope * real + line.offset

    def _evidence(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the critic sees in images (N, C, S, S) in 0..1, and its logit, (N, F + 1)."""
        counts = range(0, len(images), TILE)
        outputs = [
            self.model.critic_output(images[k : k + TILE], None if labels is None else labels[k : k + TILE])
            for k in counts
        ]
        return torch.cat([torch.cat([v.features.flatten(1).float(), v.logit[:, None]], 1) for v in outputs])

    # From images

    def read(self, path: str | os.PathLike[str], *, size: int = 0) -> tuple[Tensor, list[str]]:
        """Read images of a file or folder, cropped, scaled and coloured to fit the run, and their classes.

        (N, C, S, S) uint8, S being `size` where it is given, and N names, "" where there is none. Of `shapes` there
        are a thousand.
        """
        config = self.config
        colour: reading.Colour = "grey" if config.channels == 1 else "rgb"
        source = reading.read(os.fspath(path), size=size or config.size, colour=colour, count=1000)
        names = [""] * len(source.pixels) if source.labels is None else source.labels.astype(str).tolist()
        return _tensor(source.pixels), names

    def encode(self, pixels: Tensor, labels: Sequence[str] = ()) -> Tensor:
        """Return the mean latents (N, Z) of images (N, C, S, S) uint8; a conditional run needs the class of each."""
        self._needs("encode", encoder=True)
        return self._encoded(self._batch(pixels, labels))[0].cpu()

    def decode(self, latents: Tensor, labels: Sequence[str] = ()) -> Tensor:
        """Decode latents (N, Z) to images (N, C, S, S) uint8; labels in turn, as for `generate`."""
        numbers = self.labels(torch.arange(len(latents), device=self.device), labels)
        with torch.no_grad():
            return as_bytes(self.model.decode(latents.to(self.device), numbers)).cpu()

    def reconstruct(self, pixels: Tensor, labels: Sequence[str] = ()) -> Tensor:
        """Reconstruct images (N, C, S, S) uint8 from the mean latents of the given ones."""
        self._needs("reconstruct", encoder=True)
        batch = self._batch(pixels, labels)
        with torch.no_grad():
            return as_bytes(
                self.model.decode(self._encoded(batch)[0], batch.labels if self.conditional else None)
            ).cpu()

    def interpolate(
        self,
        first: Tensor | int,
        second: Tensor | int,
        *,
        steps: int = 8,
        spherical: bool = False,
        seed: int = 0,
        labels: Sequence[str] = (),
    ) -> Tensor:
        """Interpolate in latents: `steps` images (steps, C, S, S) uint8 from one to another, both included.

        Each end is an image (C, S, S) uint8, which a VAE encodes, or k for image k of `generate(seed=seed)`.
        `spherical` takes the great circle instead. `labels` names the class of all of them, or the class of each end,
        which a conditional run needs; in between the nearer end's is taken.
        """
        names = [labels[0], labels[-1]] if labels else []
        latents = [self._end(end, names[i : i + 1], seed) for i, end in enumerate((first, second))]
        path = between(latents[0], latents[1], steps, spherical=spherical)
        numbers = None
        if self.conditional:
            if not names:
                raise DataError("this run is conditional: name the class of the images (--label)")
            along = [names[0] if k < steps / 2 else names[1] for k in range(steps)]
            numbers = self.labels(torch.zeros(steps, dtype=torch.int64), along)
        with torch.no_grad():
            return as_bytes(self.model.decode(path, numbers)).cpu()

    def traverse(
        self,
        center: Tensor | int = 0,
        *,
        steps: int = 9,
        rows: int = 10,
        span: float = 3.0,
        seed: int = 0,
        labels: Sequence[str] = (),
    ) -> tuple[Tensor, list[int]]:
        """Return images of latents that differ in one dimension, a row for each, and which dimensions these are.

        Images (R * steps, C, S, S) uint8: in each row one dimension goes from -span to span, the others are those of
        `center`, an image (C, S, S) uint8, which a VAE encodes, or k for image k of `generate(seed=seed)` (Higgins et
        al. 2017). The R <= `rows` dimensions are those between whose ends the image changes most, the largest change
        first. labels: the class, which a conditional run needs.
        """
        names = list(labels[:1])
        if self.conditional and not names:
            raise DataError("this run is conditional: name the class of the images (--label)")
        latents = self._end(center, names, seed).repeat(self.config.latent, steps, 1)
        values = torch.linspace(-span, span, steps, device=self.device)
        latents.diagonal(dim1=0, dim2=2).copy_(values[:, None].expand(-1, len(latents)))
        decoded = self.decode(latents.flatten(0, 1), names)
        images = decoded.view(-1, steps, *decoded.shape[1:])
        change = (images[:, -1].float() - images[:, 0]).square().flatten(1).mean(1)
        chosen = change.argsort(descending=True, stable=True)[:rows]
        return images[chosen].flatten(0, 1), chosen.tolist()

    def _end(self, end: Tensor | int, names: Sequence[str], seed: int) -> Tensor:
        if isinstance(end, Tensor):
            return self.encode(end[None], names)[0].to(self.device)
        seeds = rng.text_seeds(seed, end, 1).to(self.device)
        return rng.normals(seeds, self.config.latent).float()[0]

    def log_likelihood(self, pixels: Tensor, labels: Sequence[str] = (), *, samples: int = 500) -> Tensor:
        """Return log p(x) in nats of images (N, C, S, S) uint8, (N,) float64, by importance sampling from the encoder.

        ValueError where the run has no likelihood: a GAN, or `model.likelihood = grey`.
        """
        self._needs("a likelihood", encoder=True)
        batch = self._batch(pixels, labels)
        parts = [batch.take(slice(at, at + TILE)) for at in range(0, len(pixels), TILE)]
        return -torch.cat([self.model.nll(part, samples).cpu() for part in parts])

    def critic_scores(self, pixels: Tensor, labels: Sequence[str] = ()) -> Tensor:
        """Return the critic's logit (N,) of images (N, C, S, S) uint8: above 0 means rather real than generated."""
        self._needs("critic_scores", encoder=False)
        batch = self._batch(pixels, labels)
        with torch.no_grad():
            output = self.model.critic_output(batch.pixels.float() / 255, batch.labels if self.conditional else None)
            return output.logit.cpu()  # type: ignore[no-any-return]

    def restore(
        self,
        pixels: Tensor,
        *,
        mask: Tensor | None = None,
        noise: float = 0.0,
        scale: int = 1,
        blur: float = 0.0,
        haze: float = 0.0,
        count: int = 8,
        seed: int = 0,
        steps: int = 400,
        trust: float = 0.1,
        label: str = "",
    ) -> Restored:
        """Repair, denoise, enlarge, sharpen or clear one image by sampling latents that explain what of it is known.

        pixels: (C, S, S) uint8, or (C, S / scale, S / scale) to enlarge. mask: (S, S), true where the image is to be
        repaired. noise: standard deviation of the noise in the image, 0..1. blur: standard deviation of the Gaussian
        that it was blurred by, in pixels of the run. haze: share of white light in it, 0..1. Chain k of `count` is a
        Langevin chain of `steps` on |z|^2 / 2 + |A(G(z)) - pixels|^2 / (2 s^2), A laying on the haze, blurring,
        averaging `scale` x `scale` pixels and leaving out the mask, s the noise or, without any, `trust`. It begins at
        the best of 256 latents; s falls from four times its value during the warm-up. ValueError where sizes do not
        fit or nothing is asked.
        """
        size, channels = self.config.size, self.config.channels
        if mask is None and not (noise or blur or haze) and scale == 1:
            raise ValueError("nothing to restore: give a mask, the image's noise, blur or haze, or a scale")
        if blur < 0 or not 0 <= haze < 1:
            raise ValueError(f"blur must be at least 0 and haze in 0..1, below 1; got {blur:g} and {haze:g}")
        if scale < 1 or size % scale or pixels.shape != (channels, size // scale, size // scale):
            raise ValueError(
                f"this run makes images ({channels}, {size}, {size}); to enlarge {scale} times give "
                f"({channels}, {size // max(1, scale)}, {size // max(1, scale)}), got {tuple(pixels.shape)}"
            )
        if mask is not None and (mask.shape != pixels.shape[1:] or bool(mask.bool().all())):
            raise ValueError(
                f"the mask must be {tuple(pixels.shape[1:])} and leave pixels known, got {tuple(mask.shape)}"
            )
        known = torch.ones_like(pixels[:1], dtype=torch.float32) if mask is None else 1 - mask.float()[None]
        known, target = known.to(self.device), pixels.to(self.device).float() / 255
        seeds = rng.text_seeds(seed, 0, count).to(self.device)
        labels = self.labels(seeds, [label] if label else [])
        deviation = noise or trust

        def energy(latents: Tensor, warmed: float) -> Tensor:
            seen = F.avg_pool2d(blurred(haze + (1 - haze) * self.model.decode(latents, labels), blur), scale)
            misfit = ((seen - target) * known).square().flatten(1).sum(1)
            return 0.5 * latents.square().sum(1) + misfit / (2 * (deviation * (4 - 3 * warmed)) ** 2)

        with torch.no_grad():
            best = rng.normals(seeds, self.config.latent).float()
            lowest = energy(best, 1.0)
            for k in range(1, _STARTS):
                latents = rng.normals(seeds, self.config.latent, stream=_STARTING + k).float()
                value = energy(latents, 1.0)
                best = torch.where((value < lowest)[:, None], latents, best)
                lowest = torch.minimum(value, lowest)
        chain = langevin(energy, best, seeds, steps=steps)
        with torch.no_grad():
            made = self.model.decode(chain.latents, labels)
        spread = made.std(0, correction=0)
        return Restored(
            as_bytes(made).cpu(), as_bytes(made.mean(0)).cpu(), spread.cpu(), float(chain.acceptance.mean())
        )

    def _batch(self, pixels: Tensor, labels: Sequence[str]) -> ImageBatch:
        config = self.config
        wanted = (config.channels, config.size, config.size)
        if pixels.dim() != 4 or pixels.shape[1:] != wanted or pixels.dtype != torch.uint8:
            raise ValueError(f"images must be (N, {', '.join(map(str, wanted))}) uint8, got {tuple(pixels.shape)}")
        rows = torch.arange(len(pixels), device=self.device)
        if self.conditional and not labels:
            raise DataError("this run is conditional: name the class of the images (--label)")
        numbers = self.labels(rows, labels) if self.conditional else torch.full_like(rows, -1)
        assert numbers is not None
        return ImageBatch(pixels.to(self.device), numbers, rows)

    def _encoded(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latents, in tiles."""
        with torch.no_grad():
            parts = [batch.take(slice(at, at + 512)) for at in range(0, len(batch.pixels), 512)]
            labels = [part.labels if self.conditional else None for part in parts]
            found = [self.model.encode(self.model.observed(p), y) for p, y in zip(parts, labels, strict=True)]
        return torch.cat([mean for mean, _ in found]), torch.cat([log_variance for _, log_variance in found])

    # The images it was trained on

    @property
    def images(self) -> ImageData:
        """The run's training and held-out images, read again; DataError where they are not those of the training."""
        if self._images is None:
            found = prepare(self.data, batch=1, seed=self.seed, device=self.device)
            if self.folder is not None:
                before = files.read_object(self.folder / "env.json", data_sha256=str)["data_sha256"]
                if found.fingerprint != before:
                    raise DataError(
                        f"{', '.join(self.data.files)} no longer holds the images of {self.folder} "
                        f"(SHA-256 {before[:12]}..., now {found.fingerprint[:12]}...); restore them"
                    )
            self._images = found
        return self._images

    def _needs(self, what: str, *, encoder: bool) -> None:
        if encoder and not self.encodes:
            raise ValueError(f"{what} needs an encoder, which a GAN has not; train image-vae")
        if not encoder and self.encodes:
            raise ValueError(f"{what} needs a critic of images, which a VAE has not; train image-gan")


def _tensor(pixels: reading.Bytes) -> Tensor:
    placed = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return torch.from_numpy(placed.copy())
