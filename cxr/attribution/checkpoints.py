"""The checkpoints of a train run: found, verified, loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from cxr.attribution import maps
from cxr.attribution.cases import Cases
from cxr.attribution.explaining import given_back
from cxr.core.errors import InputError
from cxr.core.files import sha256_file
from cxr.models import compiled, weights
from cxr.models.weights import Head, load_heads

if TYPE_CHECKING:
    from cxr.tracking import StoredRun

_VERIFIED = 64  # images on which a loaded model has to predict what the train run logged


class Checkpoints:
    """The checkpoints that a train run kept: `before` and `after`, those during fine-tuning, and `continued`.

    Args:
        train: the run.
        cases: the images that are explained: `load` verifies predictions on some of them.
        batch_size: images per pass.
    """

    def __init__(self, train: StoredRun, cases: Cases, *, batch_size: int = 32) -> None:
        self._train, self._cases, self._batch_size = train, cases, batch_size
        self._logged = train.json("checkpoints.json")
        self._folder: Path = train.file("checkpoints")

    @property
    def during(self) -> list[str]:
        """The names of the checkpoints during fine-tuning, `epoch_001` and so on; none if the run kept none."""
        return [name for name in self._logged if name.startswith("epoch_")]

    @property
    def continued(self) -> bool:
        """Whether the run trained on from `after` (`placebo`), and so has the checkpoint `continued`."""
        return "continued" in self._logged

    def sha256(self, name: str) -> str:
        """Of a checkpoint's file, as the train run logged it. Extra heads belong to `before`."""
        return self._logged.get(name, self._logged["before"])["sha256"]

    def load(self, name: str) -> keras.Model:
        """A checkpoint by its name.

        Raises: InputError when its file is not the one that was trained, or when the model, if it is not one
            during fine-tuning, does not predict for these images what the train run logged (see
            `maps.verify_predictions`). They are verified once for each model and checkpoint.
        """
        model = weights.load(self._verified(name), self._train.params["architecture"])
        self._verify(model, name)
        return model

    @contextmanager
    def lend(self, name: str, model: keras.Model) -> Iterator[None]:
        """Give `model`, another checkpoint of this run, the weights of `name`; at the end it has its own again.

        Functions that were compiled for the model then use these weights: they read the same variables. So one
        compilation serves all checkpoints. Raises InputError as `load`.
        """
        path = self._verified(name)
        with given_back(model.weights):
            weights.load_into(model, path)
            self._verify(model, name)
            yield

    def _verified(self, name: str) -> Path:
        """The file of a checkpoint, which is the one that was trained."""
        path = self._folder / f"{name}.keras"
        if not path.is_file() or sha256_file(path) != self.sha256(name):
            raise InputError(
                f"checkpoints/{name}.keras of run {self._train.run_id} is not the file that was trained: run "
                "1_train again"
            )
        return path

    def heads(self) -> list[Head]:
        """The weights of the extra heads of `before`, which differ by seed alone; none if the run has none."""
        path = self._folder / "heads.npz"
        return load_heads(path) if path.is_file() else []

    def _verify(self, model: keras.Model, name: str) -> None:
        if name in self._cases.predictions:  # one during fine-tuning has none
            compiled.kept(model, ("verified", self, name), partial(self._verify_now, model, name))

    def _verify_now(self, model: keras.Model, name: str) -> None:
        pixels = self._cases.pixels
        rows = np.sort(np.random.default_rng(0).permutation(len(pixels))[:_VERIFIED])
        parts = [rows[first : first + self._batch_size] for first in range(0, len(rows), self._batch_size)]
        predict = compiled.logits_and_output(model)
        found = [predict(pixels[part][..., None].astype(np.float32))[1] for part in parts]
        maps.verify_predictions(
            self._cases.predictions[name],
            self._cases.image_id[rows],
            np.concatenate([np.asarray(part) for part in found]),
            where=f"run {self._train.run_id} ({self._train.name}), {name}",
        )
