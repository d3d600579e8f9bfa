"""Scores of text: strings, token lists or arrays in, numbers with their signature out; imports nothing else of ours."""

from seqgen.metrics.bleu import BleuStats as BleuStats
from seqgen.metrics.bleu import ReferenceIndex as ReferenceIndex
from seqgen.metrics.bleu import bleu as bleu
from seqgen.metrics.bleu import bleu_orders as bleu_orders
from seqgen.metrics.bleu import bleu_stats as bleu_stats
from seqgen.metrics.bleu import corpus_bleu as corpus_bleu
from seqgen.metrics.bleu import self_bleu as self_bleu
from seqgen.metrics.bleu import self_bleu_orders as self_bleu_orders
from seqgen.metrics.bleu import self_bleu_stats as self_bleu_stats
from seqgen.metrics.bleu import sentence_scores as sentence_scores
from seqgen.metrics.ngrams import Packed as Packed
from seqgen.metrics.ngrams import encode as encode
from seqgen.metrics.ngrams import pack as pack
from seqgen.metrics.score import Score as Score
from seqgen.metrics.score import Signature as Signature
from seqgen.metrics.tokens import tokenize as tokenize
