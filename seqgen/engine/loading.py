"""Opening a trained run: its model with the weights of a checkpoint, on a device."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seqgen.core import dist, numerics
from seqgen.core.errors import RunError
from seqgen.core.log import messages
from seqgen.data.tokenizers import check_paired, load_tokenizer
from seqgen.engine import checkpoint
from seqgen.engine import run as runs
from seqgen.engine.generate import TextGenerator
from seqgen.engine.run import Settings

if TYPE_CHECKING:
    from seqgen.images.generator import ImageGenerator


def load(
    run: str | os.PathLike[str], *, step: int | None = None, device: str = "auto", module: runs.Module | None = None
) -> TextGenerator:
    """Load the trained model of a run folder: its best checkpoint, or that of `step`.

    `module`: the model module of your own that the run was trained with, or the path of its file. RunError says what is
    missing, or that the run makes images, for which there is `load_image_generator`.
    """
    folder = Path(run)
    settings = runs.read_settings(folder, module=module)
    if settings.tokenizer is None:
        raise RunError(f"{folder} makes images and no text; in Python: seqgen.load_image_generator")
    model, place = _opened(folder, settings, step, device)
    tokenizer = load_tokenizer(folder / "tokenizer")
    check_paired(tokenizer, settings.data.source_tokenizer != "shared", folder / "tokenizer")
    return TextGenerator(model, tokenizer, settings, place, folder)


def load_image_generator(
    run: str | os.PathLike[str], *, step: int | None = None, device: str = "auto", module: runs.Module | None = None
) -> "ImageGenerator":
    """Load the trained image model of a run folder: its best checkpoint, or that of `step`; RunError as `load`."""
    from seqgen.images.generator import ImageGenerator  # late: text needs none of it

    folder = Path(run)
    settings = runs.read_settings(folder, module=module)
    if settings.tokenizer is not None:
        raise RunError(f"{folder} writes text and makes no images; in Python: seqgen.load")
    model, place = _opened(folder, settings, step, device)
    return ImageGenerator(model, settings.data, settings.seed, place, folder)


def _opened(folder: Path, settings: Settings, step: int | None, device: str) -> tuple[Any, torch.device]:
    place = runs.choose_device(device)
    if place == torch.device("cuda") and dist.world() > 1:
        place = torch.device("cuda", dist.local_rank())
    numerics.configure(place, tf32=settings.train.tf32)
    for sentence in runs.changed_code(folder, settings) if settings.code else ():
        messages.warning(sentence)
    model = settings.module.Model(settings.model)
    step, tensors = checkpoint.best(folder) if step is None else (step, checkpoint.read_tensors(folder, step))
    checkpoint.check_run(folder, step, below="tokenizer/")
    checkpoint.fill(model, tensors, str(checkpoint.folder_of(folder, step)))
    return model.to(place).eval(), place
