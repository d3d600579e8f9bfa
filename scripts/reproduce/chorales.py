#!/usr/bin/env python3
"""Bach chorales as text: nats per frame of the exact set of notes, and what a run writes, as MIDI and a picture.

A chorale is a line; a frame (a quarter note) is its pitches in ascending order as tokens, and then |. A set of notes is
one such sequence and no other, so the likelihood of the tokens is that of the sets.
Run: scripts/reproduce/chorales.py FOLDER OUT [--seeds 3] [--steps 1500] [--transpose 5] [--midi 3]
FOLDER has quarter.json; --midi needs: pip install mido
"""

import argparse
import json
import logging
import resource
from pathlib import Path

import numpy as np

from seqgen.data.text import read_lines
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

LOWEST, HIGHEST = 21, 108  # of a piano
OPTIONS = [
    "tokenizer.kind=word",
    "tokenizer.min_count=1",
    "data.mode=sentence",
    "model.hidden=256",
    "model.embedding=64",
]
OPTIONS += ["model.input_dropout=0.2", "model.output_dropout=0.4", "model.weight_drop=0.3", "train.batch=16"]
OPTIONS += ["train.lr=4e-3", "train.schedule=linear", "train.lr_end=0.0", "train.samples=0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--transpose", type=int, default=5, help="semitones up and down that training text is moved by")
    parser.add_argument("--midi", type=int, default=0, help="chorales to write as MIDI")
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    parts = json.loads((given.folder / "quarter.json").read_text())
    given.out.mkdir(parents=True, exist_ok=True)
    check(parts)
    for name, chorales in parts.items():
        moves = range(-given.transpose, given.transpose + 1) if name == "train" else (0,)
        lines = [line_of([[note + move for note in frame] for frame in one]) for move in moves for one in chorales]
        (given.out / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    test = read_lines(given.out / "test.txt")
    frames = sum(line.count("|") for line in test)
    values = []
    for seed in range(1, given.seeds + 1):
        out = given.out / f"seed-{seed}"
        if not out.exists():
            steps = [f"train.steps={given.steps}", f"train.eval_every={given.steps // 6}", f"seed={seed}"]
            files = given.out / "train.txt", given.out / "valid.txt"
            outcome = train(config("lm", files[0], valid=files[1], overrides=[*OPTIONS, *steps]), out)
            if outcome.reason != "finished":
                raise SystemExit(f"{outcome.reason} at step {outcome.step}; seqgen train --out {out} continues it")
        values.append(load(out).score(test).nats / frames)
    mean, low, high = np.mean(values), min(values), max(values)
    print(f"{len(test)} test chorales, {frames:,} frames: {mean:.2f} ({low:.2f} to {high:.2f}) nats a frame, with ends")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_utime:.0f} CPU seconds")
    if given.midi:
        written = load(given.out / "seed-1").generate(given.midi, temperature=0.9, seed=1)
        for number, text in enumerate(written, 1):
            save_midi(frames_of(text), given.out / f"chorale-{number}.mid")
        draw(frames_of(written[0]), given.out / "chorale-1.png")


def check(parts: dict[str, list[list[list[int]]]]) -> None:
    """Refuse notes that no piano has, with the chorale and the frame they stand in."""
    for name, chorales in parts.items():
        for number, one in enumerate(chorales, 1):
            for place, frame in enumerate(one, 1):
                if wrong := [note for note in frame if not LOWEST <= note <= HIGHEST]:
                    raise SystemExit(f"{name}, chorale {number}, frame {place}: pitch {wrong[0]}; expected 21..108")


def line_of(frames: list[list[int]]) -> str:
    return " ".join(" ".join([*map(str, sorted(set(frame))), "|"]) for frame in frames)


def frames_of(text: str) -> list[list[int]]:
    return [[int(word) for word in frame.split()] for frame in text.split("|")[:-1]]


def save_midi(frames: list[list[int]], path: Path) -> None:
    """Write frames as quarter notes; a note that goes on is held."""
    from mido import Message, MidiFile, MidiTrack

    file, track, waited = MidiFile(ticks_per_beat=480), MidiTrack(), 0
    file.tracks.append(track)
    before: set[int] = set()
    for frame in [*map(set, frames), set()]:
        changes = [("note_off", note) for note in sorted(before - frame)]
        changes += [("note_on", note) for note in sorted(frame - before)]
        for kind, note in changes:
            track.append(Message(kind, note=note, velocity=64, time=waited))
            waited = 0
        before, waited = frame, waited + 480
    file.save(path)


def draw(frames: list[list[int]], path: Path) -> None:
    """Draw frames as a piano roll."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    places = [(place, note) for place, frame in enumerate(frames) for note in frame]
    axes.scatter(*zip(*places, strict=True), marker="s", s=14)
    axes.set(xlabel="frame (a quarter note)", ylabel="MIDI pitch")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
