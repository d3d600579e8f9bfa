"""A run of images that is served: pictures as PNG, by seed and class."""

import secrets
from typing import Any

from seqgen.images import grids
from seqgen.images.generator import ImageGenerator
from seqgen.serve.protocol import ImageRequest


class ImageModel:
    """A run of images that is served, by its name."""

    def __init__(self, name: str, generator: ImageGenerator, created: int) -> None:
        self.name, self.generator, self.created = name, generator, created

    def card(self) -> dict[str, Any]:
        """Return what a page must know of the model."""
        labels = list(self.generator.config.classes) if self.generator.conditional else []
        return {"makes": "images", "labels": labels}

    def generate(self, request: ImageRequest) -> list[tuple[bytes, str]]:
        """Return PNG files and the name of each one's class, "" where there are no classes."""
        seed = secrets.randbits(53) if request.seed is None else request.seed
        labels = [request.prompt] if request.prompt else []
        made = self.generator.generate(request.n, seed=seed, labels=labels)
        names = self.generator.label_names(request.n, seed=seed, labels=labels) or [""] * request.n
        return [(grids.png(grids.grid(image[None])), name) for image, name in zip(made, names, strict=True)]
