"""The image half of `generate`, `evaluate` and `latent reconstruct|interpolate|encode`, and `latent restore`.

What is made goes into a file: a grid (.png), arrays (.npz) or a folder of single images; without --out into the run's
own folder. Standard output gets the path where it was not given.
"""

import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqgen.cli import output
from seqgen.cli.options import Json, Open, Opening, Run, Seed, was_typed
from seqgen.core.options import Option
from seqgen.engine.folder import is_run

if TYPE_CHECKING:
    from torch import Tensor

    from seqgen.engine.evaluate import Table
    from seqgen.images.features import OwnFeatures
    from seqgen.images.generator import ImageGenerator, Method

_SHEET = 32
"""Images of a file that a grid beside their reconstructions shows."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which images are made, and how a grid arranges them."""

    label: Annotated[tuple[str, ...], Option(metavar="CLASS")] = ()
    """Class to draw; repeat for several, which then take turns."""
    columns: Annotated[int, Option(ge=0)] = 0
    """Images in a row of the grid; 0: about as many as rows."""
    scale: Annotated[int, Option(ge=0)] = 0
    """Times that a grid enlarges its images; 0: to 48 pixels, a single image not at all."""
    by_class: bool = False
    """Give each class a row of the grid."""


Label = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="CLASS", help="Class of the images; repeat for several, which then take turns."),
]


def refuse(context: typer.Context, *known: str) -> None:
    """Raise CommandError for the first option typed that images do not use; `known` are the parameters they have."""
    for parameter in context.command.params:
        if was_typed(context, parameter.name or "") and parameter.name not in known:
            typed = parameter.opts[0]
            raise output.CommandError(
                f"{typed} is for text, and this run makes images; see: {context.command_path} --help"
            )


def open_image_generator(run: Path, opening: Open) -> "ImageGenerator":
    """Load the trained image model of a run folder; errors name the options of the command line."""
    from seqgen.engine.loading import load_image_generator

    with output.wrong_values():
        return load_image_generator(run, **vars(opening))


def _method(name: str) -> "Method":
    from seqgen.images.generator import METHODS

    for method in METHODS:
        if method == name:
            return method
    raise output.CommandError(f"--method must be {', '.join(METHODS[:-1])} or {METHODS[-1]}, got {name!r}")


# -------------------------------------------------------------------------------------------------------- the commands


def generate(
    run: Path,
    *,
    count: int,
    seed: int,
    method: str,
    temperature: float,
    grid: Grid,
    out: Path | None,
    json: bool,
    opening: Open,
) -> None:
    """Generate images; --json writes seed, number, class and file of each, an object a line."""
    chosen = _method(method)
    if temperature != 1 and method != "prior":
        raise output.CommandError(f"--temperature takes no effect with --method {method}")
    target = _target(run, out, "generated.png")
    arranged = grid.columns or grid.scale or grid.by_class
    if arranged and (target.suffix != ".png" or target.is_dir()):
        raise output.CommandError(f"--columns, --scale and --by-class arrange a grid (.png), and --out is {target}")
    if grid.columns and grid.by_class:
        raise output.CommandError("--by-class gives each class a row, so --columns takes no effect with it")
    generator = open_image_generator(run, opening)
    with output.wrong_values():
        made = generator.generate(count, seed=seed, labels=grid.label, method=chosen, temperature=temperature)
        names = generator.label_names(count, seed=seed, labels=grid.label)
    if grid.by_class and not names:
        raise output.CommandError("--by-class: this run is not conditional: it was trained without classes")
    shown, columns = _by_class(made, names) if grid.by_class else (made, grid.columns)
    paths = _save(shown, target, names, columns=columns, zoom=grid.scale or int(count == 1))
    _tell(target, out, f"{count} image{'s' * (count != 1)}", quiet=json)
    if json:
        for k in range(count):
            one: dict[str, Any] = {"seed": seed, "index": k, "label": names[k] if names else None}
            output.write(output.json_line(one | {"file": str(paths[k] if len(paths) > 1 else target)}))


def _by_class(made: "Tensor", names: Sequence[str]) -> "tuple[Tensor, int]":
    """Arrange the images of each class in a row, filled up with white; return them and the length of the rows."""
    import torch

    rows = [
        made[[k for k, name in enumerate(names) if name == own]] for own in dict.fromkeys(sorted(names, key=_natural))
    ]
    columns = max(map(len, rows))
    blank = torch.full_like(made[:1], 255)
    return torch.cat([torch.cat([row, blank.expand(columns - len(row), -1, -1, -1)]) for row in rows]), columns


def _natural(name: str) -> tuple[int, str]:
    """Return a sort key: numbers by their value, before names."""
    return (int(name), "") if name.isdecimal() else (sys.maxsize, name)


def reconstruct(
    run: Path,
    *,
    file: str,
    count: int,
    out: Path | None,
    label: Sequence[str],
    opening: Opening,
) -> None:
    """Write images and below each its reconstruction; into .npz or a folder the reconstructions alone."""
    import torch

    from seqgen.images import metrics

    target = _target(run, out, "reconstructed.png")
    generator = open_image_generator(run, opening)
    given, names = _read(generator, file, label)
    shown = count or (_SHEET if target.suffix == ".png" else len(given))
    given, names = given[:shown], names[:shown]
    with output.wrong_values():
        made = generator.reconstruct(given, names)
    if target.suffix == ".png":
        columns = min(len(given), 16)
        lines = zip(torch.split(given, columns), torch.split(made, columns), strict=True)
        blank = torch.full_like(given[:1], 255)
        filled = [torch.cat([part, blank.expand(columns - len(part), -1, -1, -1)]) for pair in lines for part in pair]
        _save(torch.cat(filled), target, [], columns=columns)
    else:
        _save(made, target, names)
    _tell(target, out, f"{len(given)} images and their reconstructions")
    a, b = given / 255, made / 255
    output.say(
        f"mean squared error {float(metrics.squared_error(a, b).mean()):.5f}, "
        f"structural similarity {float(metrics.structural_similarity(a, b).mean()):.3f}"
    )


def interpolate(
    run: Path,
    *,
    a: str,
    b: str,
    steps: int,
    spherical: bool,
    traverse: bool,
    out: Path | None,
    label: Sequence[str],
    seed: int,
    opening: Opening,
) -> None:
    """Write a strip of images between two latents, or a row for each latent dimension."""
    if traverse and (b or spherical):
        typed = "--spherical" if spherical else "B"
        raise output.CommandError(f"--traverse varies the latent of A alone, so {typed} takes no effect")
    target = _target(run, out, "traversal.png" if traverse else "path.png")
    generator = open_image_generator(run, opening)
    ends: list[Any] = []
    names = list(label)
    for number, end in enumerate((a,) if traverse else (a, b)):
        if not end:
            ends.append(number)
            continue
        image, own = _one(generator, end, label)
        ends.append(image)
        names = names if label else [*names, *own]
    if traverse:
        with output.wrong_values():
            images, dimensions = generator.traverse(ends[0], steps=steps, seed=seed, labels=names)
        _save(images, target, [], columns=steps)
        _tell(target, out, f"{len(images)} images")
        output.say(
            f"rows: latent dimensions {', '.join(map(str, dimensions))} of {generator.config.latent}, from -3 to 3, "
            "the largest change first"
        )
        return
    with output.wrong_values():
        path = generator.interpolate(*ends, steps=steps, spherical=spherical, seed=seed, labels=names)
    _save(path, target, [], columns=len(path))
    _tell(target, out, f"{len(path)} images")


def encode(run: Path, *, file: str, out: Path | None, label: Sequence[str], opening: Open) -> None:
    """Write the mean latents of images into a file."""
    if out is None:
        raise output.CommandError("give --out FILE.npy, for the latents")
    check_latents_file(out)
    generator = open_image_generator(run, opening)
    with output.wrong_values():
        latents = generator.encode(*_read(generator, file, label))
    write_latents(latents, out)


_LATENTS = (".npy", ".npz", ".csv", ".jsonl")


def check_latents_file(out: Path) -> None:
    """Raise CommandError for a name whose ending is no format of latents."""
    if out.suffix not in _LATENTS:
        raise output.CommandError(f"--out must end in {', '.join(_LATENTS[:-1])} or {_LATENTS[-1]}, got {out}")


def write_latents(latents: "Tensor", out: Path) -> None:
    """Write latents, a row each, by the name's ending: an array (`latents` in .npz), columns z0, z1 ..., or lists."""
    import csv

    import numpy as np

    from seqgen.core import files

    made = io.BytesIO()
    if out.suffix == ".npy":
        np.save(made, latents.numpy(), allow_pickle=False)
    elif out.suffix == ".npz":
        np.savez(made, latents=latents.numpy())
    else:
        text = io.TextIOWrapper(made, encoding="utf-8", newline="", write_through=True)
        if out.suffix == ".csv":
            csv.writer(text).writerows([[f"z{k}" for k in range(latents.shape[1])], *latents.tolist()])
        else:
            text.writelines(output.json_line({"latent": code}) for code in latents.tolist())
    files.write_bytes(out, made.getvalue())
    output.say(f"{len(latents)} latents of {latents.shape[1]} numbers written to {out}")


Features = Annotated[
    str,
    typer.Option(
        "--features",
        metavar="CODE",
        help="Features of images: FILE.py:FUNCTION (the file is run), from images (N, C, H, W) uint8 to a row each; "
        "or FILE.npy.",
    ),
]


def holds_images(path: Path) -> bool:
    """Return whether a file or folder holds images, by its names."""
    from seqgen.core.files import files_below
    from seqgen.images.reading import MANY_SUFFIXES, SUFFIXES

    def named(file: Path) -> bool:
        return file.suffix.lower() in SUFFIXES | MANY_SUFFIXES or bool(re.search(r"idx\d-ubyte", file.name))

    if path.is_dir():
        return not is_run(path) and any(map(named, files_below(path)))
    return path.is_file() and named(path)


def own_features(code: str) -> "OwnFeatures | None":
    """Load the function of features that the command line names; its file is imported for no other reason."""
    import hashlib

    from seqgen.data import rewards
    from seqgen.images.features import OwnFeatures

    if not code:
        return None
    if not rewards.is_code(code) or code.startswith("call:"):
        raise output.CommandError(f"--features must be FILE.py:FUNCTION, got {code}")
    function: Any = rewards.imported(code, "--features")
    file = Path(code.rpartition(":")[0])
    return OwnFeatures(function, f"{file.name}:{function.__name__}/{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}")


def evaluate(
    run: Path,
    *,
    count: int,
    seed: int,
    latents: int,
    method: Sequence[str],
    features: str,
    opening: Opening,
) -> "Table":
    """Compute the table of an image run: samples, reconstructions and held-out images, by the same features."""
    from seqgen.engine.evaluate import evaluate_images
    from seqgen.engine.progress import shown_parts

    methods = tuple(_method(name) for name in method)
    if features.endswith(".npy"):
        raise output.CommandError("--features FILE.npy goes with a file or folder of images; a run makes its own anew")
    encoder = own_features(features)
    generator = open_image_generator(run, opening)
    with output.wrong_values(), shown_parts():
        return evaluate_images(generator, count=count, seed=seed, methods=methods, encoder=encoder, samples=latents)


def evaluate_given(path: str, references: str, *, count: int, seed: int, features: str) -> "Table":
    """Compute the table of images of other programs beside real ones, a set or a file, or of features of both."""
    from seqgen.engine.evaluate import evaluate_images, image_table
    from seqgen.engine.progress import shown_parts
    from seqgen.images import reading
    from seqgen.images.scores import table_of_features

    if not features.endswith(".npy"):
        with output.wrong_values(), shown_parts():
            return evaluate_images(path, references, count=count, seed=seed, encoder=own_features(features))
    made, real = _rows("--features", features), _rows("--references", references)
    images = len(reading.read(path, size=8, colour="grey", labels="none").pixels)
    if images != len(made):
        raise output.CommandError(f"--features {features} has {len(made)} rows, but {path} has {images} images")
    with output.wrong_values():
        return image_table(table_of_features(made, real, count=count, seed=seed))


def _rows(typed: str, file: str) -> Any:
    """Read features from a file, a row for each image."""
    import numpy as np

    from seqgen.core import files

    if not file.endswith(".npy"):
        raise output.CommandError(f"with --features FILE.npy {typed} is a .npy of features too, got {file}")
    try:
        rows = np.load(file, allow_pickle=False)
    except files.ARRAY_FAULTS as error:
        raise output.CommandError(f"{typed} {file}: not an array that can be read ({error})") from None
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number):
        raise output.CommandError(f"{typed} {file}: expected numbers (images, features), got {rows.dtype} {rows.shape}")
    return rows


def restore(
    run: Run,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="File of the image, or #3 for held-out image 3.", show_default=False)
    ],
    mask: Annotated[
        str,
        typer.Option(
            "--mask", metavar="M", help="Repair the image where this one is white, or inside LEFT,TOP,WIDTH,HEIGHT."
        ),
    ] = "",
    noise: Annotated[
        float, typer.Option("--noise", metavar="S", help="Remove noise of this standard deviation, white being 1.")
    ] = 0.0,
    scale: Annotated[int, typer.Option("--scale", metavar="N", help="Enlarge the image N times.")] = 1,
    blur: Annotated[
        float,
        typer.Option(
            "--blur", metavar="S", help="Undo a Gaussian blur of this standard deviation, in the run's pixels."
        ),
    ] = 0.0,
    haze: Annotated[
        float, typer.Option("--haze", metavar="H", help="Clear a white haze of this share of the light, 0 to 1.")
    ] = 0.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write into this file: the restored image (.png), all samples (.npz), or a folder of all.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", help="Number of samples whose mean is the answer.")] = 8,
    label: Annotated[
        str, typer.Option("--label", metavar="CLASS", help="Class of the image, for a conditional run.")
    ] = "",
    trust: Annotated[
        float, typer.Option("--trust", metavar="S", help="Let known pixels be off by about this much, white being 1.")
    ] = 0.1,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Number of steps of each chain.")] = 400,
    seed: Seed = 0,
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Repair, enlarge, or clear an image of noise, blur or haze.

    Images that the run finds likely and that agree with what is known are sampled; their mean is the answer, and
    where they differ the run is unsure. A folder holds restored.png, unsure.png (brighter: less sure), given.png and
    the samples. Of a repaired image only the damaged pixels are changed.
    """
    import torch

    from seqgen.images.grids import save_each

    output.at_least(1, count=count, scale=scale)
    output.at_least(2, steps=steps)
    for name, value in (("noise", noise), ("trust", trust)):
        if value < 0 or (value == 0 and name == "trust"):
            raise output.CommandError(f"--{name} must be above 0, got {value:g}")
    target = _target(run, out, "restored.png")
    generator = open_image_generator(run, opening)
    size = generator.config.size
    if size % scale:
        raise output.CommandError(f"--scale must divide the {size} pixels that this run's images have, got {scale}")
    given, own = _one(generator, image, [label] if label else [], size=size // scale)
    damaged = _mask(mask, size // scale) if mask else None
    with output.wrong_values():
        found = generator.restore(
            given,
            mask=damaged,
            noise=noise,
            scale=scale,
            blur=blur,
            haze=haze,
            count=count,
            seed=seed,
            steps=steps,
            trust=trust,
            label=own[0] if own else "",
        )
    pixels, answer = found.pixels, found.mean
    if damaged is not None and not (noise or blur or haze) and scale == 1:
        pixels, answer = torch.where(damaged, pixels, given), torch.where(damaged, answer, given)
    if target.suffix == ".png":
        save_each(answer[None], target.parent, [target.stem])
    elif target.suffix == ".npz":
        _save(pixels, target, [])
    else:
        unsure = found.deviation / found.deviation.max().clamp_min(1e-6)
        save_each(given[None], target, ["given"])
        save_each(torch.stack([answer, (255 * unsure).round().to(torch.uint8)]), target, ["restored", "unsure"])
        save_each(pixels, target)
    _tell(target, out, "1 image" if target.suffix == ".png" else f"{len(pixels)} samples", quiet=json)
    if json:
        output.write(output.json_line({"file": str(target), "acceptance": found.acceptance}))
    output.say(f"{count} chains accepted {100 * found.acceptance:.0f} % of their steps; 30 to 80 % is healthy")


# ------------------------------------------------------------------------------------------------------------- reading


def _read(generator: "ImageGenerator", file: str, label: Sequence[str], *, size: int = 0) -> "tuple[Tensor, list[str]]":
    """Return the images of a file made to fit the run, or held-out ones (# all, #3 one), and the class of each.

    No classes unless the run is conditional. `size` where they are to be smaller than the run's; held-out ones are then
    means of blocks.
    """
    if label and not generator.conditional:
        raise output.CommandError("this run is not conditional, so --label takes no effect")
    if file.startswith("#"):
        from torch.nn import functional as F

        side = generator.images.valid
        rows = list(range(len(side.pixels))) if file == "#" else [_row(file, len(side.pixels))]
        pixels = side.pixels[rows].cpu()
        own = [generator.images.classes[k] if k >= 0 else "" for k in side.labels[rows].tolist()]
        if size:
            pixels = F.avg_pool2d(pixels.float(), pixels.shape[-1] // size).round().to(pixels.dtype)
    else:
        from seqgen.data.corpora import known

        pixels, own = generator.read(str(known.expanded([file], "test", "images")[0]), size=size)
    names = [label[k % len(label)] for k in range(len(pixels))] if label else own
    return pixels, names if generator.conditional and "" not in names else []


def _row(text: str, held_out: int) -> int:
    """Return the held-out image that #3 names."""
    number = text[1:]
    if not number.isdecimal() or int(number) >= held_out:
        raise output.CommandError(f"{text}: held-out images are #0 to #{held_out - 1}")
    return int(number)


def _one(generator: "ImageGenerator", file: str, label: Sequence[str], *, size: int = 0) -> "tuple[Tensor, list[str]]":
    """Return one image (C, S, S), and its class if the run is conditional."""
    pixels, own = _read(generator, file, label, size=size)
    if len(pixels) != 1:
        raise output.CommandError(f"{file}: {len(pixels)} images; expected one")
    return pixels[0], own


def _mask(text: str, size: int) -> "Tensor":
    """Return where an image is damaged, (S, S) bool."""
    import numpy as np
    import torch

    box = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text)
    if box:
        left, top, width, height = map(int, box.groups())
        if not width or not height or left + width > size or top + height > size:
            raise output.CommandError(f"--mask {text} is not inside an image of {size} x {size} pixels")
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[top : top + height, left : left + width] = True
        return mask
    from seqgen.images import reading

    found = reading.read(text, size=size, colour="grey", labels="none").pixels
    if len(found) != 1:
        raise output.CommandError(f"--mask {text}: {len(found)} images; expected one")
    return torch.from_numpy(np.array(found[0]) > 127)


# ------------------------------------------------------------------------------------------------------------- writing


def _target(run: Path, out: Path | None, name: str) -> Path:
    """Return where images go, checked before any is made."""
    target = run / name if out is None else out
    if target.suffix not in ("", ".png", ".npz") and not target.is_dir():
        raise output.CommandError(
            f"--out must end in .png (one sheet) or .npz (arrays), or be a folder (single files), got {target}"
        )
    return target


def _save(pixels: "Tensor", target: Path, names: Sequence[str], *, columns: int = 0, zoom: int = 0) -> list[Path]:
    """Write images as one grid, as arrays, or each by itself; of known classes in a subfolder each."""
    from seqgen.images import grids

    if target.suffix == ".png" and not target.is_dir():
        return [grids.save_grid(pixels, target, columns=columns, zoom=zoom)]
    if target.suffix == ".npz" and not target.is_dir():
        return [grids.save_arrays(pixels, target, names or None)]
    # a class may be called anything, but nothing is written outside the folder
    folders = [re.sub(r"[^\w .-]", "_", name).strip(". ") or "_" for name in names]
    each = [f"{folders[k]}/{k:06d}" if names else f"{k:06d}" for k in range(len(pixels))]
    return grids.save_each(pixels, target, each)


def _tell(target: Path, out: Path | None, what: str, *, quiet: bool = False) -> None:
    """Report where it went: a line for the person, or the path as the result where nobody chose it."""
    if out is None and not quiet:
        output.write(f"{target}\n")
    else:
        output.say(f"{what} written to {target}")
