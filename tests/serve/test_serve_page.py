"""What the page of a server asks of it, and the page itself in a browser: streamed texts, a slider, a grid."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from seqgen.engine import loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.latent import LatentSpace
from seqgen.engine.loading import load, load_image_generator
from seqgen.engine.run import config
from seqgen.images.generator import ImageGenerator
from seqgen.serve.limits import Limits

pytest.importorskip("starlette", reason="needs the extra serve")


@pytest.fixture(scope="module")
def latent(run: Path, tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    """A text VAE that has hardly learnt: what it writes only has to be the library's."""
    small = ["model.hidden=8", "model.embedding=8", "model.latent=4", "train.steps=2", "train.samples=0"]
    folder = tmp_path_factory.mktemp("latent") / "latent"
    loop.train(config("text-vae", run.parent / "text.txt", overrides=small), folder, progress=False)
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ImageGenerator:
    """A GAN of images with two classes."""
    small = ["model.hidden=4", "model.latent=4", "model.labels=concat", "train.steps=2", "train.samples=0"]
    images = torch.randint(0, 256, (40, 8, 8), dtype=torch.uint8).numpy()
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    labels = ["round", "flat"] * 20
    loop.train(config("image-gan", overrides=small), folder, images=(images, labels), progress=False)
    return load_image_generator(folder, device="cpu")


@pytest.fixture(scope="module")
def all_kinds(
    serve: Callable[..., AbstractContextManager[Any]],
    generator: TextGenerator,
    latent: TextGenerator,
    pictures: ImageGenerator,
) -> Iterator[Any]:
    with serve({"sentences": generator, "latent": latent, "pictures": pictures}, Limits(max_prompt=30)) as made:
        yield made


def test_the_models_say_what_a_page_can_do_with_them(all_kinds: Any) -> None:
    cards = {card["id"]: card for card in all_kinds.ask("GET", "/v1/models")[1]["data"]}
    assert (cards["sentences"]["makes"], cards["sentences"]["interpolates"]) == ("text", False)
    assert (cards["latent"]["makes"], cards["latent"]["interpolates"]) == ("text", True)
    assert (cards["pictures"]["makes"], sorted(cards["pictures"]["labels"])) == ("images", ["flat", "round"])


def test_texts_between_two_are_the_librarys(all_kinds: Any, latent: TextGenerator) -> None:
    ends = {"begin": "the cat sees the dog here .", "end": "the man likes the bird now ."}
    status, answer = all_kinds.ask("POST", "/v1/interpolations", {"model": "latent", **ends, "steps": 5})
    assert status == 200, answer
    assert answer["texts"] == LatentSpace(latent).interpolate(ends["begin"], ends["end"], steps=5)
    drawn = all_kinds.ask("POST", "/v1/interpolations", {"model": "latent", "seed": 7})[1]["texts"]
    assert drawn == LatentSpace(latent).interpolate("", "", steps=9, seed=7)


def test_images_are_the_librarys_by_seed_and_class(all_kinds: Any, pictures: ImageGenerator) -> None:
    asked = {"model": "pictures", "n": 3, "seed": 5, "prompt": "round"}
    status, answer = all_kinds.ask("POST", "/v1/images/generations", asked)
    assert status == 200, answer
    expected = pictures.generate(3, seed=5, labels=["round"])
    for one, image in zip(answer["data"], expected, strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(one["b64_json"])))
        size = image.shape[-1]
        small = np.asarray(shown.resize((size, size), Image.Resampling.NEAREST))
        assert (small == image[0].numpy()).all()
        assert one["label"] == "round"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/completions", {"model": "pictures"}, "pictures makes images: POST /v1/images/generations"),
        ("/v1/images/generations", {"model": "latent"}, "latent writes text: POST /v1/completions"),
        ("/v1/images/generations", {"model": "pictures", "n": 0}, "n: Input should be greater than or equal to 1"),
        ("/v1/images/generations", {"model": "pictures", "prompt": "x"}, "class 'x' was never seen in training"),
        ("/v1/interpolations", {"model": "sentences"}, "sentences has no latents to interpolate; a text-vae has"),
        ("/v1/interpolations", {"model": "latent", "steps": 1}, "steps: Input should be greater than or equal to 2"),
        ("/v1/interpolations", {"model": "latent", "end": "the " * 31}, "end must have at most 30 tokens, got 31"),
        ("/v1/interpolations", {"model": "latent", "begin": "the", "source": "x"}, "trained without data.source"),
    ],
)
def test_what_a_model_cannot_do_is_said(all_kinds: Any, path: str, body: dict[str, Any], words: str) -> None:
    status, answer = all_kinds.ask("POST", path, body)
    assert (status, words in answer["error"]["message"]) == (400, True), answer


_TEXTS = st.sampled_from(["", "the cat", "the cat\nsees", "zebra", "\udcff", "the " * 40, "round"]) | st.text(
    max_size=5
)
_WRONG = st.none() | st.booleans() | st.floats() | st.lists(st.integers(), max_size=2) | st.text(max_size=3)
_FIELDS = {
    "model": st.sampled_from(["latent", "pictures", "sentences", "x"]),
    "begin": _TEXTS,
    "end": _TEXTS,
    "prompt": _TEXTS,
    "source": _TEXTS,
    "steps": st.integers(-1, 66),
    "n": st.integers(-1, 258),
    "seed": st.integers(-(2**65), 2**65),
    "response_format": st.sampled_from(["b64_json", "url"]),
}


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.fixed_dictionaries({}, optional=_FIELDS),
    wrong=st.dictionaries(st.sampled_from([*_FIELDS, "size"]), _WRONG, max_size=1),
    path=st.sampled_from(["/v1/interpolations", "/v1/images/generations"]),
)
def test_no_request_for_latents_or_images_is_answered_outside_the_protocol(
    all_kinds: Any, body: dict[str, Any], wrong: dict[str, Any], path: str
) -> None:
    usual = {"model": "latent" if "inter" in path else "pictures"}
    status, answer = all_kinds.ask("POST", path, usual | body | wrong)
    if status == 200:
        assert answer["texts" if "inter" in path else "data"]
    else:
        assert 400 <= status < 500, answer
        assert answer["error"]["message"]


class Page(HTMLParser):
    """What a page loads from elsewhere, and which words it asks its dictionaries for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str | None] = []
        self.words: set[str | None] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [given[name] for name in ("src", "href", "action") if name in given]
        if "data-t" in given:
            self.words.add(given["data-t"])


def test_the_page_loads_nothing_and_has_every_word_in_both_languages(client: Any) -> None:
    answer = client.send("GET", "/")
    content = answer.read().decode()
    page = Page(content)
    assert page.loads == ["data:,"]
    assert "script-src 'sha256-" in answer.getheader("Content-Security-Policy", "")
    words = {
        language: set(re.findall(r"(\w+): \"", re.search(rf"^  {language}: {{(.*?)}},$", content, re.S | re.M)[1]))  # type: ignore[index]
        for language in ("en", "zh")
    }
    assert words["en"] == words["zh"]
    assert page.words | set(re.findall(r"\bt\(\"(\w+)\"\)", content)) <= words["en"]


@pytest.mark.slow
def test_the_page_writes_slides_and_draws_in_a_browser(all_kinds: Any, generator: TextGenerator, browser: Any) -> None:
    from playwright.sync_api import expect

    context = browser.new_context(viewport={"width": 375, "height": 800}, locale="en")
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"http://127.0.0.1:{all_kinds.port}/")
    page.fill("#prompt", "the dog")
    page.fill("#seed", "4")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text("done")
    assert page.locator("#results .text").all_text_contents() == generator.generate(3, prompt="the dog", seed=4)
    span = page.locator("#results .text").first.locator("span").nth(1)
    span.hover()
    assert re.match(r"\w+: [\d.]+ %\n", page.locator("#tip").inner_text())
    page.locator("#results .text").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".text span.at").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == 375

    page.fill("#require", "bird, sees")
    page.fill("#bad_words", "man")
    page.click("#go")
    expect(page.locator("#status")).to_have_text("done")
    expected = generator.generate(3, prompt="the dog", seed=4, require=("bird", "sees"), bad_words=("man",))
    assert page.locator("#results .text").all_text_contents() == expected
    assert all("bird" in text and "sees" in text for text in expected)

    page.select_option("#model", "latent")
    page.select_option("#deed", "between")
    page.fill("#from", "the cat sees the dog here .")
    page.fill("#to", "the man likes the bird now .")
    page.click("#go")
    page.wait_for_selector("#between:not([disabled])")
    page.locator("#between").focus()
    page.keyboard.press("End")
    assert page.locator("#here").text_content() == page.locator("#results li").last.text_content()

    page.select_option("#model", "pictures")
    page.fill("#n", "4")
    page.click("#go")
    expect(page.locator("#results img")).to_have_count(4)
    page.click("#language")
    assert page.locator("#go").inner_text() == "生成"
    assert said == []
    context.close()


@pytest.mark.slow
def test_the_page_asks_for_the_token_and_stops_when_told(
    serve: Callable[..., AbstractContextManager[Any]], generator: TextGenerator, browser: Any
) -> None:
    from playwright.sync_api import expect

    with serve({"sentences": generator}, Limits(rows=1), "s3cret") as client:
        context = browser.new_context(locale="zh-CN")
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{client.port}/")
        expect(page.locator("#status")).to_have_text("此服务器需要令牌")
        page.fill("#token", "s3cret")
        page.keyboard.press("Tab")
        expect(page.locator("#model option")).to_have_text(["sentences"])
        page.fill("#temperature", "2")
        page.fill("#n", "64")
        page.click("#go")
        page.keyboard.press("Escape")
        expect(page.locator("#status")).to_have_text("已停止")
        page.fill("#prompt", "the zebra")
        page.click("#go")
        expect(page.locator("#status")).to_have_class("bad")
        assert "'zebra'" in page.locator("#status").inner_text()
        context.close()
