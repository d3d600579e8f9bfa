"""What mkdocs cannot do by itself for the documentation site: pages from elsewhere in the checkout, the API, formulas.

Read by mkdocs (`hooks` in mkdocs.yml); scripts/docs builds the site.
"""

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"index.md": "README.md"} | {
    name: name for name in ("README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
}
"""Pages of the site that lie outside docs."""
SKIPPED = re.compile(r"(```.*?```|~~~.*?~~~)", re.DOTALL)


def modules() -> dict[str, Path]:
    """Return every public module of the package by its dotted name, room by room."""
    found = {}
    for path in sorted((ROOT / "seqgen").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        # rooms of a word or two of documentation, and what is private or the command line's, have no page
        if name.count(".") > 1 and not re.search(r"\._|\.cli\.", name):
            found[name] = path
    return found


def on_config(config: Any) -> Any:
    """Give the API its place in the navigation."""
    rooms: dict[str, list[Any]] = {}
    for name in modules():
        room, rest = name.split(".", 2)[1:]
        rooms.setdefault(room, []).append({rest: f"api/{name}.md"})
    config.nav.append({"API": [{"Public names": "api/index.md"}, *({room: pages} for room, pages in rooms.items())]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in PAGES.items()}
    made |= {f"api/{name}.md": f"::: {name}\n" for name in modules()}
    made["api/index.md"] = public_names()
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"] = notebook(json.loads(path.read_text(encoding="utf-8")))
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def public_names() -> str:
    """Return the page of all that `import seqgen` offers: a table of names with the first lines of their docstrings."""
    tree = ast.parse((ROOT / "seqgen/__init__.py").read_text(encoding="utf-8"))
    named = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and _is(n, "_NAMES"))
    rows = []
    for module, names in named.items():
        for name in names:
            full, first = _defined(f"seqgen.{module}", name)
            rows.append(f"| [`seqgen.{name}`][{full}] | {html.escape(first)} |")
    table = "\n".join(sorted(rows, key=str.casefold))
    return f"# Public names\n\n{ast.get_docstring(tree)}\n\n| name | what it is |\n| --- | --- |\n{table}\n"


def _is(assigned: ast.Assign, name: str) -> bool:
    return ast.unparse(assigned.targets[0]) == name


def _defined(module: str, name: str) -> tuple[str, str]:
    """Return where a name is defined in the end, and the first line of its docstring."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return f"{module}.{name}", (ast.get_docstring(node) or "").split("\n")[0]
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            return _defined(str(node.module), name)
    raise LookupError(f"{name} is not defined in {module}")


def notebook(content: dict[str, Any]) -> str:
    """Return an executed notebook as Markdown."""
    parts = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                block = re.sub(r"\n\s*\n", "\n", "".join(data["text/html"]))  # an empty line would end it
                parts.append(f"<div>{block}</div>")
            elif "image/png" in data:
                parts.append(f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})")
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Make links right for the site, and names of the package in code links to the API."""
    source = page.file.src_uri
    if source.startswith("api/"):
        return markdown
    folder = (ROOT / PAGES.get(source, f"docs/{source}")).parent
    own = {str(ROOT / origin): page for page, origin in PAGES.items()}

    def target(link: re.Match[str]) -> str:
        words, address, anchor = link[1], link[2], link[3] or ""
        if not address or re.match("[a-z]+:", address):
            return link[0]
        path = (folder / address).resolve()
        relative = own.get(str(path)) or (
            str(path.relative_to(ROOT / "docs")) if path.is_relative_to(ROOT / "docs") else ""
        )
        if relative == "notebooks":
            relative = "notebooks/language-model.md"
        if relative.endswith(".ipynb"):
            relative = relative.replace(".ipynb", ".md")
        if not relative:  # a file of the checkout, of which the site has no page
            return words.removeprefix("[").removesuffix("]")
        up = "../" * source.count("/")
        return f"{words}({up}{relative}{anchor})"

    parts = SKIPPED.split(markdown)
    for place in range(0, len(parts), 2):
        text = re.sub(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)#\s]*)(#[^)\s]*)?\)", target, parts[place])
        parts[place] = re.sub(r"(?<!\[)`(seqgen\.[a-z_]+\.[\w.]+)`", r"[`\1`][\1]", text)
    return "".join(parts)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Write formulas as MathML, which browsers draw by themselves."""

    def drawn(found: re.Match[str]) -> str:
        # without the space `log p` is one word
        latex = re.sub(r"(\\(?:log|max|min|tanh)) +(?=[A-Za-z\\])", r"\1\\,", html.unescape(found[2]).strip())
        if found[1] == "span":
            return latex2mathml.converter.convert(latex)
        drawing = latex2mathml.converter.convert(latex, display="block")
        return f'<div style="overflow-x: auto; overflow-y: hidden">{drawing}</div>'

    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', drawn, content, flags=re.DOTALL)
