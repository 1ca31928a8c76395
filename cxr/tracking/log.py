"""Logging to the run that is open in this process: numbers, tables, figures, images, text, files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric, Param, RunTag

from cxr.core.errors import InputError
from cxr.tracking.connection import active_run_id
from cxr.tracking.names import key_of, param_value

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
from cxr.tracking.artifacts import (
    log_text,
    log_to,
    new_file,
    table_suffix,
)
from cxr.tracking.connection import mlflow_client


def log_params(run_id: str, values: Mapping[str, Any]) -> None:
    """Log parameters to any run; logging the same value twice is no error, another value is."""
    items = [Param(key, param_value(value)) for key, value in values.items()]
    for first in range(0, len(items), 100):  # MLflow's limit for one request
        mlflow_client().log_batch(run_id, params=items[first : first + 100])


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log numbers. Names may hold letters, digits, `_-./` and spaces; others become `_`.

    A value that is NaN or infinite is not logged, as SQL stores keep a NaN as 0 with a flag, and sort and plot
    it as 0; its name goes into the run's tag `cxr.undefined` (comma-separated) instead.
    """
    run_id = active_run_id()
    client = mlflow_client()
    values = {key_of(name): float(value) for name, value in metrics.items()}
    now = int(datetime.now(UTC).timestamp() * 1000)
    finite = [Metric(key, value, now, step or 0) for key, value in values.items() if math.isfinite(value)]
    for first in range(0, len(finite), 1000):  # MLflow's limit for one request
        client.log_batch(run_id, metrics=finite[first : first + 1000])
    undefined = [key for key, value in values.items() if not math.isfinite(value)]
    if undefined:
        known = client.get_run(run_id).data.tags.get("cxr.undefined", "")
        names = dict.fromkeys([*(known.split(",") if known else []), *undefined])
        client.log_batch(run_id, tags=[RunTag("cxr.undefined", ",".join(names))])


def log_table(df: pd.DataFrame, name: str) -> None:
    """Log a table as `name`, which ends in `.parquet` or `.csv` (without the index). `read_table` reads it."""
    suffix = table_suffix(name)
    with new_file(name) as path:
        df.to_parquet(path, index=False) if suffix == ".parquet" else df.to_csv(path, index=False)


def log_figure(fig: Figure, name: str) -> None:
    """Log a Matplotlib figure as `name` (`.png`, `.svg`, `.pdf`); it stays open."""
    with new_file(name) as path:
        fig.savefig(path, bbox_inches="tight", dpi=150)


def log_image(image: np.ndarray, *, key: str, step: int = 0) -> None:
    """Log an image to the run's image grid.

    Args:
        image: uint8, (height, width), (height, width, 1), (height, width, 3) or (height, width, 4).
        key: the row of the grid; characters that MLflow refuses (class names, file names) become `_`.
        step: the column.

    Synchronous: MLflow's queue would drop errors.
    """
    if image.dtype != "uint8":
        raise InputError(f"log_image('{key}') takes uint8 pixels (0 to 255), got {image.dtype}")
    mlflow_client().log_image(active_run_id(), image, key=key_of(key), step=step, synchronous=True)


def log_json(values: Any, name: str) -> None:
    """Log anything that JSON can hold. NaN and infinities, which JSON has no words for, raise ValueError."""
    log_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False), name)


def log_file(path: str | Path, artifact_dir: str = "") -> None:
    """Log a file, under its own name, into the folder `artifact_dir` of the run's artifacts."""
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file to log")
    log_to(active_run_id(), Path(path), artifact_dir)
