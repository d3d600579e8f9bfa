#!/usr/bin/env python3
"""Bach chorales as text: nats per frame of the exact set of notes, and what a run writes, as MIDI and a picture.

A chorale is a line; a frame (a quarter note) is its pitches in ascending order as tokens, and then |. A set of notes is
one such sequence and no other, so the likelihood of the tokens is that of the sets. With --voices a frame is a
sixteenth note and four tokens, the pitches of soprano, alto, tenor and bass, or - for silence: S74 A70 T65 B58.
With --ngrams ORDER a Kneser-Ney model stands beside, alone and mixed with each run token by token; the share of the
mixture is that of greatest likelihood on the validation part.
Run: scripts/reproduce/chorales.py FOLDER OUT [--voices] [--seeds 3] [--steps 1500] [--transpose 5] [--midi 3]
     [--ngrams 8] [section.option=value ...]
FOLDER has quarter.json and sixteenth-voices.json; --midi needs: pip install mido
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
VOICES, SILENT = "SATB", -1
NAMES = ("valid", "test")
Frames = list[list[int]]
Rows = dict[str, np.ndarray]
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
    parser.add_argument("settings", nargs="*", metavar="section.option=value", help="settings of the model")
    parser.add_argument(
        "--voices", action="store_true", help="four voices in sixteenths, not sets of notes in quarters"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--transpose", type=int, default=5, help="semitones up and down that training text is moved by")
    parser.add_argument("--ngrams", type=int, default=0, metavar="ORDER", help="longest n-grams of a second model")
    parser.add_argument("--midi", type=int, default=0, help="chorales to write as MIDI")
    given = parser.parse_intermixed_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    parts = json.loads((given.folder / ("sixteenth-voices.json" if given.voices else "quarter.json")).read_text())
    try:
        check(parts, voices=given.voices)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    given.out.mkdir(parents=True, exist_ok=True)
    for name, chorales in parts.items():
        moves = range(-given.transpose, given.transpose + 1) if name == "train" else (0,)
        lines = [line_of(moved(one, move), voices=given.voices) for move in moves for one in chorales]
        (given.out / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    frames = {name: sum(map(len, chorales)) for name, chorales in parts.items()}
    texts = {name: read_lines(given.out / f"{name}.txt") for name in NAMES}
    files = {"data": given.out / "train.txt", "valid": given.out / "valid.txt"}
    longer = ["data.max_length=4096"] if given.voices else []
    runs: list[Rows] = []
    for seed in range(1, given.seeds + 1):
        out = given.out / f"seed-{seed}"
        if not out.exists():
            steps = [f"train.steps={given.steps}", f"train.eval_every={given.steps // 6}", f"seed={seed}"]
            outcome = train(config("lm", **files, overrides=[*OPTIONS, *longer, *steps, *given.settings]), out)
            if outcome.reason != "finished":
                raise SystemExit(f"{outcome.reason} at step {outcome.step}; seqgen train --out {out} continues it")
        runs.append(log_probs(out, texts))
    found = {"lm": runs} if runs else {}
    if given.ngrams:
        out, order = given.out / f"ngrams-{given.ngrams}", f"model.order={given.ngrams}"
        if not out.exists():
            train(config("kneser-ney", **files, overrides=[*OPTIONS[:3], *longer, order]), out)
        ngrams = log_probs(out, texts)
        found |= {"kneser-ney": [ngrams]} | ({"mixture": [mixed(run, ngrams) for run in runs]} if runs else {})
    for what, rows in found.items():
        for name in NAMES:
            nats = np.array([-row[name].sum() / frames[name] for row in rows])
            spread = f"{nats.mean():.3f} ({nats.min():.3f} to {nats.max():.3f})"
            size = f"{len(parts[name])} chorales, {frames[name]:,} frames"
            print(f"{what}, {name} ({size}): {spread} nats a frame, with ends", flush=True)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_utime:.0f} CPU seconds")
    if given.midi and runs:
        written = load(given.out / "seed-1").generate(given.midi, temperature=0.9, seed=1)
        for number, text in enumerate(written, 1):
            save_midi(frames_of(text), given.out / f"chorale-{number}.mid", ticks=120 if given.voices else 480)
        draw(frames_of(written[0]), given.out / "chorale-1.png", frame="sixteenth" if given.voices else "quarter")


def check(parts: dict[str, list[Frames]], *, voices: bool) -> None:
    """Raise ValueError for notes that no piano has, and for other than four voices, with the chorale and the frame."""
    for name, chorales in parts.items():
        for number, one in enumerate(chorales, 1):
            for place, frame in enumerate(one, 1):
                where = f"{name}, chorale {number}, frame {place}"
                if voices and len(frame) != len(VOICES):
                    raise ValueError(f"{where}: {len(frame)} voices; expected {len(VOICES)}, silent ones as {SILENT}")
                for note in frame:
                    if not (LOWEST <= note <= HIGHEST or (voices and note == SILENT)):
                        raise ValueError(f"{where}: pitch {note}; expected {LOWEST}..{HIGHEST}")


def log_probs(out: Path, texts: dict[str, list[str]]) -> Rows:
    """Return the log-probability of every token of each part."""
    run = load(out)
    return {name: np.concatenate(run.score(lines).log_probs) for name, lines in texts.items()}


def mixed(run: Rows, ngrams: Rows) -> Rows:
    def mixture(share: float, name: str) -> np.ndarray:
        return np.logaddexp(np.log(share) + run[name], np.log1p(-share) + ngrams[name])

    share = max(np.arange(0.05, 1, 0.05), key=lambda one: mixture(one, "valid").sum())
    return {name: mixture(share, name) for name in NAMES}


def moved(frames: Frames, move: int) -> Frames:
    return [[note if note == SILENT else note + move for note in frame] for frame in frames]


def line_of(frames: Frames, *, voices: bool) -> str:
    if not voices:
        return " ".join(" ".join([*map(str, sorted(set(frame))), "|"]) for frame in frames)
    words = (
        f"{voice}{'-' if note == SILENT else note}"
        for frame in frames
        for voice, note in zip(VOICES, frame, strict=True)
    )
    return " ".join(words)


def frames_of(text: str) -> Frames:
    """Return the notes that sound in each frame of a line of either form."""
    words = [frame.split() for frame in (text.split("|")[:-1] if "|" in text else text.split(VOICES[0])[1:])]
    return [[int(note) for word in frame if (note := word.strip(VOICES)) != "-"] for frame in words]


def save_midi(frames: Frames, path: Path, *, ticks: int) -> None:
    """Write frames of so many ticks, 480 being a quarter note; a note that goes on is held."""
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
        before, waited = frame, waited + ticks
    file.save(path)


def draw(frames: Frames, path: Path, *, frame: str) -> None:
    """Draw frames as a piano roll."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    notes = [(place, note) for place, sounding in enumerate(frames) for note in sounding]
    axes.hlines(
        [note for _, note in notes], [place for place, _ in notes], [place + 1 for place, _ in notes], linewidth=4
    )
    axes.set(xlabel=f"{frame} note", ylabel="MIDI pitch")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
