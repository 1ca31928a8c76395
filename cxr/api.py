"""What `import cxr` gives a script: two checkpoints, their maps on the same images, the overlap, a figure.

For a comparison with baselines, intervals and cautions, use `cxr drift` or `notebooks/5_drift.ipynb`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxr.core.errors import InputError
from cxr.core.params import DataParams
from cxr.metrics import map_grids, similarity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxr.pair.models import Model


def load(
    path: str | Path,
    *,
    layer: str = "penultimate",
    preprocessing: str = "auto",
    image_size: int = 0,
    module: str | Path = "",
) -> Model:
    """A trained Keras classifier, ready to be explained. Python code inside the model's file is never run.

    Args:
        path: a `.keras` file, or a `.h5` file with the whole model: a checkpoint of a study, or your own.
        layer: where its maps are computed: "penultimate", "final", "last_conv", ... or a layer's name.
        preprocessing: what the model expects of grey values 0 to 255: "auto" finds it where it shows, or "none",
            "tf", "torch", "caffe", "unit".
        image_size: the side of the images in pixels; 0: the model's own.
        module: a Python file that defines layers or functions of the model; its code is run. Empty: none.

    Returns: the model: `size` (the side of its images), `outputs` (classes), `grid` (of its maps).
    Raises: InputError for a file that is no whole Keras classifier, for a layer that it lacks, and where
        `preprocessing` has to be said.
    """
    from cxr.pair import models

    if module:
        models.use_module(str(module))
    return models.load(Path(path).stem, str(path), layer=layer, preprocessing=preprocessing, image_size=image_size)


def read_images(folder: str | Path, *, size: int) -> np.ndarray:
    """The radiographs below a folder (PNG, JPEG, TIFF, DICOM), as the networks get them.

    Args:
        folder: images lie at any depth; labels are not read.
        size: the side in pixels (`load(...).size`).

    Returns: grey values uint8 [n, size, size], sorted by path.
    Raises: InputError where there is no image, or one cannot be read.
    """
    from cxr.data import loading, manifest

    settings = DataParams(data=str(folder), pseudonymise=False)  # nothing is stored
    listed = manifest.list_images(settings, labelled=False)
    return loading.load_images(
        listed, root=manifest.data_root(settings), size=size, cache=None, lesion_contrast=settings.lesion_contrast
    )


def predict(model: Model, images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
    """Class probabilities float32 [n, n_classes] of grey images uint8 [n, size, size]."""
    from cxr.training import stages

    return stages.predict(model.network, images, batch_size)


def explain(
    model: Model,
    images: np.ndarray,
    classes: np.ndarray,
    *,
    method: str = "layercam",
    score: str = "log_odds",
    batch_size: int = 32,
) -> np.ndarray:
    """Attribution maps: where the evidence for a class of each image is.

    To compare two models, explain the same classes with both.

    Args:
        images: grey values uint8 [n, size, size].
        classes: int [n], the class that is explained, by the number of the model's output.
        method: a name from the table `cxr.core.methods`, such as "layercam" or "gradcampp".
        score: what is explained of the class: "log_odds", "logit" or "probability"; see docs/metrics.md.

    Returns: float32 [n, h, w] at the layer's own grid, at least 0, not normalised.
    Raises: InputError for an unknown method or score, or a grid under 4x4.
    """
    from cxr.attribution import explaining

    classes = np.asarray(classes)
    if classes.shape != (len(images),):
        raise InputError(f"classes: one number for each of {len(images)} images, got shape {classes.shape}")
    found = explaining.attribute(
        model.network, images, classes, layer=model.layer, methods=[method], score=score, batch_size=batch_size
    )
    return found[method]


def overlap(before: np.ndarray, after: np.ndarray, *, size: int) -> np.ndarray:
    """How much of the strongest evidence stays in place: IoU of the top 20 % of the area, image by image.

    Args:
        before, after: maps [n, h, w] of the same images in the same order, for the same classes.
        size: the side of the image grid on which they are compared, in pixels.

    Returns: float64 [n], from 0 to 1; NaN where a map is empty.
    Raises: InputError for maps of other shapes, or larger than `size`.
    """
    return similarity.compare_maps(before, after, size=size, names=["overlap"])["overlap"]


def figure(images: np.ndarray, before: np.ndarray, after: np.ndarray, *, row: int | None = None) -> Figure:
    """One image, its map before, its map after, and their difference.

    Args:
        images: grey values uint8 [n, size, size].
        before, after: maps [n, h, w] of these images.
        row: which image; None: the one with the median overlap (of two, the lower), chosen by rule, not by hand.

    Raises: InputError where every map is empty and no row is named.
    """
    from cxr.report import figures

    size = images.shape[1]
    values = overlap(before, after, size=size)
    if row is None:
        order = [number for number in np.argsort(values, kind="stable") if not np.isnan(values[number])]
        if not order:
            raise InputError("figure: every image has an empty map before or after; name an image with `row`")
        row = int(order[(len(order) - 1) // 2])
    shown = [map_grids.prepare(maps, size)[row] for maps in (before, after)]
    return figures.overlay(images[row], *shown, title=f"image {row}: overlap {values[row]:.2f}")
