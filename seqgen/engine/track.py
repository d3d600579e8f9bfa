"""What a training logs, for TensorBoard: `train.track=tensorboard` writes RUN/tensorboard. Needs the extra `track`.

The events are made of the run's own files: log.jsonl, scores.jsonl and samples/. Where a run goes on they are written
anew from what a checkpoint kept of those, so no step is there twice; they are no part of the run's state.
"""

import math
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seqgen.core import log
from seqgen.core.errors import MissingExtraError
from seqgen.data.text import read_lines

FOLDER = "tensorboard"


def check_installed() -> None:
    """Raise MissingExtraError where TensorBoard is not installed; it is imported only where it is used."""
    if find_spec("tensorboard") is None:
        raise MissingExtraError(
            "train.track=tensorboard needs the package tensorboard; run: pip install 'neural-seqgen[track]'"
        )


class TensorBoard:
    """The event files of a run, with all that its logs hold by now."""

    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # late: it takes a second

        self._run = run
        if (run / FOLDER).exists():
            shutil.rmtree(run / FOLDER)
        writer: Any = SummaryWriter
        self._writer = writer(str(run / FOLDER))
        times = {row["step"]: row.get("time") for row in log.read(run / "timing.jsonl")}
        for row in log.read(run / "log.jsonl"):
            self.logged(row, times.get(row["step"]))
        for row in log.read(run / "scores.jsonl"):
            self.validated(row, times.get(row["step"]))

    def logged(self, row: Mapping[str, Any], time: float | None = None) -> None:
        """Add a row of log.jsonl; `time` is when it was written, by default now."""
        self._scalars("train", row, time)

    def validated(self, row: Mapping[str, Any], time: float | None = None) -> None:
        """Add a row of scores.jsonl, and the samples that its validation left."""
        import numpy as np
        from PIL import Image

        step = row["step"]
        self._scalars("validation", row, time)
        samples = self._run / "samples"
        for ending in (".txt", ".jsonl"):
            if (path := samples / f"{step:08d}{ending}").is_file():
                # indented, so that Markdown leaves every text as it is
                texts = ["\n".join(f"    {line}" for line in text.split("\n")) for text in read_lines(path)]
                self._writer.add_text("samples", "\n".join(texts), step, time)
        for path in sorted(samples.glob(f"{step:08d}*.png")):
            name = path.stem[8:].strip("-") or "samples"
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(name, pixels, step, time, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the files."""
        self._writer.close()

    def _scalars(self, room: str, row: Mapping[str, Any], time: float | None) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(f"{room}/{name}", value, row["step"], time)
