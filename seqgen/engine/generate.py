"""Text from a trained run, and the likelihood of given text under it. Imports no training loop.

    writer = seqgen.load("runs/captions")
    lines = writer.generate(count=1000, temperature=0.9, seed=1)
    writer.score(held_out).perplexity

Text k of a call is a function of (weights, options, seed, k) alone, not of the count, the batch or earlier calls.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seqgen.core import files, rng
from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import DataError, RunError
from seqgen.core.log import messages
from seqgen.data.batches import sentence_evaluation
from seqgen.data.corpus import Corpus
from seqgen.data.growing import GrowingTexts, StopStrings
from seqgen.data.ragged import Ragged, joined
from seqgen.data.sources import TextData, encode_sources, facts, prepare
from seqgen.data.tokenizers import load_tokenizer
from seqgen.engine import checkpoint
from seqgen.engine import run as runs
from seqgen.engine.run import Settings
from seqgen.nn import automaton as automata
from seqgen.nn.beam import Beam, beam_search
from seqgen.nn.decode import Decoder, Sampling, collect

if TYPE_CHECKING:
    from seqgen.images.painter import Painter

_ROWS = 512
"""Texts decoded together; results do not depend on it."""

_RUNNING_LENGTH = 500
"""Tokens of a text where the model itself never ends one, unless max_new_tokens says otherwise."""


@dataclass(frozen=True)
class Text:
    """One generated text and how likely it was."""

    text: str
    """The prompt and what was written after it."""
    index: int
    """k: the text is a function of (weights, options, seed, k)."""
    finished: bool
    """Whether the model ended it; False: the length limit did."""
    tokens: list[str]
    """The tokens written, the end of sentence included where there is one; [] without details."""
    log_prob: float | None = None
    """Log-probability of all of them under the model itself, nats; None without details."""
    log_probs: list[float] = field(default_factory=list)
    """Log-probability of each token under the model itself, nats."""
    sampling_log_probs: list[float] = field(default_factory=list)
    """The same under the distribution that was sampled (after temperature, filters, bans)."""
    entropies: list[float] = field(default_factory=list)
    """Entropy of the model's distribution at each token, nats."""


@dataclass(frozen=True)
class LineScores:
    """How likely given lines are under a run, in nats; the end of sentence is counted, `<unk>` is counted."""

    lines: list[str]
    log_probs: list[list[float]]
    """Per line, the log-probability of every counted token."""
    tokens: list[list[str]]
    """Per line, the counted tokens."""

    @property
    def per_line(self) -> list[float]:
        """Log-probability of each line, nats."""
        return [sum(row) for row in self.log_probs]

    @property
    def total_tokens(self) -> int:
        """Tokens counted in all lines."""
        return sum(map(len, self.log_probs))

    @property
    def nats(self) -> float:
        """Negative log-probability of all lines together."""
        return -sum(self.per_line)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability per token."""
        return float(torch.tensor(self.nats / self.total_tokens, dtype=torch.float64).exp())

    @property
    def nats_per_character(self) -> float:
        """Negative log-probability over the characters of the lines, each line's end counted as one."""
        return self.nats / sum(len(line) + 1 for line in self.lines)


@dataclass(frozen=True)
class Realness:
    """How real given lines look to a critic: it was trained to tell text from what a model writes."""

    lines: list[str]
    per_line: list[float]
    """The critic's logit of each line: above 0 it looks real, below 0 it does not."""
    per_token: list[list[float]]
    """Per line, what each token adds to that: far below 0, the line would look more real without it."""
    tokens: list[list[str]]
    """Per line, the judged tokens."""


class Writer:
    """A trained model with its tokenizer: what `seqgen.load` returns. No optimizer, no loop."""

    def __init__(
        self, model: Any, tokenizer: Any, settings: Settings, device: torch.device, folder: Path | None
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.device, self.folder = device, folder
        known = facts(tokenizer, settings.data.mode, settings.model.max_length)
        self._start, self._stop = int(known["start"]), int(known["stop"])
        self._running = settings.data.mode in ("stream", "window")

    def generate(self, count: int = 1, **options: Any) -> list[str]:
        """`count` texts; the options are those of `texts`."""
        return [text.text for text in self.texts(count, **options)]

    def texts(
        self,
        count: int = 1,
        *,
        seed: int = 0,
        prompt: str = "",
        sources: Sequence[str] | None = None,
        stop: Sequence[str] = (),
        forbid: Sequence[str] = (),
        require: Sequence[str] = (),
        template: str = "",
        pattern: str = "",
        no_copy: int = 0,
        train_files: Sequence[str] = (),
        best_of: int = 1,
        unique: bool = False,
        novel_against: Sequence[str] | None = None,
        match: str | None = None,
        attempts: int = 20,
        details: bool = False,
        fast: bool = False,
        codes: Callable[[torch.Tensor], torch.Tensor] | None = None,
        on_text: Callable[[int], None] | None = None,
        **sampling: Any,
    ) -> list[Text]:
        """`count` texts with their indices, in index order.

        prompt: every text begins with it. sources: conditions, `count` texts for each. stop: a text ends before the
        first of these strings.

        By construction: forbid and require: words that must not, or must, appear. template: the text, `?` for each free
        character. pattern: a regular expression that the whole text matches. no_copy: never that many tokens in a row
        that stand in the training text, which is found by the run's settings or in `train_files`. best_of: the
        likeliest of so many texts under the model itself.

        By rejection, further indices being tried up to `attempts` * count in all: unique: no text twice. novel_against:
        none of these lines. match: this regular expression is found in the text.

        details: log-probabilities and entropies are filled in. fast: quicker for few rows, last bits may depend on the
        batch size. codes: of a text VAE, each text's code (B, Z) from its seed (B,) instead of a draw from the prior.
        Other options are those of `seqgen.nn.decode.Sampling` (temperature, top_k, top_p, min_p, typical, greedy,
        min_new_tokens, max_new_tokens, repetition_penalty, no_repeat_ngram). Raises ValueError for options out of range
        and constraints that cannot be met, DataError for a prompt or a source that cannot be read, RunError where too
        few texts pass.
        """
        if count < 1 or best_of < 1:
            name, value = ("count", count) if count < 1 else ("best_of", best_of)
            raise ValueError(f"{name} must be an integer >= 1, got {value}")
        options = self._sampling({**sampling, "details": details or best_of > 1})
        limits = self._limits(forbid, require, template, pattern)
        if no_copy:
            limits = replace(limits, no_copy=self._block(no_copy, train_files))
        prompts = self._prompts(prompt, sources, count)
        begin = [limits.automaton.after(prompts[0][1])] * len(prompts) if limits.automaton and prompt else None
        finder = re.compile(match) if match is not None else None
        known = set(novel_against or ())
        filtered = unique or known or finder is not None
        wanted = len(prompts)
        decoder = self._decoder(fast, codes)

        def write(first: int, size: int) -> list[Text]:
            """Texts first .. first + size - 1, each the best of its own `best_of` indices."""
            indices = range(first * best_of, (first + size) * best_of)
            rows = [prompts[k // best_of % wanted] for k in indices]
            begins = begin and [begin[0]] * len(rows)
            made = self._decode(decoder, rows, seed, indices[0], options, limits, begins, stop)
            groups = [made[i : i + best_of] for i in range(0, len(made), best_of)]
            return [max(group, key=lambda text: text.log_prob or 0.0) if best_of > 1 else group[0] for group in groups]

        accepted: list[Text] = []
        seen: set[str] = set()
        rejected = {"repeated": 0, "not novel": 0, "no match": 0}
        first, limit = 0, wanted * attempts if filtered else wanted
        while len(accepted) < wanted and first < limit:
            size = min(max(1, _ROWS // best_of), limit - first, wanted if filtered else wanted - first)
            for text in write(first, size):
                if unique and text.text in seen:
                    rejected["repeated"] += 1
                elif text.text in known:
                    rejected["not novel"] += 1
                elif finder is not None and not finder.search(text.text):
                    rejected["no match"] += 1
                elif len(accepted) < wanted:
                    seen.add(text.text)
                    accepted.append(text)
            first += size
            if on_text is not None:
                on_text(len(accepted))
        reasons = ", ".join(f"{n} {reason}" for reason, n in rejected.items() if n)
        if len(accepted) < wanted:
            raise RunError(
                f"only {len(accepted)} of {wanted} texts passed after {first} attempts (rejected: {reasons}); "
                "ask for fewer, or loosen the filter"
            )
        if reasons:
            messages.info("rejected: %s", reasons)
        return accepted

    def search(
        self,
        count: int = 1,
        *,
        width: int = 8,
        length_power: float = 1.0,
        groups: int = 1,
        prompt: str = "",
        sources: Sequence[str] | None = None,
        forbid: Sequence[str] = (),
        require: Sequence[str] = (),
        template: str = "",
        pattern: str = "",
    ) -> list[Text]:
        """The `count` likeliest texts that a beam of `width` finds, best first, for the prompt or for each source.

        They are ranked by log p / length^length_power; `groups` > 1 makes them differ (Vijayakumar et al. 2018). The
        constraints are those of `texts`. No randomness. ValueError where count exceeds the width, and as `texts`.
        """
        if not 1 <= count <= width:
            raise ValueError(f"count must be in 1..{width}, the width of the beam, got {count}")
        limits = self._limits(forbid, require, template, pattern)
        prompts = self._prompts(prompt, sources, 1)
        begin = [limits.automaton.after(prompts[0][1])] * len(prompts) if limits.automaton and prompt else None
        found = beam_search(
            self.model.decoder(),
            [ids for ids, _ in prompts],
            Beam(width, length_power, groups),
            automaton=limits.automaton,
            begin=begin,
        )
        rows = [(own, h) for (_, own), best in zip(prompts, found, strict=True) for h in best[:count]]
        texts = self._decoded([own + h.ids for own, h in rows])
        return [
            Text(text, i, h.finished, [self.tokenizer.id_to_token(t) for t in h.ids], h.log_prob)
            for i, (text, (_, h)) in enumerate(zip(texts, rows, strict=True))
        ]

    def stream(
        self,
        *,
        seed: int = 0,
        index: int = 0,
        prompt: str = "",
        stop: Sequence[str] = (),
        forbid: Sequence[str] = (),
        require: Sequence[str] = (),
        template: str = "",
        pattern: str = "",
        fast: bool = False,
        codes: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """The text of one index, piece by piece as it is written; joined, `generate`'s text without the prompt."""
        options = self._sampling(sampling)
        automaton = self._limits(forbid, require, template, pattern).automaton
        (ids, own), seeds = self._prompts(prompt, None, 1)[0], rng.text_seeds(seed, index, 1).to(self.device)
        place = [automaton.after(own)] if automaton is not None and own else None
        written = self._growing([own], stop)
        for step in self._decoder(fast, codes).steps([ids], seeds, options, automaton=automaton, begin=place):
            piece = written.add([0], step.ids.tolist())[0]
            if piece:
                yield piece
            if written.over[0]:
                return
        if rest := written.rest(0):
            yield rest

    def score(self, lines: Sequence[str], sources: Sequence[str] | None = None) -> LineScores:
        """The log-probability of every token of given lines; with `sources`, of each line after its condition.

        A run on running text scores each line on its own, as if a newline stood before it. DataError for no lines.
        """
        log_probs: list[list[float]] = [[] for _ in lines]
        ids: list[list[int]] = [[] for _ in lines]
        with torch.inference_mode():
            for batch in self.batches(lines, sources):
                placed = batch.to(self.device)
                values = self.model.log_probs(placed).tolist()
                width = batch.inputs.shape[1]
                rows = batch.rows[batch.positions // width].tolist()
                targets = batch.targets.flatten()[batch.positions].tolist()
                for row, value, target in zip(rows, values, targets, strict=True):
                    log_probs[row].append(value)
                    ids[row].append(target)
        tokens = [[self.tokenizer.id_to_token(i) for i in row] for row in ids]
        return LineScores(list(lines), log_probs, tokens)

    def realness(self, lines: Sequence[str]) -> Realness:
        """What the critic of a SeqGAN run thinks of given lines and their tokens.

        RunError for a run without a critic, DataError for no lines.
        """
        judge = getattr(self.model, "realness", None)  # the one model with a critic has it
        if judge is None:
            raise RunError(f"a run of {self.settings.name} has no critic; train one with: seqgen train seqgan")
        per_line = [0.0] * len(lines)
        per_token: list[list[float]] = [[] for _ in lines]
        ids: list[list[int]] = [[] for _ in lines]
        for batch in self.batches(lines):
            placed = batch.to(self.device)
            whole, each = judge(placed)
            width = batch.inputs.shape[1]
            for row, value in zip(batch.rows.tolist(), whole.tolist(), strict=True):
                per_line[row] = value
            rows = batch.rows[batch.positions // width].tolist()
            targets = batch.targets.flatten()[batch.positions].tolist()
            for row, value, target in zip(rows, each.tolist(), targets, strict=True):
                per_token[row].append(value)
                ids[row].append(target)
        tokens = [[self.tokenizer.id_to_token(i) for i in row] for row in ids]
        return Realness(list(lines), per_line, per_token, tokens)

    def batches(self, lines: Sequence[str], sources: Sequence[str] | None = None) -> Iterator[SequenceBatch]:
        """The lines as the model reads them, sorted by length; `rows` of a batch are the numbers of its lines."""
        return sentence_evaluation(self._corpus(lines, sources), _ROWS, pad=self.tokenizer.pad)

    def _corpus(self, lines: Sequence[str], sources: Sequence[str] | None) -> Corpus:
        if not lines:
            raise DataError("no lines to score")
        self._check_sources(sources)
        parts: list[Ragged | int] = [self._start, self._encoded(lines)]
        if self.settings.data.mode != "fixed":
            parts.append(self._stop if self._stop >= 0 else self._start)
        conditions = encode_sources(self.tokenizer, sources) if sources is not None else None
        if conditions is not None:
            if len(conditions) != len(lines):
                raise DataError(f"{len(lines)} lines but {len(conditions)} sources; give one source per line")
            parts.insert(1, conditions)
        loss_from = conditions.lengths if conditions is not None else None
        return Corpus(joined(parts, len(lines)), loss_from, self.tokenizer.fingerprint)

    def _check_sources(self, sources: Sequence[str] | None) -> None:
        wanted = self.settings.data.source
        if wanted and sources is None:
            raise DataError(f"this run was trained with data.source = {wanted}: give the sources to answer (--source)")
        if sources is not None and not wanted:
            raise DataError("this run was trained without data.source and cannot take sources")

    def _sampling(self, options: dict[str, Any]) -> Sampling:
        known = {f.name for f in dataclasses.fields(Sampling)}
        for name in options:
            if name not in known:
                raise TypeError(f"unknown sampling option {name}; known: {', '.join(sorted(known))}")
        sampling = Sampling(**options)
        if self._stop < 0 and self.settings.data.mode != "fixed":
            return replace(sampling, max_new_tokens=sampling.limit(_RUNNING_LENGTH))
        return sampling

    def _prompts(self, prompt: str, sources: Sequence[str] | None, count: int) -> list[tuple[list[int], list[int]]]:
        """Per text: the ids the model reads first, and those of them that are part of the text."""
        self._check_sources(sources)
        lines = prompt.split("\n") if self._running else [prompt]
        unknown = [part for line in lines for part in self.tokenizer.unknown(line)]
        if unknown:
            raise DataError(
                f"the prompt holds {', '.join(map(repr, unknown[:5]))}, which this run's vocabulary of "
                f"{self.tokenizer.vocab_size} does not; use words or characters of its training text"
            )
        text_ids = self._encoded([prompt]).row(0).tolist() if prompt else []
        start = [self._start]
        if sources is None:
            return [(start + text_ids, text_ids)] * count
        heads = [start + ids.tolist() for ids in encode_sources(self.tokenizer, sources)]
        return [(head + text_ids, text_ids) for head in heads for _ in range(count)]

    def _limits(self, forbid: Sequence[str], require: Sequence[str], template: str, pattern: str) -> "_Limits":
        constraints = [
            *([automata.forbidden_words(list(forbid))] if forbid else []),
            *(automata.required_words(list(require)) if require else []),
            *([automata.template(template)] if template else []),
            *([automata.regex(pattern)] if pattern else []),
        ]
        automaton = None
        if constraints:
            # a word tokenizer writes no space before the first word, so tokens add another text there
            first = self.tokenizer.decode([[i] for i in range(self.tokenizer.vocab_size)])
            surfaces = self.tokenizer.surfaces()
            newline = None
            if self._running:
                first[self.tokenizer.newline] = surfaces[self.tokenizer.newline] = "\n"
                newline = self.tokenizer.newline if first != surfaces else None
            # a space by itself is not written there, but the next token's then is
            spaces = [i for i, text in enumerate(surfaces) if text == " " and not first[i]]
            silent = spaces if self.tokenizer.lossless else []
            missing = sorted(
                set(template.replace("?", "").replace("\\", "") + "".join(require)) - set("".join(surfaces))
            )
            if missing:
                raise ValueError(
                    f"{', '.join(map(repr, missing))} cannot be written: this run's vocabulary does not hold it"
                )
            automaton = automata.build(constraints, surfaces, first, newline, silent)
        return _Limits(automaton, None)

    def _block(self, n: int, train_files: Sequence[str]) -> automata.NoCopy:
        corpus = self.own_text(train_files).train.ids
        specials = (self.tokenizer.pad, self.tokenizer.bos, self.tokenizer.eos, self.tokenizer.sep)
        return automata.no_copy(corpus.values, corpus.offsets, n, ignore=specials)

    def own_text(self, train_files: Sequence[str] = ()) -> TextData:
        """The run's own text, read and cut again as it was trained on, and compared by content with that.

        `train_files` say where it lies now, if it has moved. DataError where it is not there or has changed.
        """
        settings, folder = self.settings, self.folder
        if folder is None:
            raise RunError("this model was not loaded from a run folder, so its training text is not known")
        try:
            data = prepare(
                replace(settings.data, files=tuple(train_files) or settings.data.files),
                settings.tokenizer,
                batch=1,
                seed=settings.seed,
                device="cpu",
                tokenizer_folder=folder / "tokenizer",
            )
        except DataError as error:
            raise DataError(
                f"{error}; this run was trained on it: bring it back, or give the training text with --train FILE"
            ) from None
        if data.fingerprint != files.read_json(folder / "env.json")["data_sha256"]:
            raise DataError(
                f"{', '.join(train_files or settings.data.files)} is not the text that {folder} was trained on; "
                "give the training text with --train FILE"
            )
        return data

    def _decoder(self, fast: bool, codes: Callable[[torch.Tensor], torch.Tensor] | None) -> Decoder:
        made: Decoder = self.model.decoder(fast=fast, **({} if codes is None else {"codes": codes}))
        return made

    def _decode(
        self,
        decoder: Decoder,
        rows: list[tuple[list[int], list[int]]],
        seed: int,
        first: int,
        sampling: Sampling,
        limits: "_Limits",
        begin: list[int] | None,
        stop: Sequence[str],
    ) -> list[Text]:
        seeds = rng.text_seeds(seed, first, len(rows)).to(self.device)
        prompts = [prompt for prompt, _ in rows]
        owns = [own for _, own in rows]
        written = self._growing(owns, stop) if stop else None

        def stopped(texts: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            assert written is not None
            written.add(texts.tolist(), ids.tolist())
            return torch.tensor([written.over[k] for k in texts.tolist()], device=ids.device)

        steps = decoder.steps(
            prompts,
            seeds,
            sampling,
            automaton=limits.automaton,
            begin=begin,
            no_copy=limits.no_copy,
            until=stopped if stop else None,
        )
        samples = collect(list(steps), len(rows), sampling.details)
        texts = self._decoded([own + ids for own, ids in zip(owns, samples.ids, strict=True)])
        begins = self._decoded(owns) if stop else []
        made = []
        for i, (ids, text) in enumerate(zip(samples.ids, texts, strict=True)):
            told = samples.details[i] if samples.details is not None else None
            tokens = [*ids, self._stop] if told is not None and len(told.log_prob) > len(ids) else ids
            if written is not None and written.over[i]:  # all that follows belongs to no text
                tokens = ids[: written.kept(i, text[len(begins[i]) :])]
                text = text[: len(begins[i]) + written.lengths[i]]
                while tokens and self._decoded([owns[i] + tokens[:-1]])[0].startswith(text):
                    tokens = tokens[:-1]  # its last bytes were no character, as the token after them showed
            if told is None:
                made.append(Text(text, first + i, samples.finished[i], []))
                continue
            names = [self.tokenizer.id_to_token(t) for t in tokens]
            values = [x[: len(tokens)].tolist() for x in (told.log_prob, told.sampling_log_prob, told.entropy)]
            made.append(Text(text, first + i, samples.finished[i], names, sum(values[0]), *values))
        return made

    def _growing(self, prompts: Sequence[Sequence[int]], stop: Sequence[str]) -> StopStrings:
        """The texts behind prompts, token by token, to the first stop string."""
        return StopStrings(GrowingTexts(self.tokenizer, prompts, running=self._running), len(prompts), stop)

    def _decoded(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of every row; running text has line breaks."""
        if self._running:
            return [self.tokenizer.decode_stream(row) for row in ids]
        return list(self.tokenizer.decode(ids))

    def _encoded(self, lines: Sequence[str]) -> Ragged:
        """The ids of every text; running text has line breaks."""
        if self._running and any("\n" in line for line in lines):
            return Ragged.from_lists([self.tokenizer.encode_stream(line).tolist() for line in lines])
        ids: Ragged = self.tokenizer.encode(lines)
        return ids


@dataclass(frozen=True)
class _Limits:
    """What holds for all texts of a call by construction."""

    automaton: automata.Automaton | None
    no_copy: automata.NoCopy | None


def load(run: str | os.PathLike[str], *, step: int | None = None, device: str = "auto", module: Any = None) -> Writer:
    """The trained model of a run folder: its best checkpoint, or that of `step`.

    RunError says what is missing, or that the run makes pictures: then `load_painter` is the way.
    """
    folder = Path(run)
    settings = runs.read_settings(folder, module=module)
    if settings.tokenizer is None:
        raise RunError(f"{folder} makes pictures and no text; in Python: seqgen.load_painter")
    model, place = _opened(folder, settings, step, device, module)
    return Writer(model, load_tokenizer(folder / "tokenizer"), settings, place, folder)


def load_painter(
    run: str | os.PathLike[str], *, step: int | None = None, device: str = "auto", module: Any = None
) -> "Painter":
    """The trained picture model of a run folder: its best checkpoint, or that of `step`; RunError as `load`."""
    from seqgen.images.painter import Painter  # late: text needs none of it

    folder = Path(run)
    settings = runs.read_settings(folder, module=module)
    if settings.tokenizer is not None:
        raise RunError(f"{folder} writes text and makes no pictures; in Python: seqgen.load")
    model, place = _opened(folder, settings, step, device, module)
    return Painter(model, settings.data, settings.seed, place, folder)


def _opened(folder: Path, settings: Settings, step: int | None, device: str, module: Any) -> tuple[Any, torch.device]:
    place = runs.choose_device(device)
    model = (module or runs.chapter(settings.name)).Model(settings.model)
    step, tensors = checkpoint.best(folder) if step is None else (step, checkpoint.read_tensors(folder, step))
    checkpoint.check_run(folder, step, below="tokenizer/")
    checkpoint.fill(model, tensors, str(checkpoint.folder_of(folder, step)))
    return model.to(place).eval(), place
