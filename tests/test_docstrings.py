"""Examples in docstrings run as they stand, on small runs: each indented block of Python in a module's docstring."""

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import seqgen
from seqgen.core.options import Sampling
from seqgen.core.rng import uniforms
from seqgen.data.detokenize import IncrementalDetokenizer, StopStrings
from seqgen.nn.sampler import keep_top_k, pick
from seqgen.serve.batching import Batch, Row

PACKAGE = Path(seqgen.__file__).parent
SMALL = {"train.steps": 2, "train.eval_every": 2, "train.samples": 0, "train.threads": 1, "model.hidden": 16}
LINES = [
    f"a {a} {v} the {b} on a bench ."
    for a in ("man", "dog", "girl")
    for v in ("sees", "has")
    for b in ("dog", "cat", "ball")
] * 20


def examples() -> dict[str, str]:
    """The indented blocks that are Python of several names, by the file they stand in."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for block in re.findall(r"(?:^|\n\n)((?:    .+\n?)+)", text):
            code = "\n".join(line.removeprefix("    ") for line in block.splitlines())
            with contextlib.suppress(SyntaxError):
                if any(isinstance(node, ast.Call) for node in ast.walk(ast.parse(code))):
                    found[path.relative_to(PACKAGE).as_posix()] = code
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files and runs that the examples name; it is the current one."""
    folder = tmp_path_factory.mktemp("docstrings")
    for name, part in (("captions.txt", LINES), ("held-out.txt", LINES[:20])):
        (folder / name).write_text("".join(f"{line}\n" for line in part))
    with contextlib.chdir(folder):
        for model, out in (("lm", "lm"), ("text-vae", "vae")):
            seqgen.train(seqgen.config(model, "captions.txt", overrides=SMALL), out=f"made/{out}", progress=False)
        seqgen.train(seqgen.config("image-gan", "digits", overrides=SMALL), out="runs/digits", progress=False)
        yield folder


def _run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "docstring", "exec"), names)
    return {**names, "printed": out.getvalue()}


def test_no_example_is_left_out() -> None:
    run = {
        "__init__.py",
        "data/detokenize.py",
        "engine/generate.py",
        "engine/latent.py",
        "images/generator.py",
        "serve/batching.py",
    }
    # the loop of a contract with `...` in it, and two sketches of signatures
    assert set(EXAMPLES) - run <= {"nn/decode.py", "models/_contract.py", "cli/flags.py"}
    assert run <= set(EXAMPLES)


@pytest.mark.parametrize(
    ("file", "trained"), [("__init__.py", ""), ("engine/generate.py", "lm"), ("engine/latent.py", "vae")]
)
def test_texts(place: Path, file: str, trained: str) -> None:
    code = (
        EXAMPLES[file]
        .replace("runs/captions", f"made/{trained}" if trained else "runs/new")
        .replace("count=1000", "count=8")
    )
    code = code.replace('{"model.hidden": 512}', repr(SMALL))
    names = _run(code, {"seqgen": seqgen, "held_out": LINES[:20]})
    assert file == "engine/latent.py" or len(names["lines"]) == 8


def test_images(place: Path) -> None:
    names = _run(EXAMPLES["images/generator.py"], {"seqgen": seqgen})
    assert names["pixels"].shape == (64, 1, 8, 8)
    assert (place / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_growing_texts(place: Path) -> None:
    generator = seqgen.load("made/lm")
    ids = generator.tokenizer.encode(["a man sees"]).values.tolist()
    known = {
        "IncrementalDetokenizer": IncrementalDetokenizer,
        "StopStrings": StopStrings,
        "tokenizer": generator.tokenizer,
    }
    names = _run(EXAMPLES["data/detokenize.py"], {**known, "prompt_ids": ids[:1], "ids": ids[1:]})
    assert names["printed"].split() == ["man", "sees"]


def test_a_batch_writes_what_the_decoder_writes(place: Path) -> None:
    generator = seqgen.load("made/lm")
    made: list[int] = []
    names = {
        "Batch": Batch,
        "Row": Row,
        "Sampling": Sampling,
        "decoder": generator.model.decoder(),
        "print": made.append,
    }
    _run(EXAMPLES["serve/batching.py"], {**names, "ids": [generator.settings.model.stop]})
    options = Sampling(max_new_tokens=50)
    written = names["decoder"].decode([[generator.settings.model.stop]], torch.tensor([7]), options)
    end = [generator.settings.model.stop] if written.finished[0] else []
    assert written.ids[0]
    assert [token.id for token in made] == written.ids[0] + end


def test_the_idea_of_decoding_writes_what_the_decoder_writes(place: Path) -> None:
    generator = seqgen.load("made/lm")
    decoder = generator.model.decoder(fast=True)
    names = {
        "prompt": [generator.settings.model.stop], "model": generator.model.stepper(fast=True),
        "max_new_tokens": 12, "temperature": 0.7, "top_k": 5,
        "output": decoder.output, "bias": decoder.output.bias, "stop": decoder.stop, "torch": torch,
        "uniforms": uniforms, "keep_top_k": keep_top_k, "pick": pick,
    }  # fmt: skip
    for k in range(6):
        seed = torch.tensor([k])
        with torch.inference_mode():
            written = _run(EXAMPLES["nn/decode.py"], {**names, "seed": seed})["written"]
        options = Sampling(temperature=0.7, top_k=5, max_new_tokens=12)
        assert written == decoder.decode([names["prompt"]], seed, options).ids[0]
