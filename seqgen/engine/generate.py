"""Text from a trained run. Imports no training loop.

    generator = seqgen.load("runs/captions")
    lines = generator.generate(count=1000, temperature=0.9, seed=1)
    generator.score(held_out).perplexity

Text k of a call is a function of (weights, options, seed, k) alone, not of the count, the batch or earlier calls.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from seqgen.core import config, dist, files, log, rng
from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import DataError, RunError
from seqgen.core.log import messages
from seqgen.core.options import Beam, Choice, Constraints, Drawing, Filling, Prompt, Request, Sampling, Selection, takes
from seqgen.core.patterns import Expression
from seqgen.data.detokenize import IncrementalDetokenizer, StopStrings
from seqgen.data.formats import UNSAFE
from seqgen.data.prepare import TextData, encode_sources, prepare
from seqgen.data.tokenizers import Tokenizer
from seqgen.engine import filling, page
from seqgen.engine.filling import Filled
from seqgen.engine.likelihood import Attention, CriticScores, LineScorer, LineScores
from seqgen.engine.run import Settings
from seqgen.models import refined
from seqgen.models._contract import TextModel
from seqgen.nn import automaton as automata
from seqgen.nn.automaton import GAP
from seqgen.nn.decode import Decoder, Details, LogitsProcessor, Writer, collect, joined

_ROWS = 512
"""Texts decoded together; results do not depend on it."""

_RUNNING_LENGTH = 500
"""Tokens of a text where the model itself never ends one, unless max_new_tokens says otherwise."""


Latents: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From the seeds (B,) of texts to their latents (B, Z)."""


@dataclass(frozen=True)
class Text:
    """One generated text and how likely it was."""

    text: str
    """The prompt and what was written after it."""
    index: int
    """k: the text is a function of (weights, options, seed, k)."""
    finished: bool
    """Whether the model ended it; False: the length limit did."""
    tokens: list[str] = field(repr=False)
    """The tokens written, the end of sentence included where there is one; [] without details."""
    log_prob: float | None = None
    """Log-probability of all of them under the model itself, nats; None without details."""
    log_probs: list[float] = field(default_factory=list, repr=False)
    """Log-probability of each token under the model itself, nats."""
    sampling_log_probs: list[float] = field(default_factory=list, repr=False)
    """The same under the distribution that was sampled (after temperature, filters, bans)."""
    entropies: list[float] = field(default_factory=list, repr=False)
    """Entropy of the model's distribution at each token, nats."""
    prompt: str = ""
    """What it was asked to begin with."""
    source: str = ""
    """The condition it answers, several fields joined by tabs."""

    def _repr_html_(self) -> str:
        if not self.log_probs:
            return page.fragment(f"<pre>{escape(self.text)}</pre>")
        given = f'<span class="dim">{escape(self.prompt)}</span> ' if self.prompt else ""
        said = "" if self.log_prob is None else f"{len(self.tokens)} tokens, {-self.log_prob:.2f} nats"
        return page.fragment(f'<p>{given}{page.tokens(self.tokens, self.log_probs)}</p><p class="dim">{said}</p>')


@dataclass(frozen=True, kw_only=True)
class TextOptions(Selection, Constraints, Drawing, Request):
    """The arguments of `TextGenerator.generate` and `texts`."""

    prompts: Sequence[str] | None = None
    """Several prompts: `count` texts for each, the same as for that prompt alone."""
    sources: Sequence[str] | None = None
    """Conditions: `count` texts for each."""
    train_files: Sequence[str] = ()
    """Where the training text lies now, for `no_copy`; by default where the run's settings say."""
    novel_against: Sequence[str] | None = None
    """Lines that no text may be."""
    latents: Latents | None = None
    """Of a text VAE: the latent (B, Z) of each text from its seed (B,), instead of a draw from the prior."""
    logits_processor: LogitsProcessor | None = None
    """A function of your own, f(ids (B, T), logits (B, V)) -> logits: `seqgen.nn.decode.LogitsProcessor` says when."""
    first: int = 0
    """k of the first text: so many texts of one prompt are left out. Not with unique, novel_against or match."""
    on_text: Callable[[int], None] | None = None
    """Is called with the number of texts that are done."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions(Constraints, Drawing, Prompt):
    """The arguments of `TextGenerator.stream`."""

    index: int = 0
    """k of the text."""
    latents: Latents | None = None
    """As in `TextOptions`."""
    logits_processor: LogitsProcessor | None = None
    """As in `TextOptions`."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Constraints, Beam, Request):
    """The arguments of `TextGenerator.search`."""

    prompts: Sequence[str] | None = None
    """Several prompts: `count` texts for each."""
    sources: Sequence[str] | None = None
    """Conditions: `count` texts for each."""


class TextGenerator:
    """A trained model with its tokenizer: what `seqgen.load` returns. No optimizer, no loop."""

    def __init__(
        self, model: TextModel, tokenizer: Tokenizer, settings: Settings, device: torch.device, folder: Path | None
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.device, self.folder = device, folder
        self._lines = LineScorer(model, tokenizer, settings, device, folder)
        self.running = self._lines.running
        self.split = False
        """Whether the processes of torchrun share the drawing of texts; then all of them make the same calls."""

    def __repr__(self) -> str:
        tokens = f"{self.tokenizer.vocab_size} tokens ({self.tokenizer.kind})"
        return f"TextGenerator({self.folder or self.settings.name}: {self.settings.name}, {tokens}, {self.device})"

    @property
    def exact(self) -> bool:
        """Whether the probability of a text is known, and not only bounded."""
        return not getattr(self.model, "bound", "")  # optional: see models._contract.Bounded

    @property
    def streams(self) -> bool:
        """Whether `stream` can write a text piece by piece: from left to right, and not chosen among whole ones."""
        return not isinstance(self.model, refined.Model) and isinstance(self.model.decoder(), Decoder)

    @property
    def one_line(self) -> bool:
        """Whether every text this run may write can stand as one line of a file."""
        return not self.running and not any(map(UNSAFE.search, self.tokenizer.surfaces()))

    @takes(TextOptions)
    def generate(self, options: TextOptions) -> list[str]:
        """Return `count` texts for the prompt, or for each of several; `texts` says what the options are."""
        return [text.text for text in self._texts(options)]

    @takes(TextOptions)
    def texts(self, options: TextOptions) -> list[Text]:
        """Return `count` texts for the prompt, or for each of several, in the order of prompts and then of indices.

        Every option and what it does: `TextOptions` and its bases in `seqgen.core.options`; lengths count the tokens
        after the prompt. The texts of a prompt are the same whatever the other prompts are.

        By construction: bad_words, require, template, pattern, no_copy. Token by token, these leave out what would
        break them and share its probability out among the rest. All texts meet them, but not as often as the model
        would write each if asked for such texts alone: that is `match`.

        By rejection, further indices being tried up to `attempts` * count for each prompt: unique, novel_against,
        match. What passes is distributed exactly as the model's texts that would pass.

        resample: of a refined run each text is one of its own n candidates, kept with probability proportional to
        exp(s). The base draws them as it is, so whatever changes how it draws is refused beside n > 1. Probabilities
        of tokens are those of the base.

        best_of: the end of a text is counted: the end of sentence, or the tokens to the end of a stop string, which its
        own values leave out. A text that such a string ended at once stands behind all others. Raises ValueError for
        options out of range and constraints that cannot be met, TypeError for a list in the place of a text or the
        other way round, DataError for a prompt or a source that cannot be read, RunError where too few texts pass.
        """
        return self._texts(options)

    def _texts(self, options: TextOptions) -> list[Text]:
        _check_texts(options, "stop", "bad_words", "require", "train_files", "novel_against", "prompts", "sources")
        no_copy = self.copy_block(options.no_copy, options.train_files) if options.no_copy else None
        limits = _Limits(self.automaton(options), no_copy, options.logits_processor)
        begins = self.beginnings(options.prompt, options.prompts, options.sources, limits.automaton)
        chosen = _chosen_among(options)
        alone = options.prompts is None and options.sources is None and not chosen
        if options.first and not alone:
            raise ValueError("first leaves out texts of one prompt, without unique, novel_against or match")
        if not self.split or chosen:
            if self.split:
                messages.info("with unique, novel_against and match each process draws all texts; one would do")
            return self._selected(options, begins, limits)
        if not alone:
            first, count = dist.share(len(begins))
            return dist.gathered(self._selected(options, begins, limits, first, count) if count else [])
        first, count = dist.share(options.count)
        own = replace(options, first=options.first + first, count=count)
        return dist.gathered(self._selected(own, begins, limits) if count else [])

    def _selected(
        self, options: TextOptions, all_begins: list["Beginning"], limits: "_Limits", first: int = 0, several: int = 0
    ) -> list[Text]:
        """Return `count` texts behind each beginning, or behind `several` of them, that pass what the options ask."""
        begins = all_begins[first : first + several] if several else all_begins
        count, best_of = config.part(options, Request).count, config.part(options, Selection).best_of
        resample = self.candidates(options.resample)
        if resample > 1:
            check_resampled(options, resample)
        group = max(best_of, resample)
        sampling = self.sampling(options)
        if group > 1:
            sampling = replace(sampling, details=True)
        match, unique, sources = options.match, options.unique, options.sources
        finder = Expression(match, f"--match {match!r}") if match is not None else None
        known = set(options.novel_against or ())
        filtered = unique or known or finder is not None
        wanted, most = len(begins) * count, count * options.attempts if filtered else count
        decoder = self.writer(options.fast, options.latents, options.precision)

        def index(j: int, n: int) -> int:
            """Return the index of attempt n for prompt j: n, whatever the others; sources share a row of indices."""
            n += options.first
            return n if sources is None else n // count * len(all_begins) * count + (first + j) * count + n % count

        def write(jobs: list[tuple[int, int]]) -> list[Text]:
            """Return the texts of attempts for prompts, each chosen among its own `group` indices."""
            rows = [begins[j] for j, _ in jobs for _ in range(group)]
            indices = [index(j, n) * group + i for j, n in jobs for i in range(group)]
            made = self._decode(decoder, rows, options.seed, indices, sampling, limits, options.stop)
            if resample > 1:
                firsts = indices[::group]
                choices = [
                    rng.text_seeds(options.seed, k, 1, begins[j].prompt) for k, (j, _) in zip(firsts, jobs, strict=True)
                ]
                kept = self._resampled(made, torch.cat(choices), resample)
            else:
                groups = [made[i : i + group] for i in range(0, len(made), group)]
                # a text that a stop string ended at once is likelier than any other, and of no use
                kept = [max(each, key=lambda one: (bool(one.ids), one.log_prob)) for each in groups]
            return [self._shown(one) for one in kept]

        accepted: list[list[Text]] = [[] for _ in begins]
        seen: list[set[str]] = [set() for _ in begins]
        tried = [0] * len(begins)
        rejected = {"repeated": 0, "not novel": 0, "no match": 0}
        while True:
            jobs: list[tuple[int, int]] = []
            for j, own in enumerate(accepted):
                if len(own) < count:
                    more = min(max(1, _ROWS // group) - len(jobs), most - tried[j], count)
                    jobs += [(j, n) for n in range(tried[j], tried[j] + more)]
                    tried[j] += more
            if not jobs:
                break
            log.part("texts", sum(map(len, accepted)), count * len(begins))
            for (j, _), text in zip(jobs, write(jobs), strict=True):
                if unique and text.text in seen[j]:
                    rejected["repeated"] += 1
                elif text.text in known:
                    rejected["not novel"] += 1
                elif finder is not None and not finder.search(text.text):
                    rejected["no match"] += 1
                elif len(accepted[j]) < count:
                    seen[j].add(text.text)
                    accepted[j].append(text)
            if options.on_text is not None:
                options.on_text(sum(map(len, accepted)))
        texts = [text for own in accepted for text in own]
        reasons = ", ".join(f"{n} {reason}" for reason, n in rejected.items() if n)
        if len(texts) < wanted:
            raise RunError(
                f"only {len(texts)} of {wanted} texts passed after {sum(tried)} attempts (rejected: {reasons}); "
                "ask for fewer, or loosen the filter"
            )
        if reasons:
            messages.info("rejected: %s", reasons)
        return texts

    @takes(SearchOptions)
    def search(self, options: SearchOptions) -> list[Text]:
        """Return the `count` likeliest texts that `num_beams` find, best first, for each prompt or source.

        They are ranked by log p / length^length_penalty; `num_beam_groups` > 1 makes them differ (Vijayakumar et al.
        2018). The constraints are those of `texts`. No randomness. ValueError where count exceeds `num_beams`, and as
        `texts`.
        """
        from seqgen.nn.beam import beam_search  # late: sampling needs none of it

        self._check_whole("a search for the likeliest")
        _check_texts(options, "bad_words", "require", "prompts", "sources")
        count, beam = options.count, config.part(options, Beam, section="sample")
        if not 1 <= count <= beam.num_beams:
            raise ValueError(f"count must be in 1..{beam.num_beams}, the number of beams, got {count}")
        automaton = self.automaton(options)
        begins = self.beginnings(options.prompt, options.prompts, options.sources, automaton)
        found = beam_search(
            self.left_to_right("beam search"),
            [begin.ids for begin in begins],
            beam,
            automaton=automaton,
            begin=_places(begins),
        )
        rows = [(begin, h) for begin, best in zip(begins, found, strict=True) for h in best[:count]]
        texts = self.decoded([begin.own + h.ids for begin, h in rows])
        named = [[self.tokenizer.id_to_token(t) for t in h.ids] for _, h in rows]
        return [
            Text(text, i, h.finished, named[i], h.log_prob, prompt=begin.prompt, source=begin.source)
            for i, (text, (begin, h)) in enumerate(zip(texts, rows, strict=True))
        ]

    @takes(StreamOptions)
    def stream(self, options: StreamOptions) -> Iterator[str]:
        """Yield the text of one index, piece by piece as it is written; joined, `generate`'s without the prompt."""
        self._check_whole("a stream")
        _check_texts(options, "stop", "bad_words", "require")
        automaton = self.automaton(options)
        begins = self.beginnings(options.prompt, None, None, automaton)
        seeds = rng.text_seeds(options.seed, options.index, 1, options.prompt).to(self.device)
        written = self.growing([begins[0].own], options.stop)
        pieces = []

        def look(texts: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            pieces.append(written.add([0], ids.tolist())[0])
            return torch.tensor([written.over[0]], device=ids.device)

        steps = self.writer(options.fast, options.latents, options.precision).steps(
            [begins[0].ids],
            seeds,
            self.sampling(options),
            automaton=automaton,
            begin=_places(begins),
            logits_processor=options.logits_processor,
            until=look,
        )
        for _ in steps:
            if pieces[-1]:
                yield pieces[-1]
        if not written.over[0] and (rest := written.rest(0)):
            yield rest

    def fill(self, texts: Sequence[str], **options: Any) -> list[Filled]:
        """Return `count` fillings of each text, in which every [MASK] stands for one token of the run.

        The options are those of `seqgen.core.options.Filling`. A run of masked sees both sides of a gap. One that
        writes from left to right writes the text with the gaps free: each is drawn given what stands before it alone,
        and of `best_of` fillings the likeliest whole text is kept. ValueError for options out of range, DataError for a
        text without a gap, longer than the run's texts or with words it does not know, RunError for a run whose tokens
        are parts of words.
        """
        from seqgen.models.masked import Unmasker  # late: other runs need none of it

        self._check_whole("filling a gap")
        asked = config.build(Filling, options, section="sample")
        if isinstance(texts, str):
            raise TypeError("texts must be a list of texts, got one text; put it into a list")
        drawing: dict[str, Any] = vars(config.part(asked, Choice))
        begins = [Beginning(text, [self._lines.start], [], 0) for text in texts]
        decoder = self.model.decoder()
        longest = decoder.longest if isinstance(decoder, Unmasker) else 0
        rows = filling.rows(self.tokenizer, self.settings, texts, longest)
        if not isinstance(decoder, Unmasker):
            made = []
            for begin, row in zip(begins, rows, strict=True):
                # the end is one of the new tokens
                limits = _Limits(automata.gaps(row, self.tokenizer.vocab_size))
                most = len(row) + (self._lines.stop >= 0)
                wanted = TextOptions(
                    count=asked.count,
                    seed=asked.seed,
                    best_of=asked.best_of,
                    max_new_tokens=most,
                    details=True,
                    **drawing,
                )
                for text in self._selected(wanted, [begin], limits):
                    places = [i for i, token in enumerate(row) if token == GAP]
                    words = [text.tokens[i] for i in places]
                    made.append(Filled(text.text, begin.prompt, text.index, words, [text.log_probs[i] for i in places]))
            return made
        if asked.best_of > 1:
            raise ValueError("best_of compares exact probabilities of texts, which a run of masked does not have")
        end = [self._lines.stop] if self._lines.stop >= 0 else []
        jobs = [(n, k) for n in range(len(texts)) for k in range(asked.count)]
        seeds = torch.cat([rng.text_seeds(asked.seed, k, 1, texts[n]) for n, k in jobs])
        whole = [[self._lines.start, *rows[n], *end] for n, _ in jobs]
        filled, log_probs = decoder.fill(whole, seeds, Sampling(**drawing))
        owns = [row[1 : len(row) - len(end)] for row in filled]
        return [
            Filled(
                text,
                texts[n],
                k,
                [self.tokenizer.id_to_token(t) for t, given in zip(own, rows[n], strict=True) if given == GAP],
                values,
            )
            for (n, k), own, text, values in zip(jobs, owns, self.decoded(owns), log_probs, strict=True)
        ]

    def score(
        self,
        lines: Sequence[str],
        sources: Sequence[str] | None = None,
        *,
        resample: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> LineScores:
        """Return the log-probability of every token of given lines; with `sources`, of each line after its condition.

        With `precision` bf16 the products are taken in bfloat16: quicker where the device has units for it, and off by
        some thousandths of a nat a token.

        A run on running text scores each line on its own, as if a newline stood before it. A refined run gives each
        line its log q_n of `resample` candidates, by default of its own number, and each token the value of its base.
        DataError for no lines.
        """
        return self._lines.score(lines, sources, resample=resample, precision=precision)

    def candidates(self, resample: int | None = None) -> int:
        """Return how many candidates each text is chosen from: as asked or, of a refined run, its own number.

        1 stands for texts as they are drawn. ValueError for a number outside 1..256, RunError for more than 1 of a run
        that is not refined.
        """
        return self._lines.candidates(resample)

    def ranks(self, lines: Sequence[str], sources: Sequence[str] | None = None) -> list[list[int]]:
        """Return, per line, the rank of every token among all that the model might have written there, 1 the likeliest.

        The share of ranks up to k is hit@k, the mean of 1 / rank the mean reciprocal rank. RunError for models whose
        likelihood is not exact, DataError for no lines.
        """
        return self._lines.ranks(lines, sources)

    def critic_scores(self, lines: Sequence[str]) -> CriticScores:
        """Return what the critic of a SeqGAN run or of a refined run makes of given lines and, the first, their tokens.

        RunError for a run without a critic, DataError for no lines.
        """
        return self._lines.critic_scores(lines)

    def attention(self, line: str, source: str) -> Attention:
        """Return how much each token of a line looks at each token of its source.

        RunError for a model without an encoder.
        """
        return self._lines.attention(line, source)

    def batches(self, lines: Sequence[str], sources: Sequence[str] | None = None) -> Iterator[SequenceBatch]:
        """Yield the lines as the model reads them, sorted by length; `rows` of a batch are the numbers of its lines."""
        return self._lines.batches(lines, sources)

    def sampling(self, options: Drawing) -> Sampling:
        """Return how tokens are drawn."""
        sampling = config.part(options, Sampling, section="sample")
        if self._lines.stop < 0 and self.settings.data.mode != "fixed":
            return replace(sampling, max_new_tokens=sampling.limit(_RUNNING_LENGTH))
        return sampling

    def beginnings(
        self,
        prompt: str,
        prompts: Sequence[str] | None,
        sources: Sequence[str] | None,
        automaton: automata.Automaton | None,
    ) -> list["Beginning"]:
        """Return the beginnings of the texts: a prompt, or several, or the same prompt behind each condition."""
        if prompts is not None and (prompt or sources is not None):
            raise ValueError("prompts stand alone; leave prompt and sources out")
        self._lines.check_sources(sources)
        begins = []
        for number, text in enumerate([prompt] if prompts is None else prompts, 1):
            if not isinstance(text, str):
                raise TypeError(f"prompt {number} must be a text, got {type(text).__name__}")
            lines = text.split("\n") if self.running else [text]
            if unknown := [part for line in lines for part in self.tokenizer.unknown(line)]:
                raise DataError(
                    f"{'the prompt' if prompts is None else f'prompt {number}'} holds "
                    f"{', '.join(map(repr, unknown[:5]))}, which this run's vocabulary of {self.tokenizer.vocab_size} "
                    "does not; use words or characters of its training text"
                )
            own = self._lines.encode([text]).row(0).tolist() if text else []
            place = automaton.after(own) if automaton is not None else 0
            begins.append(Beginning(text, [self._lines.start, *own], own, place))
        if sources is None:
            return begins
        own, place = begins[0].own, begins[0].place
        heads = encode_sources(self.tokenizer, sources)
        return [
            Beginning(prompt, [self._lines.start, *head.tolist(), *own], own, place, source)
            for source, head in zip(sources, heads, strict=True)
        ]

    def automaton(self, options: Constraints) -> automata.Automaton | None:
        """Return constraints over this run's tokens, None where there are none; ValueError where no text meets them."""
        constraints = [
            *([automata.bad_words(list(options.bad_words))] if options.bad_words else []),
            *(automata.required_words(list(options.require)) if options.require else []),
            *([automata.template(options.template)] if options.template else []),
            *([automata.regex(options.pattern)] if options.pattern else []),
        ]
        if constraints:
            # a word tokenizer writes no space before the first word, so tokens add another text there
            first = self.tokenizer.decode([[i] for i in range(self.tokenizer.vocab_size)])
            surfaces = self.tokenizer.surfaces()
            newline = None
            if self.running:
                first[self.tokenizer.newline] = surfaces[self.tokenizer.newline] = "\n"
                newline = self.tokenizer.newline if first != surfaces else None
            # a space by itself is not written there, but the next token's then is
            spaces = [i for i, text in enumerate(surfaces) if text == " " and not first[i]]
            silent = spaces if self.tokenizer.lossless else []
            letters = options.template.replace("?", "").replace("\\", "") + "".join(options.require)
            missing = sorted(set(letters) - set("".join(surfaces)))
            if missing:
                raise ValueError(
                    f"{', '.join(map(repr, missing))} cannot be written: this run's vocabulary does not hold it"
                )
            return automata.build(constraints, surfaces, first, newline, silent)
        return None

    def copy_block(self, n: int, train_files: Sequence[str] = ()) -> automata.NoCopy:
        """Return the block against n tokens in a row of the training text; errors as `own_text`."""
        corpus = self.own_text(train_files).train.ids
        specials = (self.tokenizer.pad, self.tokenizer.bos, self.tokenizer.eos, self.tokenizer.sep)
        return automata.no_copy(corpus.values, corpus.offsets, n, ignore=specials)

    @property
    def has_text(self) -> bool:
        """Whether this run was trained here, so that `own_text` may find its text."""
        return (
            self.folder is not None
            and files.read_object(self.folder / "env.json", data_sha256=str)["data_sha256"] != ""
        )

    def own_text(self, train_files: Sequence[str] = ()) -> TextData:
        """Return the run's own text, read and cut again as it was trained on, and compared by content with that.

        `train_files` say where it lies now, if it has moved. DataError where it is not there or has changed.
        """
        settings, folder = self.settings, self.folder
        if folder is None:
            raise RunError("this model was not loaded from a run folder, so its training text is not known")
        if not self.has_text:
            raise DataError(f"{folder} was imported, so its training text is not known")
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
        if data.fingerprint != files.read_object(folder / "env.json", data_sha256=str)["data_sha256"]:
            raise DataError(
                f"{', '.join(train_files or settings.data.files)} is not the text that {folder} was trained on; "
                "give the training text with --train FILE"
            )
        return data

    def _check_whole(self, what: str) -> None:
        """Raise RunError for a refined run, which chooses among whole texts."""
        if isinstance(self.model, refined.Model):
            raise RunError(
                f"{self.folder} chooses among whole texts; {what} goes token by token; take the run it was made from"
            )

    def writer(
        self, fast: bool = False, latents: Latents | None = None, precision: Literal["run", "fp32", "bf16"] = "run"
    ) -> Writer:
        """Return the model prepared for writing, in a precision or in that of its training.

        RunError for bf16 where the model has no such way; a run that was trained so writes in fp32 then.
        """
        options: dict[str, Any] = {} if latents is None else {"latents": latents}
        if "bf16" in (precision, self.settings.train.precision) and precision != "fp32":
            if "precision" in inspect.signature(self.model.decoder).parameters:
                options["precision"] = "bf16"
            elif precision == "bf16":
                raise RunError(f"a run of {self.settings.name} writes in fp32 alone; leave --precision out")
        made: Writer = self.model.decoder(fast=fast, **options)
        return made

    def left_to_right(self, what: str) -> Decoder:
        """Return the model prepared for writing token by token; RunError where it has no such way, for `what`."""
        made = self.writer()
        if not isinstance(made, Decoder):
            raise RunError(
                f"{what} needs a model that writes from left to right; a run of {self.settings.name} does not: "
                "use it with seqgen generate or seqgen fill"
            )
        return made

    def _decode(
        self,
        decoder: Writer,
        rows: Sequence["Beginning"],
        seed: int,
        indices: Sequence[int],
        sampling: Sampling,
        limits: "_Limits",
        stop: Sequence[str],
    ) -> list["_Drawn"]:
        """Return the texts of these indices after their beginnings, and what is known of each."""
        seeds = torch.cat([rng.text_seeds(seed, k, 1, row.prompt) for k, row in zip(indices, rows, strict=True)])
        seeds, owns = seeds.to(self.device), [row.own for row in rows]
        written = self.growing(owns, stop) if stop else None

        def stopped(texts: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            assert written is not None
            rows, last = torch.stack([texts, ids]).tolist()
            written.add(rows, last)
            return torch.tensor([written.over[k] for k in rows], device=ids.device)

        steps = decoder.steps(
            [row.ids for row in rows],
            seeds,
            sampling,
            automaton=limits.automaton,
            begin=_places(rows),
            no_copy=limits.no_copy,
            logits_processor=limits.logits_processor,
            until=stopped if stop else None,
        )
        samples = collect(list(steps), len(rows), sampling.details)
        texts = self.decoded([own + ids for own, ids in zip(owns, samples.ids, strict=True)])
        made = []
        for i, (ids, text) in enumerate(zip(samples.ids, texts, strict=True)):
            detail = samples.details[i] if samples.details is not None else None
            drawn = tokens = [*ids, self._lines.stop] if detail is not None and len(detail.log_prob) > len(ids) else ids
            if written is not None and written.over[i]:  # all that follows belongs to no text
                tokens, text = self.cut(written, i, owns[i], ids)
            shown = Text(text, indices[i], samples.finished[i], [], prompt=rows[i].prompt, source=rows[i].source)
            made.append(_Drawn(shown, rows[i], tokens, drawn, detail))
        return made

    def _shown(self, drawn: "_Drawn") -> Text:
        """Return a text with its details, where they were asked for."""
        detail = drawn.detail
        if detail is None:
            return drawn.text
        own, sampled, entropy = (
            x[: len(drawn.ids)].tolist() for x in (detail.log_prob, detail.sampling_log_prob, detail.entropy)
        )
        names = [self.tokenizer.id_to_token(t) for t in drawn.ids]
        shown = replace(drawn.text, tokens=names, log_prob=sum(own), log_probs=own)
        return replace(shown, sampling_log_probs=sampled, entropies=entropy)

    def _resampled(self, made: Sequence["_Drawn"], seeds: torch.Tensor, n: int) -> list["_Drawn"]:
        """Return one of every n texts in a row, as the critic of a refined run chooses; `seeds` of the choices."""
        assert isinstance(self.model, refined.Model)
        # a prompt is part of the text that is judged
        prompts = {tuple(one.begin.ids): one.begin for one in made if one.begin.own}
        before = dict(zip(prompts, self.model.decoder().read([*prompts]), strict=True)) if prompts else {}
        details = []
        for one in made:
            assert one.detail is not None
            key = tuple(one.begin.ids)
            details.append(joined([before[key], one.detail]) if key in before else one.detail)
        scores = self.model.scores(self.model.features([[*one.begin.own, *one.drawn] for one in made], details))
        chosen = self.model.chosen(scores.view(-1, n), seeds).tolist()
        return [made[k * n + i] for k, i in enumerate(chosen)]

    def chosen(self, ids: Sequence[Sequence[int]], seed: torch.Tensor) -> int:
        """Return which of the candidates of one text of a refined run it is.

        `ids` are those of each, prompt and end included; `seed` (1,) is that of the first.
        """
        assert isinstance(self.model, refined.Model)
        details = self.model.decoder().read([[self._lines.start, *row] for row in ids])
        scores = self.model.scores(self.model.features(ids, details))
        return int(self.model.chosen(scores[None], seed))

    def cut(self, written: StopStrings, row: int, own: Sequence[int], ids: Sequence[int]) -> tuple[list[int], str]:
        """Return the tokens and the text, its prompt `own` included, of a row that has come to a stop string."""
        begin, text = self.decoded([own, [*own, *ids]])
        tokens = list(ids[: written.kept(row, text[len(begin) :])])
        text = text[: len(begin) + written.lengths[row]]
        while tokens and self.decoded([[*own, *tokens[:-1]]])[0].startswith(text):
            tokens = tokens[:-1]  # its last bytes were no character, as the token after them showed
        return tokens, text

    def growing(self, prompts: Sequence[Sequence[int]], stop: Sequence[str]) -> StopStrings:
        """Return the texts after prompts, token by token, to the first stop string."""
        return StopStrings(IncrementalDetokenizer(self.tokenizer, prompts, running=self.running), len(prompts), stop)

    def decoded(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of every row; running text has line breaks."""
        if self.running:
            return [self.tokenizer.decode_stream(row) for row in ids]
        return list(self.tokenizer.decode(ids))


@dataclass(frozen=True)
class _Drawn:
    """A text that was drawn, and what is known of it."""

    text: Text
    begin: "Beginning"
    ids: list[int]
    """The tokens that belong to it, its end included where the model's values of it are known."""
    drawn: list[int]
    """All tokens: those of a stop string too, which the text does not show."""
    detail: Details | None
    """What the model thinks of all of them, where that was asked for."""

    @property
    def log_prob(self) -> float:
        """Log-probability of all tokens, nats; 0 of texts without details."""
        return 0.0 if self.detail is None else sum(self.detail.log_prob.tolist())


@dataclass(frozen=True)
class _Limits:
    """What holds for all texts of a call by construction."""

    automaton: automata.Automaton | None
    no_copy: automata.NoCopy | None = None
    logits_processor: LogitsProcessor | None = None


@dataclass(frozen=True)
class Beginning:
    """What stands before a text."""

    prompt: str
    ids: list[int]
    """What the model reads: its start, a condition, the prompt."""
    own: list[int]
    """Those that are part of the text: the prompt's."""
    place: int
    """The automaton's state behind them."""
    source: str = ""
    """The condition."""


def _places(rows: Sequence[Beginning]) -> list[int] | None:
    """Return the automaton's states before texts; None: its start."""
    places = [row.place for row in rows]
    return places if any(places) else None


def _chosen_among(options: TextOptions) -> bool:
    """Return whether texts are chosen among more, so that which is the last one depends on all."""
    return bool(options.unique or options.novel_against) or options.match is not None


def check_resampled(options: Drawing, n: int) -> None:
    """Raise ValueError for an option that changes how the n candidates of each text are drawn, or cuts them."""
    names = {one.name for cls in (Sampling, Constraints) for one in fields(cls)} | {
        "stop",
        "no_copy",
        "best_of",
        "logits_processor",
    }
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name in names - {"details"} and value != option.default and value not in ([], ()):
            raise ValueError(
                f"{option.name} must be left out: a refined run keeps one of {n} texts that its base draws as it is, "
                "at temperature 1; resample = 1 gives texts of the base, with every option"
            )


def _check_texts(options: Any, *lists: str) -> None:
    """Raise TypeError for several texts where one is expected, or one for several: its characters would be."""
    if not isinstance(options.prompt, str):
        got = type(options.prompt).__name__
        raise TypeError(f"prompt must be one text, got {got}; give several as prompts=[...]")
    for name in lists:
        if isinstance(getattr(options, name), str):
            raise TypeError(f"{name} must be a list of texts, got one text; put it into a list")
