"""What is known of samplers from the papers holds for what is trained here."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seqgen.engine import loop
from seqgen.engine.loading import load_image_generator
from seqgen.engine.run import config
from seqgen.images import scores


@pytest.mark.slow
def test_reconstructions_are_nearer_than_a_mixture_and_that_nearer_than_the_prior(
    public_set: Callable[[str], Path], tmp_path: Path
) -> None:
    """Ghosh et al. 2020: latents of the prior fall between those of images, a fitted density's less so."""
    words = ("train.batch=128", "train.steps=400", "train.eval_every=0", "train.samples=0", "data.count=10000")
    loop.train(config("image-vae", public_set("images/mnist"), overrides=words), tmp_path / "run")
    columns = {column.name: column for column in scores.table(load_image_generator(tmp_path / "run"), count=2000)}
    distance = {name: column.scores["ffd"].value for name, column in columns.items()}
    assert distance["rebuilt"] < distance["mixture"] < distance["prior"]
