"""Corpora made on the spot: clean prose from documentation, committed corpora equal to what their grammars write."""

import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqgen.core.errors import DataError
from seqgen.data.corpora import builders, known
from seqgen.data.corpora.grammar import Grammar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Use :func:`open` or :meth:`the other <io.open>` to read it.", "Use open or the other to read it."),
        ("Return a *copy* of ``self`` and `the other`.", "Return a copy of self and the other."),
        ("See `the manual <http://x.org>`_ and **never** forget it.", "See the manual and never forget it."),
        ("The sentence runs\nover three lines\nand then ends.", "The sentence runs over three lines and then ends."),
        ("It’s “quoted” in the way of printed books.", 'It\'s "quoted" in the way of printed books.'),
        ("Some functions, e.g. those of the shell, return nothing.", None),
        ("The name 'spam' (and no other) is looked up again.", None),
    ],
)
def test_sentences_lose_their_markup(text: str, expected: str | None) -> None:
    assert list(builders.sentences(text)) == [expected or text]


def test_a_paragraph_is_cut_into_sentences() -> None:
    text = "Return a copy of the list.  Nothing else changes at all.\n\nThe next paragraph follows here."
    cut = ["Return a copy of the list.", "Nothing else changes at all.", "The next paragraph follows here."]
    assert list(builders.sentences(text)) == cut


@pytest.mark.parametrize(
    "text",
    [
        "Calls like foo(bar) are not prose for this corpus.",
        "An assignment such as x = y is no prose either.",
        "The snake_case_name here is a name and not a word.",
        "The CamelCase and mixedCase names are left out too.",
        "The dotted name os.path is a name and not a word.",
        "this sentence begins without a capital letter here.",
        "This sentence never comes to its end at all",
        "Four words only here.",
        "The bracket (opened here is not closed again.",
        "The quote 'opened here is not closed again ever.",
        "A heading of five words only\n============================",
        "- A bullet is not a sentence of its own.",
        "1. A number before the sentence makes it a list.",
        ">>> The prompt makes this a session of the shell.",
        "name      The columns make this line a small table.",
        "method(a, b)\n    The text under a signature is a definition list.",
        "Words cut by hy- phens are not words of the text.",
        "It costs 100 or 200 or 300 or 400 or 500 or 600.",
        "Far too many words are " + "very " * 40 + "many words.",
    ],
)
def test_what_is_not_prose_is_left_out(text: str) -> None:
    assert list(builders.sentences(text)) == []


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of five files."""
    root = tmp_path / "lib"
    for folder in ("b", "test", "pydoc_data"):
        (root / folder).mkdir(parents=True)
    doc = '"""The module does what its name says.\n\nThe second sentence is here as well.\n"""\n'
    (root / "b" / "one.py").write_text(doc + "def f():\n    '''Return what the function returns here.'''\n", "utf-8")
    (root / "a.py").write_text('"""The second sentence is here as well."""\nx = 1\n', encoding="utf-8")
    (root / "broken.py").write_text("def (:\n", encoding="utf-8")
    (root / "latin.py").write_bytes(b"# \xe9\n")
    (root / "generated.py").write_text("# auto-generated, do not edit\ny = 2\n", encoding="utf-8")
    (root / "empty.py").write_text("", encoding="utf-8")
    (root / "test" / "t.py").write_text('"""The tests are not wanted in the corpus."""\n', encoding="utf-8")
    topics = (
        "# topics\ntopics = {'if': 'The \"if\" statement\\n****\\n\\nThe \"if\" statement is used for choices.\\n'}\n"
    )
    (root / "pydoc_data" / "topics.py").write_text(topics, encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
    return root


def test_docs_are_topics_then_docstrings_each_sentence_once(library: Path) -> None:
    assert list(builders.python_docs()) == [
        'The "if" statement is used for choices.',
        "The second sentence is here as well.",
        "The module does what its name says.",
        "Return what the function returns here.",
    ]


def test_code_is_the_sources_by_name(library: Path) -> None:
    lines = list(builders.python_code())
    assert lines[:4] == [
        '"""The second sentence is here as well."""',
        "x = 1",
        "",
        '"""The module does what its name says.',
    ]
    assert lines[-2:] == ["", "def (:"]
    assert not {"y = 2", "# topics", "# \xe9"} & set(lines)


def test_a_library_without_sources_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError) as caught:
        list(builders.python_docs())
    message = f"{tmp_path}: no source files; this Python has its standard library packed or compiled only"
    assert str(caught.value) == message


@pytest.mark.slow
def test_this_python_gives_thousands_of_sentences() -> None:
    lines = list(builders.python_docs())
    assert len(lines) > 3000
    assert len(set(lines)) == len(lines)
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9 ,;.'\"()?!-]+\.", line) for line in lines)
    assert all(5 <= len(line.split()) <= 40 for line in lines)


def test_lines_are_written_whole_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.txt"
    assert builders.write_lines(path, iter(["a", "春眠"])) == 2
    assert path.read_bytes() == "a\n春眠\n".encode()

    def failing() -> Iterator[str]:
        yield "b"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builders.write_lines(path, failing())
    assert path.read_bytes() == "a\n春眠\n".encode()


# What corpora/README.md says of each: the grammar, its file, how many lines and which seed.
COMMITTED = [("captions", "captions.txt", 10_000), ("verse-zh", "verse-zh.txt", 5000), ("reviews", "reviews.tsv", 5000)]


@pytest.mark.parametrize(("name", "file", "count"), COMMITTED)
def test_committed_corpora_are_what_their_grammar_writes(name: str, file: str, count: int, tmp_path: Path) -> None:
    builders.write_lines(tmp_path / file, builders.grammar_lines(name, count, seed=1))
    committed = known.corpora_folder() / file
    assert (tmp_path / file).read_bytes() == committed.read_bytes()
    command = f"seqgen corpus sample {name} --count {count} --seed 1 --out corpora/{file}"
    assert command in (known.corpora_folder() / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "file", "count"), COMMITTED)
def test_test_parts_are_other_lines_of_the_grammar(name: str, file: str, count: int) -> None:
    train = (known.corpora_folder() / file).read_text(encoding="utf-8").splitlines()
    lines = list(builders.grammar_lines(name, 1100, seed=2))
    head = lines[:1] if file.endswith(".tsv") else []
    new = [*head, *[line for line in lines if line not in set(train)][:1000]]
    assert (known.corpora_folder() / "test" / file).read_text(encoding="utf-8").splitlines() == new


@pytest.mark.parametrize(("name", "file", "count"), COMMITTED)
def test_committed_corpora_say_little_twice(name: str, file: str, count: int) -> None:
    lines = (known.corpora_folder() / file).read_text(encoding="utf-8").splitlines()[-count:]
    assert len(lines) == count
    assert len(set(lines)) > 0.97 * count


def test_captions_are_grammatical_english() -> None:
    lines = (known.corpora_folder() / "captions.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if re.search(r"\ba [aeiou]|\ban [^aeiou]|\b(\w+) \1\b", line)]
    lengths = [len(line.split(" ")) for line in lines]
    assert min(lengths) >= 6
    assert sum(length > 20 for length in lengths) < 0.001 * len(lines)
    assert all(line == line.lower() and line.endswith(" .") for line in lines)


def test_verses_are_parallel_lines_of_five_or_seven() -> None:
    lines = (known.corpora_folder() / "verse-zh.txt").read_text(encoding="utf-8").splitlines()
    han = "[\u4e00-\u9fff]"
    shape = re.compile(f"(({han}{{5}})，({han}{{5}})。){{1,2}}|(({han}{{7}})，({han}{{7}})。){{1,2}}")
    assert all(shape.fullmatch(line) for line in lines)


def test_reviews_tell_their_label() -> None:
    lines = (known.corpora_folder() / "reviews.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "label\ttext"
    grammar = Grammar.load("reviews")
    for line in lines[1:101]:
        label, text = line.split("\t")
        # no other label writes the same text, so that a model can be asked for one
        assert grammar.log_probability(text) == pytest.approx(grammar.log_probability(line))
        assert label in grammar.labels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "ambiguous"), [("captions", 10_000, 0.0), ("verse-zh", 5000, 0.0), ("reviews", 5000, 0.01)]
)
def test_entropy_is_the_mean_surprise_of_samples(name: str, count: int, ambiguous: float) -> None:
    grammar = Grammar.load(name)
    lines = grammar.sample(count, seed=1)
    surprise = [-grammar.log_probability(line) for line in lines]
    mean = sum(surprise) / count
    deviation = (sum((value - mean) ** 2 for value in surprise) / count) ** 0.5
    assert abs(mean - grammar.entropy) < 4 * deviation / count**0.5
    twice = 0
    for line, value in zip(lines, surprise, strict=True):
        tree = grammar.parse(line)
        assert tree is not None
        twice += -tree.log_probability - value > 1e-9
    assert twice <= ambiguous * count
