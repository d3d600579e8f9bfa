"""The documentation: no link is dead, every page has its place on the site, pages of models name what there is.

The slow test builds the site (extra `docs`) and looks at the pages as a browser would: links, anchors, what they load.
"""

import contextlib
import dataclasses
import importlib
import re
import shutil
import subprocess
import sys
from functools import cache, reduce
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("README*.md"), *DOCS.rglob("*.md")])
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page, as GitHub and mkdocs make it of the headings."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Relative links that lead to no file of the checkout, or to no heading of it."""
    dead = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        address, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (page.parent / unquote(address)).resolve() if address else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    assert dead_links(page) == []


def test_a_dead_link_would_be_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: three\n[a](#one-two-three) [b](#two) [c](no.md) [d](page.md#four) `[e](no.md)` [f](https://g)"
    )
    assert dead_links(page) == ["#two", "no.md", "page.md#four"]


def test_every_page_has_its_place_on_the_site():
    named = set(
        re.findall(r"(?:: |- )([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert there - named == set()
    assert {name for name in named - there if not name.startswith("notebooks/")} == {
        "index.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md",
    }  # fmt: skip


def named(name: str) -> Any:
    """What a dotted name of the package is; AttributeError where there is no such thing."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            return reduce(getattr, words[end:], importlib.import_module(".".join(words[:end])))
    raise AttributeError(name)


@pytest.mark.parametrize("page", sorted((DOCS / "models").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_of_a_model_names_code_and_settings_that_there_are(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`(seqgen(?:\.\w+)+)`", text):
        assert named(name) is not None
    if page.stem not in ("index", "mixture"):
        room = "images" if page.stem.startswith("image-") else "models"
        own = importlib.import_module(f"seqgen.{room}.{page.stem.removeprefix('image-').replace('-', '_')}")
        for option in re.findall(r"`model\.([\w.]+)", text):
            section = own.Config()
            for part in option.split("."):
                assert part in {field.name for field in dataclasses.fields(section)}, f"model.{option}"
                section = getattr(section, part)


def test_the_site_says_how_it_is_used(tmp_path):
    script = ROOT / "scripts/docs"
    for words in (["--help"], ["a", "b"]):
        done = subprocess.run(["sh", script, *words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, "usage: scripts/docs [FOLDER]\n")
    (tmp_path / "scripts").mkdir()
    shutil.copy(script, tmp_path / "scripts/docs")
    done = subprocess.run(["sh", tmp_path / "scripts/docs"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "pip install -c constraints.txt -e '.[docs]'" in done.stderr


def test_tables_of_the_critic_are_made_of_its_figures(tmp_path):
    figures = shutil.copy(DOCS / "results" / "critic.json", tmp_path)
    command = [sys.executable, ROOT / "scripts/reproduce/critic.py", "--tables", figures]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == [f"critic-{name}.png" for name in ("captions", "coco", "molecules", "snli")]
    page = (DOCS / "results" / "critic.md").read_text(encoding="utf-8")
    # each set has its rows, their distance from the language model's curve, and q_16 less every control
    made = re.split(r"\n\n(?=## |\|)", done.stdout.strip())
    found = [table for table in made if table.startswith("|")]
    assert len(found) == 12
    assert [table.split("\n")[0] for table in found if f"\n{table}\n" not in page] == []


class _Page(HTMLParser):
    """Links, anchors and loads of a built page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        loads = [values.get("src"), values.get("srcset"), values.get("data")]
        loads += (
            [values.get("href")] if tag == "link" and values.get("rel") not in ("next", "prev", "canonical") else []
        )
        self.loads += [value for value in loads if value]


@pytest.mark.slow
def test_the_built_site_has_no_dead_link_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    site = tmp_path / "site"
    done = subprocess.run(["sh", ROOT / "scripts/docs", site], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{site}/index.html\n"), done.stderr
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    remote = re.compile(r"(https?:)?//")
    dead, loaded = [], []
    for path, page in pages.items():
        loaded += [(path.name, load) for load in page.loads if remote.match(load)]
        for link in page.links:
            address, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", link) or path.name == "404.html":
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            known = pages.get(target)
            if not target.exists() or (anchor and known and unquote(anchor) not in known.anchors):
                dead.append((path.name, link))
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        loaded += [(sheet.name, load) for load in re.findall(r"url\(['\"]?(https?:[^)'\"]+)|@import ['\"](\S+)", text)]
    assert (dead, loaded) == ([], [])
    formulas = {path.stem: path.read_text(encoding="utf-8") for path in (site / "models").glob("*.html")}
    assert all('class="arithmatex"' not in text and "<merror" not in text for text in formulas.values())
    assert all("<math " in text for stem, text in formulas.items() if stem != "index")
