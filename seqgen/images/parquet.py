"""Images in a column of a Parquet table, as data set hubs publish them; needs the extra `parquet` (pyarrow)."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqgen.core.errors import DataError, MissingExtraError


def image_column(path: Path) -> tuple[list[bytes], npt.NDArray[Any] | None]:
    """Return the encoded images of a table, and its column `label` where there is one.

    The column is called image or img, or is the only one of bytes; its cells are bytes, or structures with a
    field `bytes`. Raises DataError where there is none, MissingExtraError without pyarrow.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(
            f"{path}: reading .parquet needs pyarrow; run: pip install 'neural-seqgen[parquet]'"
        ) from None
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a .parquet file that can be read ({str(error).splitlines()[0]})") from None
    binary = [field.name for field in table.schema if pyarrow.types.is_binary(_bytes_of(field.type, pyarrow))]
    name = next((name for name in ("image", "img", *binary[: len(binary) == 1]) if name in binary), None)
    if name is None:
        raise DataError(
            f"{path}: holds the columns {', '.join(table.schema.names)}; expected one of images, called image, that "
            "holds encoded files (bytes)"
        )
    cells = [cell["bytes"] if isinstance(cell, dict) else cell for cell in table[name].to_pylist()]
    if None in cells:
        raise DataError(f"{path}, row {cells.index(None)}: no image in column {name}")
    return cells, np.array(table["label"].to_pylist()) if "label" in table.schema.names else None


def _bytes_of(kind: Any, pyarrow: Any) -> Any:
    """Return the type of the field `bytes` of a structure, or the type itself."""
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return kind.field("bytes").type
    return kind
