"""Neural sequence generation: language models, SeqGAN and text VAEs on one data pipeline."""

from seqgen._version import __version__ as __version__
