"""Where a user's images are and what is known of them: folders of classes, and manifest tables."""

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
    """(data root, manifest CSV): (None, None) for the phantom, (folder, None) for folders of classes."""
    if settings.data == "phantom":
        return None, None
    if not settings.data:
        raise InputError("data: empty: give 'phantom', a folder with one sub-folder a class, or a manifest CSV")
    path = Path(settings.data).expanduser().absolute()
    if path.is_dir():
        table = path / "manifest.csv"
        return path, table if table.is_file() else None
    if not path.exists():
        raise InputError(
            f"data: {path} does not exist: give 'phantom', a folder with one sub-folder a class, or a manifest CSV"
        )
    if path.suffix.lower() not in (".csv", *PARQUET):
        raise InputError(
            f"data: {path} is neither a folder nor a .csv or .parquet file: give the folder that holds one "
            "sub-folder a class, or a table"
        )
    return path.parent, path


def has_labels(settings: Any) -> bool:
    """Whether images have labels: class folders, or a table with the label column.

    A table is also taken for labelled where it lacks the column, other than "label", that `label_column` names:
    `table_rows` says then what is wrong. Raises InputError as `source` does, and where the table cannot be read.
    """
    root, table = source(settings)
    if root is None:
        return True
    if table is None:
        return bool(subfolders(root))
    _, found = read_parquet(table) if table.suffix.lower() in PARQUET else read_csv(table)
    return settings.label_column in found or settings.label_column != "label"


def unlabelled_rows(root: Path, table: Path | None, settings: DataParams) -> pd.DataFrame:
    """image_id, path, label (""), patient_id of a table's images, or of all below a folder, at any depth; str.

    And split, lesion_mask and lung_mask where a table has them. Raises InputError.
    """
    if table is not None:
        return table_rows(table, settings, labelled=False)
    refuse_table_options(root, settings)
    paths = images_below(root, root, settings.image_folder)
    if not paths:
        raise InputError(
            f"{root}: no {FORMATS} files: give a folder that holds some, with one of the suffixes "
            f"{', '.join(SUFFIXES)}, or a table (CSV or Parquet) with the column path"
        )
    return pd.DataFrame({"path": paths, "label": ""}).assign(**identities(paths, settings, root))


def extra_columns(settings: DataParams) -> pd.DataFrame | None:
    """What a user's table says beyond path, label, patient, split and masks, str, "" where it says nothing.

    Index: path as in the manifest, every row of the table, in its order; None for folders and the phantom.
    Raises InputError as `table_rows` does where the table cannot be read.
    """
    _, table = source(settings)
    if table is None:
        return None
    frame, _ = read_table(table, settings)
    frame = frame[frame["path"].str.strip() != ""]
    paths = file_paths(frame["path"].str.strip(), table, settings)
    own = {"path", "label", "patient_id", "split", "line", "", *MASKS}
    return frame[[name for name in frame if name not in own]].set_axis(pd.Index(paths, name="path"))
