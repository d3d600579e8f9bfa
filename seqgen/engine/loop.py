"""The one training loop: it knows steps, files and processes, and nothing about losses.

Everything that happens at a step is a function of the step or of state in buffers, which a checkpoint holds. So a run
that is killed and started again ends with the same bytes as one that was not: no loader position, no random state.
"""

import contextlib
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from seqgen.core import dist, files, log, numerics, rng
from seqgen.core.config import to_toml
from seqgen.core.errors import ConfigError, NonFiniteError, PeerLostError, RunError
from seqgen.core.options import Sampling
from seqgen.core.update import Optimizer
from seqgen.data import rewards
from seqgen.data.tokenizers import load_tokenizer, saved_in
from seqgen.engine import checkpoint, evaluate, page, report, track
from seqgen.engine import run as runs
from seqgen.engine.folder import CONFIG, is_run
from seqgen.engine.loading import load, load_image_generator
from seqgen.engine.progress import LIKELIHOOD, Progress, display
from seqgen.engine.run import Settings
from seqgen.engine.stored import stored_sections
from seqgen.models._contract import ModelModule, check_model, check_sums
from seqgen.nn.products import linear

if TYPE_CHECKING:
    from seqgen.engine.generate import TextGenerator
    from seqgen.images.generator import ImageGenerator

_INNER = ("checkpoints", "samples")
_LOGS = ("log.jsonl", "scores.jsonl")
_MANY_WEIGHTS = 200_000
_TIMING = "timing.jsonl"  # the clock's, so no part of a state


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    folder: Path
    step: int
    reason: str
    """"finished", "stopped early", "interrupted" (SIGINT) or "terminated" (SIGTERM)."""
    module: Any = field(default=None, repr=False, compare=False)
    """The model module of your own that it was trained with, if it is one."""

    def load(self, *, step: int | None = None, device: str = "auto") -> "TextGenerator | ImageGenerator":
        """Load the run's best checkpoint, or that of `step`: what `seqgen.load` or `load_image_generator` returns."""
        opened = load if (self.folder / "tokenizer").is_dir() else load_image_generator
        return opened(self.folder, step=step, device=device, module=self.module)

    def _repr_html_(self) -> str:
        return page.fragment(report.summary(self.folder))


def train(
    settings: Settings | None,
    out: str | os.PathLike[str],
    *,
    module: runs.Module | None = None,
    source_run: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    lines: Iterable[str] | None = None,
    images: Any = None,
    tokenizer_run: str | os.PathLike[str] | None = None,
    reward: rewards.Reward | str | None = None,
    progress: Callable[[Progress], None] | bool = True,
) -> Outcome:
    """Train a run in the folder `out`, or continue it from its last checkpoint, bit for bit.

    settings: from `seqgen.config`; None continues an existing run with its own settings and `overrides`. module: where
    a run of a model of your own is continued so, its module or the path of its file, which is imported only because it
    stands here. source_run: start from another run's weights and tokenizer, and on its data where none is given. lines:
    texts from Python, in place of data.files or after them. images: an array (N, H, W) or (N, H, W, C), or a pair
    (images, labels), in place of data.files. Both are given again where a run is continued. tokenizer_run: a run whose
    tokenizer is taken, but not its weights, or a folder that a tokenizer was saved in. reward: model.reward.kind as a
    function of lines, or as FILE.py:FUNCTION, which is imported only because it stands here. progress: True shows a bar
    or lines on standard error, False nothing, a function is called with every step.

    Raises RunError where the folder holds a run with other settings, DataError for unusable text, NonFiniteError (the
    last checkpoint stays) when a loss is not finite.
    """
    folder = Path(out)
    with contextlib.ExitStack() as at_the_end:
        at_the_end.enter_context(_lost_peers(folder))
        if dist.is_main():
            at_the_end.enter_context(files.owned(folder))
            _refuse_links(folder)
        if settings is not None and settings.code:
            module = settings.module
        stored = runs.read_settings(folder, module=module) if is_run(folder) else None
        if settings is None:
            if stored is None:
                raise RunError(
                    f"{folder} is not a run folder yet; name a model: seqgen train MODEL --data FILE --out {folder}"
                )
            settings = runs.changed(stored, overrides)
        elif "data.files" not in settings.chosen and lines is None and images is None:
            if stored is not None:
                settings = runs.on_own_data(settings, stored)
            elif source_run is not None and not settings.data.files:  # a preset may name them
                settings = runs.on_data_of(settings, _source_settings(source_run, settings))
        if module is not None and not settings.code:
            raise RunError(
                f"{folder}: {settings.name} is a model of the package; a module of your own is not used with it"
            )
        if reward is not None:
            named = runs.changed(settings, {"model.reward.kind": rewards.named(reward)})
            settings = dataclasses.replace(named, chosen=settings.chosen)
        code = runs.trusted_code(settings, reward, folder, stored)
        model_module = settings.module
        made_by = getattr(model_module, "MADE_BY", "")  # optional: the command that makes such runs instead
        if made_by:
            raise ConfigError(f"a run of {settings.name} is not trained; it is made by: {made_by}")
        if settings.train.track == "tensorboard":
            track.check_installed()
        device = runs.choose_device(settings.train.device)
        if device.type == "cuda" and dist.world() > 1:
            device = torch.device("cuda", dist.local_rank())
        settings = runs.with_precision(settings, stored, device)
        numerics.configure(device, tf32=settings.train.tf32)
        if settings.train.threads:
            torch.set_num_threads(settings.train.threads)
        dist.start(device)

        origin = _open_origin(source_run, model_module) if source_run is not None and stored is None else None
        settings, part = _inherited(model_module, settings, source_run)
        tokens_of = origin[0] if origin is not None else None if tokenizer_run is None else Path(tokenizer_run)
        if tokenizer_run is not None:
            _check_tokenizer_of(tokenizer_run, settings, source_run)
        given = _given(model_module, settings.name, lines, images)
        if stored is None and dist.is_main():
            check_new(folder)
        data = _prepare(model_module, settings, folder, tokens_of, device, given)
        settings = runs.with_facts(settings, {**data.facts, "seed": settings.seed}, *data.resolved, batch=data.batch)
        if code is not None:
            data = dataclasses.replace(data, code=code)
        model = _new_model(model_module, settings, device)
        attach = getattr(model_module, "attach", None)  # optional: what only training needs of the data
        if attach is not None:
            attach(model, data)
        optimizers = model_module.optimizers(model, settings.train)
        if stored is None:
            _try_out(settings, model, data)

        notes: list[str] = []
        last: int | None = None
        if stored is None:
            if origin is not None:
                checkpoint.fill(model.get_submodule(part), origin[2], str(origin[0]))
            if dist.is_main():
                _create(folder, data, origin and origin[:2], device, runs.code_hashes(settings))
            dist.barrier()
            if origin is not None:
                # a run that breaks off before its first checkpoint must not begin again without the other's weights
                checkpoint.save(folder, 0, model, optimizers, {}, state_at_first())
            if dist.is_main():
                # last, because it is what makes the folder a run
                files.write_text(folder / CONFIG, to_toml(settings.sections()))
                if "train.precision" not in settings.chosen and settings.train.precision == "fp32":
                    notes += _gain_of_bf16(device, optimizers)
        else:
            _same_text(folder, data.fingerprint, "images" if data.tokenizer is None else "text")
            if dist.is_main():
                last, world, notes = _last_whole(folder)
                notes += runs.reconcile_settings(folder, stored, settings, last or 0, processes=(world, dist.world()))
                notes += [f"warning: {changed}" for changed in runs.changed_code(folder, settings)]
                notes += _other_origin(folder, source_run)
                notes += _other_tokenizer(folder, data, tokenizer_run)
            last = dist.from_main(last, device)
        dist.barrier()

        if progress is True:
            shown = display(getattr(model_module, "DECIDES", LIKELIHOOD))
            at_the_end.callback(shown.close)
            progress = shown.show
        session = _Session(folder, settings, model_module, model, optimizers, data, device, progress or None)
        for file in session.logs.values():
            at_the_end.callback(file.close)
        session.resume(last)
        if settings.train.track == "tensorboard" and dist.is_main():
            session.tracker = track.TensorBoard(folder)
            at_the_end.callback(session.tracker.close)
        for sentence in notes:
            session.say(sentence)
        return session.run()


def _kept(folder: Path) -> str:
    last = checkpoint.steps(folder)
    return f"the checkpoint of step {last[-1]} is kept" if last else "no checkpoint had been written yet"


@contextlib.contextmanager
def _lost_peers(folder: Path) -> Iterator[None]:
    """Say of the loss of another process what is left and how to go on."""
    try:
        yield
    except PeerLostError as error:
        raise PeerLostError(f"{error}; {_kept(folder)}; the same command again, on all machines, goes on") from error


def _refuse_links(folder: Path) -> None:
    for name in (*_INNER, *_LOGS, _TIMING, track.FOLDER):
        if (folder / name).is_symlink():
            raise RunError(
                f"{folder / name} is a link, by which training would write elsewhere; replace it by its target"
            )


def _last_whole(folder: Path) -> tuple[int | None, int, list[str]]:
    """Find the checkpoint to continue from, its number of processes, and a note on damaged ones, now set aside."""
    last, faults = checkpoint.last_whole(folder)
    if last is None:
        return None, dist.world(), []
    state = checkpoint.read_state(folder, last)
    checkpoint.check_run(folder, last)
    checkpoint.check_processes(folder, state)
    checkpoint.set_aside(folder, last)
    notes = [f"warning: {fault}; set aside as *.damaged, the checkpoint of step {last} is used" for fault in faults]
    return last, state["world"], notes


def _given(model_module: ModelModule, name: str, lines: Iterable[str] | None, images: Any) -> Any:
    """Return what was handed over in Python, of the kind that the model is trained on; TypeError for the other kind."""
    wrong, right, given = ("images", "lines", lines) if model_module.DATA == "text" else ("lines", "images", images)
    if (images if wrong == "images" else lines) is not None:
        raise TypeError(f"{name} is not trained on {wrong}; give {right}=")
    return given


def _prepare(
    model_module: ModelModule,
    settings: Settings,
    folder: Path,
    tokens_of: Path | None,
    device: torch.device,
    given: Any,
) -> Any:
    """Prepare the data of the settings: batches, held-out rows, and for text the tokenizer, new or old."""
    room = runs.data_room(model_module.DATA)
    common: dict[str, Any] = {
        "batch": settings.train.batch,
        "seed": settings.seed,
        "device": device,
        "extra_input": given,
        "fitting": {"train.batch", "data.window"} - settings.chosen,
    }
    if model_module.DATA != "text":
        return room.prepare(settings.data, **common)
    common["lines_only"] = getattr(model_module, "LINES_ONLY", False)  # optional: whether running text is of no use
    # one process of each machine reads a corpus folder to see that it was not altered
    common["verify"] = dist.local_rank() == 0
    trained = folder if is_run(folder) else tokens_of
    tokenizer_folder = saved_in(trained) if trained is not None else None
    if is_run(folder):
        stored = files.read_object(folder / "env.json", data_sha256=str).get("corpus")
        if isinstance(stored, dict) and common["verify"]:
            common["verify"] = stored
        # other text is refused as such, before what is made of it does not fit
        common["check"] = lambda fingerprint: _same_text(folder, fingerprint, "text")
    return room.prepare(settings.data, settings.tokenizer, tokenizer_folder=tokenizer_folder, **common)


def _new_model(model_module: ModelModule, settings: Settings, device: torch.device) -> Any:
    # drawn on the CPU from a seed without the rank: the same weights on every device and process
    rng.enter_step(rng.hash64("weights", settings.seed), 0)
    model = model_module.Model(settings.model)
    steering = {name: model.get_buffer(name) for name in getattr(model, "on_host", ())}  # optional: see _contract
    model = model.to(device)
    for name, buffer in steering.items():
        setattr(model, name, buffer)
    return model


def _try_out(settings: Settings, model: Any, data: Any) -> None:
    """Validate one batch and draw two tokens before step 0: what fails here would lose the run at its first validation.

    Nothing that training depends on is changed: each step and validation begins its random numbers anew.
    """
    module = settings.module
    where = settings.code or f"the model {settings.name}"
    check_model(model, settings.model, where)
    model.eval()
    what = "validate(model, batch)"
    try:
        with torch.inference_mode():
            batch = next(iter(data.validation()), None)
            sums = None if batch is None else module.validate(model, batch)
            if module.DATA == "text" and settings.train.samples:
                what = "model.decoder()"
                start = [[data.facts["start"]]] * 2
                model.decoder().decode(start, rng.text_seeds(0, 0, 2), Sampling(max_new_tokens=2))
    except Exception as error:
        if not settings.code:
            raise
        raise ConfigError(f"{where}: {what} failed: {type(error).__name__}: {error}") from error
    if batch is not None:
        check_sums(module, sums, where)


def _source_folder(source_run: str | os.PathLike[str]) -> Path:
    folder = Path(source_run)
    if not is_run(folder):
        raise RunError(f"--from {folder}: not a run folder")
    name = stored_sections(folder)["name"]
    if name in runs.model_names(made=True) and name not in runs.model_names():
        raise RunError(f"--from {folder}: a run of {name} is made and not trained; take the run that it was made from")
    return folder


def _source_settings(source_run: str | os.PathLike[str], settings: Settings) -> Settings:
    """Return the settings of the run that another one starts from."""
    return runs.read_settings(_source_folder(source_run), module=settings.module if settings.code else None)


def _open_origin(
    source_run: str | os.PathLike[str], model_module: ModelModule
) -> tuple[Path, int, dict[str, torch.Tensor]]:
    folder = _source_folder(source_run)
    step, tensors = checkpoint.best(folder)
    checkpoint.check_run(folder, step, below="tokenizer/")
    return folder, step, tensors


def _inherited(
    model_module: ModelModule, settings: Settings, source_run: str | os.PathLike[str] | None
) -> tuple[Settings, str]:
    """Return the settings of a run that starts from another, and which submodule takes its weights ("": all).

    A model module may say both by an optional `inherit(config, name, other_config) -> (config, submodule)`.
    """
    inherit = getattr(model_module, "inherit", None)
    if source_run is None or inherit is None:
        return settings, ""
    source = _source_settings(source_run, settings)
    config, part = inherit(settings.model, source.name, source.model)
    return dataclasses.replace(settings, model=config), part


def check_new(folder: Path) -> None:
    """Raise RunError where a folder holds more than a start that broke off, for example on a full disk, may leave."""
    inner = [folder / name for name in _INNER]
    first = checkpoint.folder_of(folder, 0).name
    left = {"tokenizer", "env.json"}
    left |= {p.name for p in inner if p.is_dir() and all(first in q.name for q in p.iterdir())}
    if folder.is_dir() and any(p.name not in left and not p.name.startswith(".") for p in folder.iterdir()):
        raise RunError(f"{folder} exists and is not a run folder; use another --out, or remove it")


def _stamp(data: Any) -> dict[str, Any]:
    """Return what env.json keeps of a corpus folder whose hashes were right."""
    return {"corpus": data.stamp} if data.tokenizer is not None and data.stamp else {}


def _create(
    folder: Path, data: Any, origin: tuple[Path, int] | None, device: torch.device, code: dict[str, str]
) -> None:
    """Write what a new run folder holds beside its settings."""
    for name in _INNER:
        (folder / name).mkdir(parents=True, exist_ok=True)
    if data.tokenizer is not None:
        data.tokenizer.save(folder / "tokenizer")
    env = runs.environment(device) | {"data_sha256": data.fingerprint, "processes": dist.world(), **code}
    env |= _stamp(data)
    if origin is not None:
        env["from"] = {"run": str(origin[0]), "step": origin[1]}
    files.write_json(folder / "env.json", env)


def _gain_of_bf16(device: torch.device, optimizers: Mapping[str, Optimizer]) -> list[str]:
    """Return a sentence on how much faster products are in bfloat16, where the device has units for it.

    None for a small network: its time goes elsewhere.
    """
    units = numerics.bf16_units(device)
    weights = sum(p.numel() for optimizer in optimizers.values() for p in optimizer.parameters)
    if device.type != "cpu" or not units or weights < _MANY_WEIGHTS:
        return []
    x, weight = torch.ones(256, 512), torch.ones(512, 2048)
    low = x.bfloat16(), weight.bfloat16()

    def seconds(product: Callable[[], object]) -> float:
        product()
        began = time.process_time()
        for _ in range(3):
            product()
        return time.process_time() - began

    share = seconds(lambda: low[0] @ low[1]) / seconds(lambda: linear(x, weight.t()))
    if share > 0.9:
        return []
    return [f"products in bfloat16 take {share:.0%} of float32's time here ({units}): train.precision=auto uses them"]


def _other_origin(folder: Path, source_run: str | os.PathLike[str] | None) -> list[str]:
    """Return a sentence where a run that continues did not begin with the weights of the given one."""
    origin = files.read_object(folder / "env.json", data_sha256=str).get("from")
    name = str(origin.get("run")) if isinstance(origin, dict) else ""
    if source_run is None or (name and Path(name).resolve() == Path(source_run).resolve()):
        return []
    began = f"from {name}" if name else "without another run's weights"
    return [f"warning: {folder} has begun {began} and goes on; --from {source_run} takes no effect"]


def _check_tokenizer_of(
    tokenizer_run: str | os.PathLike[str], settings: Settings, source_run: str | os.PathLike[str] | None
) -> None:
    """Refuse what a tokenizer that is given does not go with."""
    chosen = next((name for name in sorted(settings.chosen) if name.startswith("tokenizer.")), "")
    if settings.tokenizer is None:
        raise ConfigError(f"{settings.name} is a model of images and takes no tokenizer; leave out {tokenizer_run}")
    if source_run is not None:
        raise ConfigError(
            f"a run begins with the tokenizer of {source_run}, whose weights it takes, or with that of "
            f"{tokenizer_run}: give one"
        )
    if chosen:
        raise ConfigError(f"the tokenizer of {tokenizer_run} is made already; leave out {chosen}")


def _other_tokenizer(folder: Path, data: Any, tokenizer_run: str | os.PathLike[str] | None) -> list[str]:
    """Return a sentence where a run that continues has another tokenizer than the given one."""
    if tokenizer_run is None or load_tokenizer(saved_in(tokenizer_run)).fingerprint == data.tokenizer.fingerprint:
        return []
    return [f"warning: {folder} has a tokenizer of its own and goes on; that of {tokenizer_run} takes no effect"]


def state_at_first() -> dict[str, Any]:
    """Return what state.json holds before any validation."""
    return {"best_score": None, "best_step": None, "since_best": 0, "history": [], "events": [], "pending": False}


def _same_text(folder: Path, fingerprint: str, kind: str) -> None:
    before = files.read_object(folder / "env.json", data_sha256=str)["data_sha256"]
    if fingerprint != before:
        raise RunError(
            f"{folder} was trained on other {kind} (SHA-256 {before[:12]}..., now {fingerprint[:12]}...); "
            f"restore the file, or start a new run from this one: --from {folder} --out ANOTHER"
        )


class _StoppedError(BaseException):
    """A signal came in the middle of a validation."""


def alarm_is_due(before: Sequence[Mapping[str, Any]], step: int, steps: int) -> bool:
    """Return whether signs of collapse are worth a word: samples were healthy before, or half of the steps are done.

    A model begins with samples that share nothing with real text, then it repeats itself; only what was healthy can
    collapse. Healthy is a validation without signs whose samples share half of what real text shares, or whose images
    look real.
    """

    def healthy(row: Mapping[str, Any]) -> bool:
        shares = row.get("self_bleu_4", 1.0) >= 0.5 * row.get("real_self_bleu_4", 1.0)
        return row.get("signs") == [] and shares and row.get("precision", 1.0) >= 0.5

    return 2 * step >= steps or any(map(healthy, before))


class _Session:
    """One session of a run: its objects, its logs, its place in the steps."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        model_module: ModelModule,
        model: Any,
        optimizers: dict[str, Optimizer],
        data: Any,
        device: torch.device,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.folder, self.settings, self.model_module, self.model = folder, settings, model_module, model
        self.optimizers, self.data, self.device, self.progress = optimizers, data, device, progress
        self.step = 0
        self.state = state_at_first()
        self.scalars: dict[str, float] = {}
        self.scores: dict[str, Any] = {}
        self.samples: evaluate.Drawn = ()
        self.signal: int | None = None
        self.tracker: track.TensorBoard | None = None
        self.logs = {name: log.JsonLines(folder / name) for name in (*_LOGS, _TIMING)} if dist.is_main() else {}

    def resume(self, step: int | None) -> None:
        """Go back to a checkpoint, or to the very beginning, and cut the logs to what they were then."""
        known: dict[str, Any] = {}
        if step is not None:
            loaded = checkpoint.load(self.folder, step, self.model, self.optimizers)
            self.step, known = step, loaded["logs"]
            self.state = {key: loaded[key] for key in self.state}
        for name in _LOGS if self.logs else ():
            self.logs[name].cut(*known.get(name, (0,)))
        if step is not None:
            self.say(f"continuing {self.folder} from step {step}")

    def say(self, message: str) -> None:
        """Show a message; the log holds none."""
        if dist.is_main():
            if self.progress is not None:
                self.progress(Progress(self.step, self.settings.train.steps, self.scalars, self.scores, message))
            else:
                log.messages.info(message)

    def run(self) -> Outcome:
        """Train to the end, or to a signal: the loop, in reading order."""
        train = self.settings.train
        began, began_step = time.perf_counter(), self.step
        reason = "finished"
        with self._signals():
            # a validation that was cut off is made again before the next step
            whole = not self.state["pending"] or self._validated()
            while whole and self.step < train.steps and not self._stops_early():
                step = self.step
                rng.enter_step(self.settings.seed, step, dist.rank())
                self.model.train()
                batch = self.data.batches.at(step, dist.rank(), dist.world())

                # ---- one update of one network
                with self._autocast():
                    try:
                        scalars = self.model_module.train_step(self.model, self.optimizers, batch, step)
                    except NonFiniteError as error:
                        raise NonFiniteError(f"{error}; {_kept(self.folder)}") from None
                # ----

                self.step = step + 1
                ended = self.step == train.steps
                if self.step % train.log_every == 0 or ended:
                    self._log(scalars, (self.step - began_step) / (time.perf_counter() - began))
                validates = ended or bool(train.eval_every and self.step % train.eval_every == 0)
                if validates:
                    whole = self._validated()
                stop = dist.any_(self.signal is not None, self.device)
                if not validates and (stop or (train.save_every and self.step % train.save_every == 0)):
                    self._save()
                if self.progress is not None and dist.is_main():
                    self.progress(Progress(self.step, train.steps, self.scalars, self.scores, samples=self.samples))
                if stop:
                    break
        if self.signal is not None and (self.step < train.steps or not whole):
            reason = "interrupted" if self.signal == signal.SIGINT else "terminated"
        if reason == "finished" and self.step < train.steps:
            reason = "stopped early"
        if dist.is_main():
            self._remember_time(time.perf_counter() - began)
            report.write_report(self.folder)
        return Outcome(self.folder, self.step, reason, self.model_module if self.settings.code else None)

    def _stops_early(self) -> bool:
        patience = self.settings.train.patience
        return bool(patience) and self.state["since_best"] >= patience

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        on = self.settings.train.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=on)

    def _log(self, scalars: dict[str, Any], rate: float) -> None:
        self.scalars = {name: float(value) for name, value in scalars.items()}
        if dist.is_main():
            row = {"step": self.step, **self.scalars}
            self.logs["log.jsonl"].write(row)
            if self.tracker is not None:
                self.tracker.logged(row)
            self.logs["timing.jsonl"].write({"step": self.step, "steps_per_s": rate, "time": time.time()})

    def _validated(self) -> bool:
        """Save, validate, save what follows from that; False where a signal ended it, and it is to be made again."""
        if not self.state["pending"]:
            self.state["pending"] = True
            self._save()
        scores = dist.from_main(self._evaluate(), self.device)
        if scores is None:
            return False
        self.scores = scores
        if dist.is_main():
            before = log.read(self.folder / "scores.jsonl")
            row = {"step": self.step, **scores}
            self.logs["scores.jsonl"].write(row)
            if self.tracker is not None:
                self.tracker.validated(row)
            if alarm_is_due(before, self.step, self.settings.train.steps):
                for sign in scores.get("signs", ()):
                    self.say(f"step {self.step}: {sign}")
        averaging = [optimizer.averaging for optimizer in self.optimizers.values()]
        observe = getattr(self.model_module, "observe", None)  # optional: what the model module makes of a validation
        observed = observe(self.model, scores) if observe is not None else None
        decides = getattr(self.model_module, "DECIDES", LIKELIHOOD)  # optional: the score that is to be lowest
        self._judge(scores.get(decides, math.inf), observed or {})
        self.state["pending"] = False
        if observe is not None or averaging != [optimizer.averaging for optimizer in self.optimizers.values()]:
            self._save()
        elif dist.is_main():
            checkpoint.save_state(self.folder, self.step, self._positions(), self.state)
            checkpoint.prune(self.folder, self.settings.train.keep, self.state["best_step"])
        return True

    def _evaluate(self) -> dict[str, Any] | None:
        """Compute held-out likelihood, samples and their scores; None where a signal came in between."""
        self.model.eval()
        # a validation that is made again after a crash draws what the first one drew
        rng.enter_step(rng.hash64("validation", self.settings.seed), self.step, dist.rank())
        try:
            with contextlib.ExitStack() as stack, torch.inference_mode(), log.watched(self._look):
                for optimizer in self.optimizers.values():
                    stack.enter_context(optimizer.averaged())
                scores: dict[str, Any] = dict(evaluate.validate(self.model_module, self.model, self.data, self.device))
                if dist.is_main() and self.settings.train.samples:
                    shown, sampled, self.samples = evaluate.show_and_score(
                        self.model, self.data, self.settings, self.device, self.folder
                    )
                    scores |= sampled
                    for ending, content in shown.items():
                        files.write_bytes(self.folder / "samples" / f"{self.step:08d}{ending}", content)
        except _StoppedError:
            return None
        return scores

    def _look(self, what: str, done: int, total: int) -> None:
        """Show how far a validation is, between its parts, and end it where a signal has come."""
        if self.signal is not None:
            raise _StoppedError
        if self.progress is not None and dist.is_main():
            part = f"{what} {done}" + (f" of {total}" if total else "") if done else what
            self.progress(Progress(self.step, self.settings.train.steps, self.scalars, self.scores, part=part))

    def _judge(self, score: float, observed: dict[str, Any]) -> None:
        """Decide after a validation: a new best, the averaging trigger. Equal on every process.

        `observed` is what `observe` gave: "best" replaces the comparison of scores, "event" is kept in state.json.
        """
        state, train = self.state, self.settings.train
        history = state["history"]
        n = train.average_trigger
        # NT-ASGD (Merity et al. 2018, algorithm 1): worse than the best of all but the last n validations
        if n and len(history) > n and score > min(history[:-n]):
            for optimizer in self.optimizers.values():
                if not optimizer.averaging:
                    optimizer.start_averaging()
                    self.say(f"step {self.step}: validation no longer falls, averaging begins")
        if math.isfinite(score):
            history.append(score)
        if "event" in observed:
            state["events"].append({"step": self.step, "event": observed["event"]})
            self.say(f"step {self.step}: {observed['event']}")
        better = math.isfinite(score) and (state["best_score"] is None or score < state["best_score"])
        if observed.get("best", better):
            state |= {"best_score": score, "best_step": self.step, "since_best": 0}
        else:
            state["since_best"] += 1

    def _save(self) -> None:
        checkpoint.save(self.folder, self.step, self.model, self.optimizers, self._positions(), self.state)
        if dist.is_main():
            checkpoint.prune(self.folder, self.settings.train.keep, self.state["best_step"])

    def _positions(self) -> dict[str, tuple[int, str]]:
        return {name: self.logs[name].position() for name in _LOGS if self.logs}

    def _remember_time(self, seconds: float) -> None:
        env = files.read_object(self.folder / "env.json", data_sha256=str)
        env["wall_seconds"] = round(env.get("wall_seconds", 0.0) + seconds, 1)
        env |= _stamp(self.data)
        files.write_json(self.folder / "env.json", env)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the run at the next step, saved; a second SIGINT ends it at once."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number

        try:
            old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals belong to somebody else
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
