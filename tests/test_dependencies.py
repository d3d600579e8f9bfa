"""docs/dependencies.md: every package that pyproject.toml names, with the licence that its own metadata states."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = {
    re.split(r"[^\w-]", requirement)[0]
    for requirements in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in requirements
} - {PROJECT["name"]}
ROWS = {
    name: cells[1].split(", ")
    for line in (ROOT / "docs/dependencies.md").read_text(encoding="utf-8").splitlines()
    if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) >= 3
    for name in cells[0].split(", ")
    if name not in ("package", "---")
}
# as trove classifiers, which older metadata has in place of an expression, write them
CLASSIFIERS = {"PSF": "Python Software Foundation License", "Apache-2.0": "Apache Software License"}


def test_every_package_is_listed_and_no_other() -> None:
    assert set(ROWS) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_licence_is_that_of_the_package_s_own_metadata(name: str) -> None:
    try:
        stated = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-").splitlines()
    version = metadata.version(name).partition("+")[0]
    if f"{name.lower().replace('_', '-')}=={version}" not in pins:
        pytest.skip(f"{name} {version} is not the version that is listed")
    if stated["License-Expression"]:
        expression = re.sub(r" WITH [\w.-]+", "", stated["License-Expression"])
        assert set(ROWS[name]) == set(re.split(" AND | OR ", expression.replace("(", "").replace(")", "")))
    else:
        found = [one for one in stated.get_all("Classifier", []) if one.startswith("License ::")] or [stated["License"]]
        assert all(CLASSIFIERS.get(licence, licence) in " ".join(found) for licence in ROWS[name])
