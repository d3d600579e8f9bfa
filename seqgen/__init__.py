"""Neural sequence generation: language models, SeqGAN and text VAEs on one data pipeline.

    config = seqgen.config("lm", data="captions.txt", overrides={"model.hidden": 512})
    seqgen.train(config, out="runs/captions")         # again after a crash: continues, bit for bit
    generator = seqgen.load("runs/captions")
    lines = generator.generate(count=1000, temperature=0.9, seed=1)
    print(seqgen.bleu(lines, seqgen.read_lines("held-out.txt")), seqgen.self_bleu(lines))

Importing this package imports nothing of it: each name is loaded when it is first used, torch with the first that needs
it. The rooms below (`seqgen.metrics` and the others) load in the same way.
"""

import importlib
from typing import TYPE_CHECKING, Any

from seqgen._version import __version__ as __version__

if TYPE_CHECKING:
    from seqgen.core.errors import ConfigError as ConfigError
    from seqgen.core.errors import DataError as DataError
    from seqgen.core.errors import MissingExtraError as MissingExtraError
    from seqgen.core.errors import NonFiniteError as NonFiniteError
    from seqgen.core.errors import RunError as RunError
    from seqgen.core.errors import SeqgenError as SeqgenError
    from seqgen.data.corpora.grammar import Grammar as Grammar
    from seqgen.data.corpus import Corpus as Corpus
    from seqgen.data.corpus import CorpusFolder as CorpusFolder
    from seqgen.data.corpus import open_corpus as open_corpus
    from seqgen.data.packing import build_corpus as build_corpus
    from seqgen.data.ragged import Ragged as Ragged
    from seqgen.data.text import read_lines as read_lines
    from seqgen.data.tokenizers import Tokenizer as Tokenizer
    from seqgen.data.tokenizers import TokenizerConfig as TokenizerConfig
    from seqgen.data.tokenizers import load_tokenizer as load_tokenizer
    from seqgen.data.tokenizers import train_tokenizer as train_tokenizer
    from seqgen.engine.evaluate import Table as Table
    from seqgen.engine.evaluate import evaluate as evaluate
    from seqgen.engine.evaluate import evaluate_aligned as evaluate_aligned
    from seqgen.engine.evaluate import evaluate_images as evaluate_images
    from seqgen.engine.filling import Filled as Filled
    from seqgen.engine.generate import Text as Text
    from seqgen.engine.generate import TextGenerator as TextGenerator
    from seqgen.engine.hugging_face import import_checkpoint as import_checkpoint
    from seqgen.engine.latent import LatentSpace as LatentSpace
    from seqgen.engine.likelihood import LineScores as LineScores
    from seqgen.engine.loading import load as load
    from seqgen.engine.loading import load_image_generator as load_image_generator
    from seqgen.engine.loop import Outcome as Outcome
    from seqgen.engine.loop import train as train
    from seqgen.engine.mix import Mixture as Mixture
    from seqgen.engine.mix import mix as mix
    from seqgen.engine.progress import Progress as Progress
    from seqgen.engine.refine import Refinement as Refinement
    from seqgen.engine.refine import refine as refine
    from seqgen.engine.report import write_report as write_report
    from seqgen.engine.run import Settings as Settings
    from seqgen.engine.run import config as config
    from seqgen.metrics.bleu import bleu as bleu
    from seqgen.metrics.bleu import self_bleu as self_bleu
    from seqgen.metrics.score import Score as Score

_NAMES = {
    "core.errors": ("ConfigError", "DataError", "MissingExtraError", "NonFiniteError", "RunError", "SeqgenError"),
    "data.corpus": ("Corpus", "CorpusFolder", "open_corpus"),
    "data.corpora.grammar": ("Grammar",),
    "data.packing": ("build_corpus",),
    "data.ragged": ("Ragged",),
    "data.text": ("read_lines",),
    "data.tokenizers": ("Tokenizer", "TokenizerConfig", "load_tokenizer", "train_tokenizer"),
    "engine.evaluate": ("Table", "evaluate", "evaluate_aligned", "evaluate_images"),
    "engine.filling": ("Filled",),
    "engine.generate": ("Text", "TextGenerator"),
    "engine.hugging_face": ("import_checkpoint",),
    "engine.likelihood": ("LineScores",),
    "engine.loading": ("load", "load_image_generator"),
    "engine.latent": ("LatentSpace",),
    "engine.loop": ("Outcome", "train"),
    "engine.mix": ("Mixture", "mix"),
    "engine.progress": ("Progress",),
    "engine.refine": ("Refinement", "refine"),
    "engine.report": ("write_report",),
    "engine.run": ("Settings", "config"),
    "metrics.bleu": ("bleu", "self_bleu"),
    "metrics.score": ("Score",),
}
"""Where each public name lives; the re-exports above say the same to type checkers."""

_ROOMS = ("core", "data", "engine", "images", "metrics", "models", "nn")

__all__ = ["__version__", *sorted(name for names in _NAMES.values() for name in names)]

if not TYPE_CHECKING:  # a type checker that saw this would take any name for granted

    def __getattr__(name: str) -> Any:
        """Load a public name, or a room of the package, when it is first used."""
        for module, names in _NAMES.items():
            if name in names:
                value = getattr(importlib.import_module(f"seqgen.{module}"), name)
                globals()[name] = value  # the next use is a plain look-up
                return value
        if name in _ROOMS:
            return importlib.import_module(f"seqgen.{name}")
        raise AttributeError(f"module 'seqgen' has no attribute {name!r}; public names: {', '.join(__all__)}")

    def __dir__() -> list[str]:
        """The public names, for completion."""
        return [*__all__, *_ROOMS]
