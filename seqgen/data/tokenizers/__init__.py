"""Tokenizers: lines of text to packed ids and back. Bytes, characters, words, and SentencePiece's BPE and unigram.

Ids 0 pad, 1 unk, 2 bos, 3 eos, 4 sep stand before the symbols; a given SentencePiece model keeps its own ids, and the
specials it lacks come after its last. What a round trip `decode(encode(line))` gives back:

    byte            the line
    char            the line; characters outside the vocabulary become U+FFFD
    word, split     the words joined by single spaces; unknown words become <unk>
    word, nltk      the tokens joined by single spaces ("do n't"; double quotes become `` and '')
    word, pattern   the line, where the pattern's tokens tile the training text (joined by nothing); else the tokens
                    joined by single spaces
    bpe, unigram    the line if trained here (no normalisation, all spaces kept, unseen characters as bytes), but for
                    U+2581, SentencePiece's word marker, which becomes a space. A given model normalises as it was
                    trained to

With `lowercase` the line is lower-cased first. Running text goes through `encode_stream` and `decode_stream`, which
keep its line breaks with every kind. Saved as JSON and text files, never as pickles.
Each kind is one file with its `KINDS`, `train` and `load` (see `protocol.KindModule`), and found by that.
"""

from seqgen.data.tokenizers.byte import ByteTokenizer
from seqgen.data.tokenizers.char import CharTokenizer
from seqgen.data.tokenizers.kinds import Kind, SourceKind, TokenizerConfig, newline_is_character, uses
from seqgen.data.tokenizers.loading import load_tokenizer, saved_in
from seqgen.data.tokenizers.paired import check_paired, paired, source_of
from seqgen.data.tokenizers.protocol import SPECIALS, Tokenizer
from seqgen.data.tokenizers.subword import PieceTokenizer
from seqgen.data.tokenizers.training import choose_kind, resolved, train_tokenizer
from seqgen.data.tokenizers.word import WordTokenizer

__all__ = [
    "SPECIALS",
    "ByteTokenizer",
    "CharTokenizer",
    "Kind",
    "PieceTokenizer",
    "SourceKind",
    "Tokenizer",
    "TokenizerConfig",
    "WordTokenizer",
    "check_paired",
    "choose_kind",
    "load_tokenizer",
    "newline_is_character",
    "paired",
    "resolved",
    "saved_in",
    "source_of",
    "train_tokenizer",
    "uses",
]
