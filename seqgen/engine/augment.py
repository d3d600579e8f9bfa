"""More text from a text.

Labelled text by a conditional run, of which what is copied, repeated or off its label is left out; and molecules
written anew, their atoms in random orders (Arus-Pous et al. 2019), which needs no model.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from seqgen.core.errors import DataError
from seqgen.core.rng import hash64
from seqgen.engine.evaluate import metric_tokenizer
from seqgen.engine.generate import TextGenerator
from seqgen.metrics import molecules
from seqgen.metrics.near import near_duplicates

ROUNDS = 10
"""How many times as many texts as are asked for are written at most."""

Classifier = Callable[[Sequence[str]], list[str]]
"""From texts to their labels."""


@dataclass
class Augmented:
    """Texts written for one label, and what became of the others."""

    label: str
    texts: list[str] = field(default_factory=list)
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Counts of texts left out: blank, copied, near, off label."""


def rewritten(texts: Sequence[str], copies: int, seed: int, where: Callable[[int], str]) -> list[str]:
    """Return each molecule's SMILES `copies` times, every time from another random order of its atoms.

    Row i depends on (its molecule, seed, i) alone; the first copies of all come first, then the second ones. DataError
    for a text that is no molecule. `where` tells the place of a row.
    """
    found = [molecules.molecule(text.strip()) for text in texts]
    wrong = [row for row, one in enumerate(found) if one is None]
    if wrong:
        raise DataError(
            f"{where(wrong[0])}: not a SMILES string: {texts[wrong[0]]!r:.60}; {len(wrong)} of {len(texts)} lines are "
            "none; seqgen corpus filter FILE --rule molecules --keep OTHER drops them"
        )
    rows = [molecules.randomized(one, copies, hash64("smiles", seed, row) >> 32) for row, one in enumerate(found)]
    return [row[copy] for copy in range(copies) for row in rows]


def check_labelled(texts: Sequence[str], labels: Sequence[str], where: Callable[[int], str]) -> None:
    """Raise DataError for a row without a label, a single label, or a label of one row."""
    for row, label in enumerate(labels):
        if not label.strip():
            raise DataError(f"{where(row)}: no label")
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(f"all {len(texts)} lines have the label {labels[0]!r}; expected two labels or more")
    single = next((label for label, count in counts.items() if count < 2), None)
    if single is not None:
        raise DataError(f"label {single!r} has 1 line; expected at least 2 of each")


def classifier(texts: Sequence[str], labels: Sequence[str]) -> Classifier:
    """Fit logistic regression on TF-IDF of words and their pairs, or of characters in text without spaces."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    kind = "char" if metric_tokenizer(texts) == "char" else "word"
    words = TfidfVectorizer(analyzer=kind, ngram_range=(1, 2), token_pattern=r"\S+" if kind == "word" else None)
    fitted = make_pipeline(words, LogisticRegression(max_iter=1000, C=10.0)).fit(list(texts), list(labels))

    def label(asked: Sequence[str]) -> list[str]:
        return [str(one) for one in fitted.predict(list(asked))]

    return label


def augment(
    generator: TextGenerator,
    texts: Sequence[str],
    labels: Sequence[str],
    per_class: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    near: float = 0.8,
    check: bool = True,
) -> list[Augmented]:
    """Write `per_class` texts for each label of labelled text with a run that takes a label as its condition.

    Left out are blank texts, copies of any line, near-duplicates of lines or of texts before (`near`, 0: none are), and
    with `check` texts to which a classifier of the lines gives another label. Warns where ten times as many texts were
    written and too few were left. The classifier is no judge of quality: it keeps what it knows already.
    """
    judged = classifier(texts, labels) if check else None
    return [
        _written(generator, label, texts, per_class, seed, temperature, near, judged) for label in sorted(set(labels))
    ]


def _written(
    generator: TextGenerator,
    label: str,
    lines: Sequence[str],
    per_class: int,
    seed: int,
    temperature: float,
    near: float,
    judged: Classifier | None,
) -> Augmented:
    own, known = Augmented(label), {line.strip() for line in lines}
    tokenizer = metric_tokenizer(lines)
    for number in range(ROUNDS):
        drawn = generator.generate(per_class, sources=[label], seed=seed * ROUNDS + number, temperature=temperature)
        fresh = [text.strip() for text in drawn]
        own.written += len(fresh)
        others = [*lines, *own.texts]
        repeats = near_duplicates(fresh, near, others=others, tokenizer=tokenizer) if near else [None] * len(fresh)
        labels = judged(fresh) if judged else [label] * len(fresh)
        for text, repeat, found in zip(fresh, repeats, labels, strict=True):
            if len(own.texts) == per_class:
                break
            reason = "blank" if not text else "copied" if text in known else "near" if repeat is not None else ""
            reason = reason or ("" if found == label else "off label")
            if reason:
                own.dropped[reason] += 1
            else:
                own.texts.append(text)
                known.add(text)
        if len(own.texts) == per_class:
            return own
    warnings.warn(
        f"label {label!r}: {len(own.texts)} of {per_class} texts after {own.written} were written", stacklevel=3
    )
    return own
