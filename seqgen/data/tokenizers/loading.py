"""Loading a saved tokenizer by the file of its kind."""

import os
from pathlib import Path

from seqgen.core.errors import DataError
from seqgen.core.files import read_json
from seqgen.data.tokenizers import byte_bpe, subword
from seqgen.data.tokenizers.common import FORMAT
from seqgen.data.tokenizers.kinds import kinds
from seqgen.data.tokenizers.paired import FOLDER, paired
from seqgen.data.tokenizers.protocol import Tokenizer


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer saved in a folder, with that of conditions where it has one below.

    DataError if files are missing or altered.
    """
    folder = Path(folder)
    tokenizer = _loaded(folder)
    return paired(tokenizer, _loaded(folder / FOLDER)) if (folder / FOLDER).is_dir() else tokenizer


def saved_in(folder: str | os.PathLike[str]) -> Path:
    """Return the folder of the tokenizer of a run; of any other folder itself."""
    inner = Path(folder) / "tokenizer"
    return inner if inner.is_dir() else Path(folder)


def _loaded(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{folder}: no tokenizer.json; expected a folder that a tokenizer was saved in")
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise DataError(f"{path}: expected format {FORMAT}; it was written by another version or altered")
    try:
        kind = stored["kind"]
        # kinds that are given and not trained are no values of tokenizer.kind
        module = {"sentencepiece": subword, byte_bpe.KIND: byte_bpe}.get(kind) or kinds().get(kind)
        if module is None:
            raise DataError(f"{path}: no tokenizer kind is called {kind!r}; the file is altered")
        tokenizer = module.load(stored, folder)
    except DataError:
        raise
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: {error} is missing or wrong; the file is altered") from None
    except ValueError as error:
        raise DataError(f"{folder}: altered: vocab.txt does not fit tokenizer.json ({error})") from None
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}); the tokenizer's folder is not whole"
        ) from None
    if tokenizer.fingerprint != stored.get("fingerprint"):
        raise DataError(f"{folder}: altered: the files' fingerprint is not the one stored in tokenizer.json")
    return tokenizer
