"""Where the images are: the phantom, folders of classes, or a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cxr.core.errors import InputError
from cxr.core.params import DataParams
from cxr.data.folders import images_below, refuse_table_options, subfolders
from cxr.data.formats import FORMATS, SUFFIXES
from cxr.data.labels import identities
from cxr.data.tables import MASKS, PARQUET, file_paths, read_csv, read_parquet, read_table, table_rows


def source(settings: Any) -> tuple[Path | None, Path | None]:
    """(data root, table): (None, None) for the phantom, (folder, None) for folders. Raises InputError."""
    if settings.data == "phantom":
        return None, None
    if not settings.data:
        raise InputError("data: it is empty: give 'phantom', a folder with one sub-folder per class, or a table")
    path = Path(settings.data).expanduser().absolute()
    if path.is_dir():
        table = path / "manifest.csv"
        return path, table if table.is_file() else None
    if not path.exists():
        raise InputError(
            f"data: {path} does not exist: give 'phantom', a folder with one sub-folder per class, or a table"
        )
    if path.suffix.lower() not in (".csv", *PARQUET):
        raise InputError(
            f"data: {path} is neither a folder nor a .csv or .parquet file: give a folder with one sub-folder "
            "per class, or a table"
        )
    return path.parent, path


def has_labels(settings: Any) -> bool:
    """Whether the images have labels: there are class folders, or a table has the label column.

    A table that lacks a `label_column` other than "label" also counts as labelled: `tables.table_rows` then says
    what is wrong. Raises InputError like `source`, and if the table cannot be read.
    """
    root, table = source(settings)
    if root is None:
        return True
    if table is None:
        return bool(subfolders(root))
    _, found = read_parquet(table) if table.suffix.lower() in PARQUET else read_csv(table)
    return settings.label_column in found or settings.label_column != "label"


def unlabelled_rows(root: Path, table: Path | None, settings: DataParams) -> pd.DataFrame:
    """image_id, path, label ("") and patient_id of a table's images, or of all images below a folder, str.

    Also split, lesion_mask and lung_mask, if a table has them. Raises InputError.
    """
    if table is not None:
        return table_rows(table, settings, labelled=False)
    refuse_table_options(root, settings)
    paths = images_below(root, root, settings.image_folder)
    if not paths:
        raise InputError(
            f"{root}: no {FORMATS} files: give a folder with files that have one of the suffixes "
            f"{', '.join(SUFFIXES)}, or a table (CSV or Parquet) with the column path"
        )
    return pd.DataFrame({"path": paths, "label": ""}).assign(**identities(paths, settings, root))


def extra_columns(settings: DataParams) -> pd.DataFrame | None:
    """All other columns of a table (not path, label, patient, split or masks), str, "" for no value.

    The index is the path as in the manifest; all rows of the table are there, in its order. None for folders and
    the phantom. Raises InputError like `tables.table_rows` if the table cannot be read.
    """
    _, table = source(settings)
    if table is None:
        return None
    frame, _ = read_table(table, settings)
    frame = frame[frame["path"].str.strip() != ""]
    paths = file_paths(frame["path"].str.strip(), table, settings)
    own = {"path", "label", "patient_id", "split", "line", "", *MASKS}
    return frame[[name for name in frame if name not in own]].set_axis(pd.Index(paths, name="path"))
