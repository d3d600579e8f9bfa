"""MOSES out of its wheel: the data of a pickle without running it, against pickle itself; wheels that are none."""

import collections
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from seqgen.core.errors import DataError
from seqgen.data.corpora import known, moses


def test_the_data_of_a_pickle_is_what_pickle_gives() -> None:
    stored = {
        "FCD": {"mu": np.arange(3, dtype=np.float32), "sigma": np.arange(4.0).reshape(2, 2)},
        "SNN": {"fps": np.array([[0, 1], [255, 7]], np.uint8)},
        "Frag": {"frag": collections.Counter(["a", "a", "b"])},
        "logP": {"values": [0.5, -1.25, 3.0, 70000, 300, 7]},
        "none": [None, False, True, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    }
    ours, theirs = moses.plain(pickle.dumps(stored, protocol=2)), stored
    for name, key in (("FCD", "mu"), ("FCD", "sigma"), ("SNN", "fps")):
        assert np.array_equal(ours[name].pop(key), theirs[name].pop(key))  # type: ignore[attr-defined]
    assert ours == theirs


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch run",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_that_a_pickle_names_is_run(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"^a pickle with '.*', which plain data does not need; nothing of it was used$"
    ):
        moses.plain(pickle.dumps(Evil(), protocol=protocol))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_such_wheel_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.whl: no such file; run: pip download --no-deps molsets==0\.3\.1$"):
        moses.take(tmp_path / "no.whl", tmp_path)
    (tmp_path / "text.whl").write_text("no zip")
    with pytest.raises(DataError, match=r"text\.whl: not a wheel that can be read \(File is not a zip file\)$"):
        moses.take(tmp_path / "text.whl", tmp_path)
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("x.py", "")
    with pytest.raises(DataError, match=r"other\.whl: holds no moses/dataset/data/train\.csv\.gz; expected the wheel"):
        moses.take(tmp_path / "other.whl", tmp_path)
    with zipfile.ZipFile(tmp_path / "altered.whl", "w") as archive:
        archive.writestr("moses/dataset/data/train.csv.gz", "x")
    with pytest.raises(DataError, match=r"SHA-256 of moses/dataset/data/train\.csv\.gz is not that of molsets 0\.3\.1"):
        moses.take(tmp_path / "altered.whl", tmp_path)
    assert not (tmp_path / "text").exists()


def test_the_set_says_which_package_it_comes_in(tmp_path: Path) -> None:
    how = "pip download --no-deps molsets==0.3.1 && seqgen corpus get moses --file molsets-0.3.1-py3-none-any.whl"
    with pytest.raises(DataError) as found:
        known.get("moses", tmp_path)
    assert str(found.value) == f"moses comes in a package; run: {how}"
