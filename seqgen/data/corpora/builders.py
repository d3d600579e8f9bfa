"""Corpora made on the spot: from the user's own Python installation, and from the grammars that come with the package.

`python_docs` is English prose: sentences of the help topics and of the standard library's docstrings. `python_code` is
the standard library's source. Both are read as text, no module is run or imported. They differ with the Python version,
so figures that others are to compare with should come from a known set or a grammar.
Run: seqgen corpus build python-docs --out docs.txt, seqgen corpus sample captions --count 10000 --seed 1
"""

import ast
import inspect
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from seqgen.core.errors import DataError
from seqgen.core.files import write_text
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.formats import table_row

_SKIPPED = {
    # tests repeat themselves, and these hold tables, other people's packages or programs beside the library
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages", "__pycache__"),
    *("encodings", "pydoc_data", "_bundled", "lib-dynload"),
}
_SHORTEST, _LONGEST = 5, 40  # Words of a sentence.


def python_docs() -> Iterator[str]:
    """Return sentences of Python's help topics, then of its library's docstrings, each once, a line each.

    Only plain sentences: a capital letter first, a full stop at the end, no code, markup, lists or tables.
    """
    seen: set[str] = set()
    for text in (*_help_topics(), *_docstrings()):
        for sentence in sentences(text):
            key = sentence.lower()
            if key not in seen:
                seen.add(key)
                yield sentence


def python_code() -> Iterator[str]:
    """Return the lines of the standard library's source files by their names, an empty line between two files.

    Tests, tables, generated files and files that are not UTF-8 are left out.
    """
    for number, source in enumerate(_sources()):
        if number:
            yield ""
        yield from source.removesuffix("\n").split("\n")


def grammar_lines(path_or_name: str | Path, count: int, seed: int) -> Iterator[str]:
    """Return `count` lines of a grammar; a labelled one has a header first, `label TAB text`, as .tsv files."""
    grammar = Grammar.load(path_or_name)
    if grammar.labels:
        yield "label\ttext"
    for line in grammar.sample(count, seed):
        yield table_row(line.split("\t", 1)).removesuffix("\n") if grammar.labels else line


BUILDERS: dict[str, Callable[[], Iterable[str]]] = {"python-docs": python_docs, "python-code": python_code}
"""What `seqgen corpus build` knows, by name."""


def write_lines(path: str | Path, lines: Iterable[str]) -> int:
    """Write lines to a UTF-8 file, which appears whole or not at all, and say how many they were."""
    written = [line + "\n" for line in lines]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(path), "".join(written))
    return len(written)


def sentences(text: str) -> Iterator[str]:
    """Return the plain sentences of a documentation text, in its order, without markup."""
    for paragraph in _paragraphs(text):
        for sentence in _SENTENCE_END.split(_unmarked(paragraph)):
            if _is_plain(sentence):
                yield sentence


def _library() -> list[Path]:
    """Return the standard library's source files, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in root.rglob("*.py") if not _SKIPPED.intersection(path.relative_to(root).parts[:-1])]
    if not files:
        raise DataError(f"{root}: no source files; this Python has its standard library packed or compiled only")
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _sources() -> Iterator[str]:
    for path in _library():
        try:
            source = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue  # a file in another encoding, a few old ones are
        generated = re.search(r"(?i)\b(auto-?generated|generated (by|from|and|automatically))\b", source[:2000])
        longest = max(map(len, source.split("\n")))
        if source.strip() and not generated and longest <= 500 and "\0" not in source:
            yield source.replace("\r\n", "\n")


def _docstrings() -> Iterator[str]:
    for source in _sources():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old escapes in the library's strings are not ours to mend
                tree = ast.parse(source)
        except SyntaxError:
            continue  # templates that only look like Python
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def _help_topics() -> list[str]:
    """Return the texts of help(), parsed from their file: a dictionary of strings."""
    path = Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py"
    if not path.is_file():
        return []  # some systems pack it apart
    strings = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Dict))
    values = [value for node in strings for value in node.values]
    return [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]


_BULLET = re.compile(r"\s*([-*+•]|\(?[0-9a-zA-Z]{1,3}[.)])\s")
_RULE = re.compile(r"\s*[=\-~^*#\"'`+._]{3,}\s*$")
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bvs\.)(?<!\bcf\.)(?<!\bDr\.)(?<!\bMr\.)\s+(?=[A-Z])"
)


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs that are running text, each on one line."""
    for block in re.split(r"\n[ \t]*\n", inspect.cleandoc(text)):
        lines = block.expandtabs().split("\n")
        margins = {len(line) - len(line.lstrip()) for line in lines}
        # uneven margins are lists, signatures with their text, or code
        if len(margins) > 1 or any(_BULLET.match(line) or _RULE.match(line) for line in lines):
            continue
        if any(
            re.search(r"\S {3,}\S", line) or line.lstrip().startswith((">>>", "...", "$", "#", "|")) for line in lines
        ):
            continue  # columns, sessions and tables
        yield " ".join(line.strip() for line in lines)


def _unmarked(text: str) -> str:
    """Return a paragraph without reST markup: roles, literals, emphasis, references."""
    text = re.sub(r":[a-z:+-]+:`[~!]?(?:([^`<]*?)\s*<[^`>]*>|([^`]*))`", lambda m: m[1] or m[2] or "", text)
    text = re.sub(r"``([^`]*)``|`([^`<]+?)(?:\s*<[^`>]*>)?`_{0,2}", lambda m: m[1] or m[2] or "", text)
    text = re.sub(r"(?<![\w*])\*{1,2}(\w(?:[^*]*\w)?)\*{1,2}(?![\w*])", r"\1", text)
    text = re.sub(r"\s*\[[0-9#]+\]_?", "", text)
    return re.sub(r"\s+", " ", text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0xA0: " "})).strip()


_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;.'\"()?!-]*[A-Za-z0-9)\"]\.")
_NOT_PROSE = re.compile(
    r"\w\(|\(\)|--|\.\.|\.\w|[,;][^\s\"']|\s[,.;)?!]|\(\s"  # calls, dashes, dots inside names, loose signs
    r"|\w- |[.?!] |\"\""  # words cut at the end of a line, two sentences in one
    r"|[a-z][A-Z]|\b[A-Za-z]*[0-9][A-Za-z]|\b[A-Z]{2,}[a-z]"  # names in camel case, names with digits
)


def _is_plain(sentence: str) -> bool:
    words = sentence.split()
    if not _SHORTEST <= len(words) <= _LONGEST or not _PLAIN.fullmatch(sentence):
        return False
    readable = sentence.replace("e.g.", "for").replace("i.e.", "that")
    if _NOT_PROSE.search(readable[:-1]):
        return False
    letters = sum(character.isalpha() or character == " " for character in sentence)
    known = sum(word.strip(",;.'\"()?!").islower() for word in words[1:])
    balanced = sentence.count('"') % 2 == 0 and sentence.count("(") == sentence.count(")")
    quotes = len(re.findall(r"(?<!\w)'|'(?!\w)", sentence))
    return letters >= 0.9 * len(sentence) and known >= 0.7 * (len(words) - 1) and balanced and quotes % 2 == 0
