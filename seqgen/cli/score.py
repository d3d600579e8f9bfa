"""How good text is: `seqgen score`, `evaluate`, `bleu`, `self-bleu`. The last two need no run and no torch."""

import inspect
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from seqgen.cli import images, output
from seqgen.cli.flags import names
from seqgen.cli.options import (
    Command,
    Encoding,
    Field,
    Format,
    Json,
    Open,
    Opening,
    Reading,
    Resample,
    Run,
    check_domain,
    check_writable,
    makes_images,
    open_run,
    read_for,
    refuse,
    training_file,
)
from seqgen.engine.folder import is_run

if TYPE_CHECKING:
    from seqgen.engine.evaluate import Table
    from seqgen.engine.generate import TextGenerator
    from seqgen.metrics import Score, Signature

Rank: TypeAlias = Literal["token", "line", "worst"]

_LONG = ("default", "ffd-2")
"""Protocols whose tables are longer than a screen."""

_HELD_OUT = 2000
"""Held-out lines that percentiles are taken from, at most."""

File = Annotated[str, typer.Argument(metavar="FILE", help="Lines of text; - is standard input.", show_default=False)]


def score(
    run: Run,
    file: File,
    by: Annotated[
        Literal["likelihood", "critic"],
        typer.Option(
            "--by",
            metavar="NAME",
            help="Score by likelihood, or by critic: how real a line looks to that of a seqgan or a refined run.",
        ),
    ] = "likelihood",
    per_token: Annotated[
        bool, typer.Option("--per-token", help="Also write every token's value, and the suspect spans.")
    ] = (False),
    outliers: Annotated[
        str,
        typer.Option("--outliers", metavar="SHARE", help="Write only the least likely lines: 1% of them, or a number."),
    ] = "",
    rank: Annotated[
        Rank,
        typer.Option(
            "--rank",
            metavar="NAME",
            help="Order lines by token, nats per token; line, nats of the line; or worst, its least likely token.",
        ),
    ] = "token",
    hits: Annotated[
        str,
        typer.Option(
            "--hits",
            metavar="K[,K]",
            help="Also how often the next token is among the K likeliest, and the mean reciprocal rank.",
        ),
    ] = "",
    precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option("--precision", metavar="NAME", help="Of likelihoods: fp32, or bf16, which is less exact."),
    ] = "fp32",
    resample: Resample = None,
    field: Field = "",
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Score every line of a file, by likelihood or a critic.

    The least likely come first; with --by critic the least real.
    Lines are ordered by --rank, or by the critic's logit: above 0 a line looks real. The percentile says how many of
    the run's held-out lines are less likely still: noise, markup and foreign lines are near 0. A token's value
    is its log-probability, or what it adds to the logit; suspect spans are tokens in a row that are as low as the
    lowest 1 % of held-out tokens. Output: tab-separated with a header, or an object a line.
    """
    from seqgen.data.formats import table_row

    outlier_count(outliers, 1)  # a wrong value is refused before anything is scored
    most = _hits(hits)
    if by == "critic" and most:
        raise output.CommandError("--hits is for --by likelihood")
    generator = open_run(run, opening)
    records = read_for(generator, file, Reading([file], field, format, encoding))
    rows = [row for row, line in enumerate(records.texts) if line.strip()]
    if not rows:
        raise output.CommandError(f"{file}: only blank lines; expected text to score")
    lines = [records.texts[row] for row in rows]
    if by == "critic" and rank != "token":
        raise output.CommandError(
            f"--rank {rank} is for --by likelihood; --by critic orders lines by the critic's logit"
        )
    for flag, given in (("--resample", resample is not None), ("--precision", precision != "fp32")):
        if by == "critic" and given:
            raise output.CommandError(f"{flag} is for --by likelihood")
    if by == "critic" and per_token and generator.settings.name == "refined":
        raise output.CommandError("--per-token: the critic of a refined run looks at whole lines")
    likelihood = partial(_likelihood, rank=rank, resample=resample, precision=precision)
    scorer = likelihood if by == "likelihood" else _critic_scores
    with output.wrong_values():
        sources = None if records.sources is None else [records.sources[row] for row in rows]
        ranked = _ranked(generator.ranks(lines, sources), most) if most else ""
        scored = scorer(generator, lines, sources)
    held_out = _held_out(generator, scorer)
    threshold = _threshold(held_out) if per_token else None
    known = sorted(held_out.order) if held_out is not None else []
    order = sorted(range(len(lines)), key=scored.order.__getitem__)
    for number, i in enumerate(order[: outlier_count(outliers, len(order))]):
        record: dict[str, Any] = {"line": records.numbers[rows[i]], **scored.columns(i), "percentile": None}
        if known:
            record["percentile"] = 100 * bisect_left(known, scored.order[i]) / len(known)
        if per_token:
            record["per_token"] = list(zip(scored.tokens[i], scored.values[i], strict=True))
            record["suspect"] = _spans(scored.tokens[i], scored.values[i], threshold)
        record["text"] = lines[i]
        if number == 0 and not json:
            output.write(table_row(record))
        output.write(output.json_line(record) if json else _tsv(record))
    output.say(scored.total + ranked)


def _hits(typed: str) -> list[int]:
    """Return the values of --hits; CommandError for what is no list of them."""
    words = typed.split(",") if typed else []
    if not all(word.strip().isdecimal() and int(word) for word in words):
        raise output.CommandError(f"--hits must be integers >= 1, separated by commas, got {typed!r}")
    return [int(word) for word in words]


def _ranked(ranks: list[list[int]], most: list[int]) -> str:
    """Return the shares of tokens among the likeliest, and the mean reciprocal rank."""
    flat = [rank for row in ranks for rank in row]
    shares = [f"hit@{k} {sum(rank <= k for rank in flat) / len(flat):.4f}" for k in most]
    return f"; {', '.join(shares)}, mean reciprocal rank {sum(1 / rank for rank in flat) / len(flat):.4f}"


@dataclass(frozen=True)
class _Scored:
    """Lines scored by likelihood or by a critic."""

    order: list[float]
    """What lines are sorted by, the worst the lowest."""
    columns: Callable[[int], dict[str, Any]]
    tokens: list[list[str]]
    values: list[list[float]]
    total: str


def _likelihood(
    generator: "TextGenerator",
    lines: list[str],
    sources: list[str] | None,
    *,
    rank: Rank,
    resample: int | None,
    precision: Literal["fp32", "bf16"],
) -> _Scored:
    scores = generator.score(lines, sources, resample=resample, precision=precision)
    whole = scores.per_line
    means = [value / len(row) for value, row in zip(whole, scores.log_probs, strict=True)]
    worst = list(map(min, scores.log_probs))

    # a bound has names of its own: whoever reads log_prob takes it for exact
    mark = "bound_" if scores.bound else ""

    def columns(i: int) -> dict[str, Any]:
        values = {"log_prob": whole[i], "tokens": len(scores.log_probs[i]), "nats_per_token": -means[i]}
        return {
            name if name == "tokens" else mark + name: v for name, v in (values | {"worst_token": worst[i]}).items()
        }

    total = (
        f"{len(lines)} lines, {scores.total_tokens} tokens: {'at most ' * bool(mark)}"
        f"{scores.nats / scores.total_tokens:.4f} nats per token (perplexity {scores.perplexity:.2f}), "
        f"{scores.nats_per_character:.4f} per character"
    )
    if scores.bound:
        total += f"; an upper bound by {scores.bound}, not to be compared with exact values"
    if scores.resample > 1:
        total += f", by q_{scores.resample}: each text one of {scores.resample}; tokens have the values of the base"
    order = {"token": means, "line": whole, "worst": worst}[rank]
    return _Scored(order, columns, scores.tokens, scores.log_probs, total)


def _critic_scores(generator: "TextGenerator", lines: list[str], sources: list[str] | None) -> _Scored:
    found = generator.critic_scores(lines)
    if not any(found.tokens):  # the critic of a refined run looks at whole lines, and has no zero
        total = (
            f"{len(lines)} lines; the score is log p_data - log p of each up to a constant, as the critic estimates it"
        )
        return _Scored(
            found.per_line, lambda i: {"critic_score": found.per_line[i]}, found.tokens, found.per_token, total
        )

    def columns(i: int) -> dict[str, Any]:
        return {"critic_score": found.per_line[i], "tokens": len(found.tokens[i])}

    real = sum(value > 0 for value in found.per_line)
    total = f"{len(lines)} lines, {real} of them look real to the critic ({100 * real / len(lines):.1f} %)"
    return _Scored(found.per_line, columns, found.tokens, found.per_token, total)


def _held_out(generator: "TextGenerator", scorer: Callable[..., _Scored]) -> _Scored | None:
    """Score the run's own held-out lines; None where its text is not at hand."""
    from seqgen.core.errors import DataError

    try:
        data = generator.own_text()
    except DataError as error:
        output.say(f"warning: no percentiles: {error}")
        return None
    sources = data.valid_sources[:_HELD_OUT] if data.valid_sources is not None else None
    return scorer(generator, list(data.valid_lines[:_HELD_OUT]), sources)


def _threshold(held_out: _Scored | None) -> float | None:
    """Return the highest of the lowest 1 % of the held-out tokens' values."""
    if held_out is None:
        return None
    values = sorted(value for row in held_out.values for value in row)
    return values[(len(values) - 1) // 100]


def _spans(tokens: Sequence[str], values: Sequence[float], threshold: float | None) -> list[str] | None:
    """Return tokens in a row that are not above the threshold."""
    if threshold is None:
        return None
    spans: list[list[str]] = []
    for i, (token, value) in enumerate(zip(tokens, values, strict=True)):
        if value <= threshold:
            if i == 0 or values[i - 1] > threshold:
                spans.append([])
            spans[-1].append(token)
    return [" ".join(span) for span in spans]


def outlier_count(outliers: str, lines: int) -> int:
    """Return how many lines `1%` or `20` are of so many; all of them for "". CommandError for another share."""
    if not outliers:
        return lines
    number, percent = outliers.removesuffix("%"), outliers.endswith("%")
    try:
        value = float(number) if percent else int(number)
    except ValueError:
        value = -1.0
    if not (0 < value <= 100 if percent else value >= 1):
        raise output.CommandError(
            f"--outliers must be a share such as 1% or a number of lines such as 20, got {outliers!r}"
        )
    return max(1, math.ceil(lines * value / 100)) if percent else int(value)


def _tsv(record: dict[str, Any]) -> str:
    from seqgen.data.formats import table_row

    words = dict(record)
    if "per_token" in words:
        words["per_token"] = " ".join(f"{token}:{value:.3f}" for token, value in words["per_token"])
        words["suspect"] = " | ".join(words["suspect"] or ())
    words["percentile"] = "" if words["percentile"] is None else words["percentile"]
    return table_row(f"{value:.4f}" if isinstance(value, float) else str(value) for value in words.values())


_ALIGNED, _JUDGE = "Texts with a reference each", "A language model as judge"


def evaluate(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="A run folder, which makes samples, or a file of texts or images.")
    ],
    references: Annotated[
        str,
        typer.Option(
            "--references",
            metavar="FILE",
            help="Real text that the run was not trained on: a file, or the test part of a set.",
        ),
    ] = "",
    train: Annotated[
        str,
        typer.Option(
            "--train", metavar="FILE", help="Training text, for novelty, the column of real text and the 5-gram model."
        ),
    ] = "",
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="NAME", help="Evaluation protocol: default, texygen ...")
    ] = "default",
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="NAME",
            help="How the protocol default and --aligned cut lines: auto, split, nltk (no sentence splitting), 13a, zh "
            "or char.",
        ),
    ] = "auto",
    count: Annotated[
        int, typer.Option("--count", metavar="N", help="Number of samples; 0: as many as references, at most 10,000.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed of the samples and of what is drawn.")] = 0,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="Temperature of the samples.")] = 1.0,
    resample: Resample = None,
    latents: Annotated[
        int,
        typer.Option("--latents", metavar="K", help="Latent codes that estimate a reference's likelihood under a VAE."),
    ] = 100,
    domain: Annotated[
        str,
        typer.Option(
            "--domain",
            metavar="NAME",
            help="Add the share of texts of a domain: python, that parse; or molecules: MOSES's table alone.",
        ),
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Show every number, not the first dozen alone.")] = False,
    aligned: Annotated[
        bool,
        typer.Option(
            "--aligned", help="Score text i against reference i alone, as of translations.", rich_help_panel=_ALIGNED
        ),
    ] = False,
    num_beams: Annotated[
        int,
        typer.Option(
            "--num-beams",
            metavar="N",
            help="Search a run's answers with N beams; 0 draws them.",
            rich_help_panel=_ALIGNED,
        ),
    ] = 5,
    lowercase: Annotated[
        bool, typer.Option("--lowercase", help="Lower-case the texts first.", rich_help_panel=_ALIGNED)
    ] = False,
    judge: Annotated[
        Path | None,
        typer.Option(
            "--judge",
            metavar="RUN",
            help="Run of lm on real text that adds its scores, the Fréchet distance and MAUVE.",
            rich_help_panel=_JUDGE,
        ),
    ] = None,
    reverse: Annotated[
        bool,
        typer.Option(
            help="Also train a model on the samples and score real text with it.",
            rich_help_panel=_JUDGE,
        ),
    ] = True,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Where the latents of images come from; repeat for several.",
        ),
    ] = None,
    features: images.Features = "",
    field: Field = "",
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Score samples beside real text: the whole table.

    A 5-gram model of the same text stands there too; images stand beside held-out ones.
    Read samples against real text, not against 0 or 1: a Self-BLEU below that of real text is not better. The last
    column is how far samples are from it. Likelihood stands in nats per character and per line, which models with other
    tokenizers have in common; --all adds what is per token. Running text is compared line by line.
    With --aligned, text i has reference i: BLEU and chrF as sacreBLEU computes them (but 0..1), tokenised BLEU and
    exact matches with their 95 % intervals; a run with conditions answers those of the references.
    A run of images takes --count, --seed, --latents, --method, --features, --all, --json, --step and --device; images
    made elsewhere (a folder, .npz, .npy, .zip) --references, a set or a path, --count, --seed, --features, --all and
    --json. Their features may also be given: --features MADE.npy with --references REAL.npy, a row for each image.
    """
    output.at_least(0, count=count)
    output.at_least(1, latents=latents)
    if count == 1:
        raise output.CommandError("--count must be 0 or an integer >= 2, got 1")
    if aligned:
        why = "--aligned scores every line against its own reference"
        refuse(
            context,
            why,
            {
                "train",
                "protocol",
                "count",
                "resample",
                "judge",
                "reverse",
                "features",
                "everything",
                "method",
                "domain",
            },
        )
    elif num_beams != 5 or lowercase:
        typed = "--lowercase" if lowercase else "--num-beams"
        raise output.CommandError(f"{typed} takes no effect without --aligned")
    output.at_least(0, num_beams=num_beams)
    if domain:
        from seqgen.metrics.domains import DOMAINS

        check_domain("--domain", domain, DOMAINS)
    if judge is None and not reverse:
        raise output.CommandError("--no-reverse takes no effect without --judge")
    if aligned and (makes_images(Path(subject)) or images.holds_images(Path(subject))):
        raise output.CommandError("--aligned is for text; images are scored as sets")
    if makes_images(Path(subject)):
        images.refuse(context, "subject", "method", "latents", *names(Open), *_OF_IMAGES)
        shown = images.evaluate(
            Path(subject),
            count=count,
            seed=seed,
            latents=latents,
            method=method or (),
            features=features,
            opening=opening,
        )
        _keep(Path(subject), shown.to_dict())
        _show(shown, everything=everything, json=json)
        return
    if images.holds_images(Path(subject)):
        if not references:
            raise output.CommandError(
                f"--references is missing: the real images, a set or a path; {subject} has images"
            )
        images.refuse(context, "subject", "references", *_OF_IMAGES)
        shown = images.evaluate_given(subject, references, count=count, seed=seed, features=features)
        _show(shown, everything=everything, json=json)
        return
    if features:
        raise output.CommandError("--features is for images; features of text: --judge RUN")
    if method:
        raise output.CommandError("--method is for images; a text is scored as it is")
    if not references:
        raise output.CommandError(f"--references is missing; see: {context.command_path} --help")
    from seqgen.engine import evaluate as evaluation

    if subject != "-" and not Path(subject).exists():
        raise output.CommandError(f"{subject}: no such run or file")
    run = Path(subject) if is_run(subject) else None
    if run is None:
        refuse(
            context,
            f"{subject} is a file, scored as it is",
            {"temperature", "resample", "latents", "num_beams", *names(Open)},
        )
    else:
        check_writable(run)
        output.at_least(0, temperature=temperature)
    train = training_file(train)
    reading = Reading([subject, references, train], field, format, encoding)
    options: dict[str, Any] = {"protocol": protocol, "tokenizer": tokenizer, "count": count, "seed": seed}
    with output.wrong_values(), output.warnings_said():
        if domain == "molecules":
            table = _of_molecules(context, run or subject, references, train, reading, opening)
        elif aligned:
            how: dict[str, Any] = {"tokenizer": "13a" if tokenizer == "auto" else tokenizer, "lowercase": lowercase}
            if run is None:
                lines, real_lines = reading.lines(subject), reading.lines(references)
                _check_aligned(subject, lines, references, real_lines)
                table = evaluation.evaluate_aligned(lines, real_lines, **how)
            else:
                generator = open_run(run, opening)
                real = read_for(generator, references, reading)
                how |= {"num_beams": num_beams, "seed": seed, "temperature": temperature, "latents": latents}
                table = evaluation.evaluate_aligned(generator, real.texts, sources=real.sources, **how)
        elif run is None:
            own = reading.lines(train) if train else None
            held_out = reading.lines(references)
            table = evaluation.evaluate(reading.lines(subject), held_out, train=own, **options)
        else:
            generator = open_run(run, opening)
            real = read_for(generator, references, reading)
            held_out = evaluation.in_lines(real.texts) if generator.running else real.texts
            own = read_for(generator, train, reading).texts if train else None
            table = evaluation.evaluate(
                generator,
                real.texts,
                train=own,
                sources=real.sources,
                temperature=temperature,
                latents=latents,
                resample=resample,
                **options,
            )
        if domain and domain != "molecules":
            table = evaluation.with_domain(table, domain)
        if judge is not None:
            from seqgen.engine.judge import judged

            table = judged(table, open_run(judge, Open(device=opening.device)), held_out, reverse=reverse)
    if run is not None:
        _keep(run, table.to_dict())
    _show(table, everything=everything, json=json)


def _of_molecules(
    context: typer.Context, subject: Path | str, references: str, train: str, reading: Reading, opening: Open
) -> "Table":
    """Score a run, or a file, as molecules; the set moses is compared with by the statistics that come with it."""
    from seqgen.engine.molecules import check_extra, evaluate_molecules

    refuse(context, "--domain molecules", {"protocol", "tokenizer", "latents", "judge", "reverse"})
    check_extra("--domain molecules")
    chosen = {name: context.params[name] for name in ("seed", "temperature", "resample")}
    given = open_run(subject, opening) if isinstance(subject, Path) else reading.lines(subject)
    return evaluate_molecules(
        given,
        None if references == "moses" else reading.lines(references),
        train=reading.lines(train) if train else None,
        count=context.params["count"] or _MOLECULES,
        device=opening.device,
        **chosen,
    )


_MOLECULES = 10_000
"""Samples that are taken for molecules unless --count says how many; MOSES takes 30,000."""

_OF_IMAGES = ("count", "seed", "features", "everything", "json")


def _show(table: "Table", *, everything: bool, json: bool) -> None:
    if json:
        output.write(output.json_line(table.to_dict()))
    else:
        _write_table(table, everything=everything)


def _write_table(table: "Table", *, everything: bool) -> None:
    """Write the first metrics, or all: values, how far from real ones, and how each number was made."""
    from seqgen import metrics

    rows = {metric.name: (metric, scores) for metric, scores in table.rows()}
    headlines = [name for name in metrics.shown("evaluate") if name in rows]
    chosen = list(rows) if everything or table.protocol not in _LONG else headlines
    columns = [column.name for column in table.columns]
    real = next((i for i, name in enumerate(columns) if name in ("real text", "real")), 0)
    cells: list[list[str]] = []
    odd: dict[str, list[str]] = {}
    for name in chosen:
        metric, scores = rows[name]
        apart = metrics.misfits(scores)
        for column, reason in zip(columns, apart, strict=True):
            if reason:
                odd.setdefault(f"{column} differs in {reason}", []).append(name)
        values = [metrics.figure(score) + ("†" if reason else "") for score, reason in zip(scores, apart, strict=True)]
        far = "" if not real or apart[real] else metrics.apart(scores[0], scores[real])
        cells.append([metric.arrow, name, metric.unit, *values, *([far] if real else [])])
    head = ["", f"protocol {table.protocol}", "", *columns, *(["to real"] if real else [])]
    drawn = output.table(head, cells, left=(0, 1, 2))
    if max(map(len, drawn.splitlines())) > output.width():
        drawn = output.table(head[:2] + head[3:], [row[:2] + row[3:] for row in cells], left=(0, 1))
    output.write(drawn + "\n↑ higher is better, ↓ lower, ≈ as real ones have it\n")
    if any("±" in cell for row in cells for cell in row):
        output.write("± half of the 95 % interval; ~ a distance to real within the noise of both\n")
    output.write("".join(f"† {reason}: {', '.join(names)}\n" for reason, names in odd.items()))
    output.write("".join(f"{column.name}: {column.about}\n" for column in table.columns))
    for name in chosen:
        for column, found in zip(columns, rows[name][1], strict=True):
            if found is not None and found.note:
                output.write(f"{name}, {column}: {found.note}\n")
    made = {name: next(score for score in rows[name][1] if score is not None) for name in chosen}
    groups: dict[str, dict[str, Signature]] = {"likelihood": {}, "scores": {}, "judge": {}}
    for name, score in made.items():
        likely = any(name in column.likelihood for column in table.columns)
        group = "likelihood" if likely else "judge" if "judge" in score.signature.fields else "scores"
        groups[group][name] = score.signature
    for group, signatures in groups.items():
        if signatures:
            shared = metrics.factored(signatures)
            output.write(f"\nhow, {group}: {shared.pop('')}\n")
            output.write("".join(f"  {name}: {own}\n" for name, own in shared.items() if own))
    if len(chosen) < len(rows):
        output.say(f"{len(chosen)} of {len(rows)} numbers; --all shows the rest, --json everything about them")


def _keep(run: Path, table: dict[str, Any]) -> None:
    """Leave the table in the run's folder, where its report shows it."""
    from seqgen.core import files
    from seqgen.engine.report import write_report

    files.write_json(run / "evaluation.json", table)
    output.say(f"also in {write_report(run)}")


class BleuCommand(Command):
    """A command with one option for each field of `BleuSettings`, which it finds in `context.obj`.

    The options are made when the command runs or shows its help: numpy comes with the settings.
    """

    @property
    def params(self) -> list[Any]:
        """Return arguments and options, those of the settings included."""
        if _bleu_options()[0] not in self._params:
            arguments = sum(one.param_type_name == "argument" for one in self._params)
            self._params[arguments:arguments] = _bleu_options()
        return self._params

    @params.setter
    def params(self, own: list[Any]) -> None:
        """Take the command's own arguments and options."""
        self._params = own

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with the texts that the settings have in the library."""
        from seqgen.core.options import help_texts
        from seqgen.metrics import BleuSettings

        texts = help_texts(BleuSettings)
        for option in _bleu_options():
            option.help = texts[option.name]
        super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Run the command with the settings that were typed."""
        from seqgen.metrics import BleuSettings

        given = {option.name: ctx.params.pop(option.name) for option in _bleu_options()}
        given |= {"orders": _orders(given["orders"]), "tokenizer": _tokenizer(given["tokenizer"])}
        with output.wrong_values():
            if given["weights"] is not None:
                given["weights"] = _weights(given["weights"])
            ctx.obj = BleuSettings(**given)
        return super().invoke(ctx)


@cache
def _bleu_options() -> list[Any]:
    from seqgen.metrics import BleuSettings

    def options() -> None:
        """Stand for a command that has these options alone."""

    parameters = []
    for one in fields(BleuSettings):
        kind, default = (bool, False) if one.type == "bool" else (str | None, one.default)
        if one.name == "orders":
            flag, metavar, default = "--order", "N", "4"  # one score unless several are named
        else:
            flag, metavar = f"--{one.name}", "W,W" if one.name == "weights" else "NAME"
        option = typer.Option(flag, metavar=None if kind is bool else metavar)
        parameters.append(
            inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
            )
        )
    options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(options)
    return list(typer.main.get_command(app).params)


def bleu(
    context: typer.Context,
    hypotheses: Annotated[str, typer.Argument(metavar="HYP", help="Texts to score, one a line.", show_default=False)],
    references: Annotated[
        list[str], typer.Argument(metavar="REF", help="Real text; all lines together.", show_default=False)
    ],
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Line i of every REF is a reference of line i of HYP alone.")
    ] = False,
    field: Field = "",
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
) -> None:
    """Compute BLEU of the lines of HYP against all lines of REF.

    Each score comes with its 95 % interval and its signature, which states how it was made.
    """
    from seqgen import metrics

    reading = Reading([hypotheses, *references], field, format, encoding)
    lines, real = reading.lines(hypotheses), [reading.lines(file) for file in references]
    if aligned:
        for file, others in zip(references, real, strict=True):
            _check_aligned(hypotheses, lines, file, others)
    shared = None if aligned else [line for others in real for line in others]
    own = [list(row) for row in zip(*real, strict=True)] if aligned else None
    with output.wrong_values():
        scores = metrics.bleu_orders(lines, shared, context.obj, references_per_hypothesis=own)
    _write_scores(scores, json=json)


def self_bleu(
    context: typer.Context,
    file: File,
    sample: Annotated[
        int | None, typer.Option("--sample", metavar="N", help="Score N lines, drawn by --seed, among themselves.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed that draws the lines of --sample.")] = 0,
    field: Field = "",
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
) -> None:
    """Compute Self-BLEU, the BLEU of every line against all others.

    Lower is more diverse, and real text of the same size is the measure: below it is not better.
    """
    from seqgen import metrics

    if seed and sample is None:
        raise output.CommandError("--seed takes no effect without --sample")
    lines = Reading([file], field, format, encoding).lines(file)
    with output.wrong_values():
        scores = metrics.self_bleu_orders(lines, context.obj, sample=sample, seed=seed)
    _write_scores(scores, json=json)


def _check_aligned(file: str, lines: list[str], other: str, others: list[str]) -> None:
    if len(others) != len(lines):
        raise output.CommandError(f"--aligned: {file} has {len(lines)} lines, {other} {len(others)}; expected as many")


def _tokenizer(name: str) -> Any:
    """Return a tokenizer of the metrics by name, or that of a run by its folder."""
    folder = Path(name) / "tokenizer"
    if not folder.is_dir():
        return name
    from seqgen.data.tokenizers import load_tokenizer

    own = load_tokenizer(folder)

    def tokens(line: str) -> list[int]:
        return own.encode([line]).row(0).tolist()

    tokens.__qualname__ = f"{own.kind}-{own.fingerprint[:8]}"  # what the signature calls it
    return tokens


def _orders(text: str) -> tuple[int, ...]:
    """Return `4`, `2-5` or `2,4` as numbers."""
    orders: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise output.CommandError(
                f"--order must be a number such as 4, a range such as 2-5 or a list, got {text!r}"
            )
        if dash and int(first) > int(last):
            raise output.CommandError(f"--order must be a range from low to high, got {text!r}")
        if not 1 <= int(first) <= int(last or first) <= 9:
            raise output.CommandError(f"--order must be in 1..9, got {text!r}")
        orders += range(int(first), int(last or first) + 1)
    return tuple(orders)


def _weights(text: str) -> tuple[float, ...]:
    """Return `.5,.5` as numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise output.CommandError(
            f"--weights must be numbers such as .5,.5, one for each order, got {text!r}"
        ) from None


def _write_scores(scores: "dict[int, Score]", *, json: bool) -> None:
    for one in scores.values():
        output.write(f"{one.json() if json else one}\n")
