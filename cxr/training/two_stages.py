"""Both stages of training of one network, with their backup and all that is logged of them.

`TwoStages` is what notebook 1 calls. What a stage does to the weights is in `cxr.training.stages`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr import tracking
from cxr.core import arrays
from cxr.core.errors import InputError
from cxr.core.files import sha256_file
from cxr.core.params import TrainParams
from cxr.data.cache import default_cache
from cxr.data.dataset import Dataset
from cxr.data.manifest import write_manifest
from cxr.metrics import classification, findings
from cxr.models import build, description, weights
from cxr.tracking import descriptions
from cxr.training import checkpointing, stages
from cxr.training.fitting import best_epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKPOINTS = {"transfer": "before", "fine_tuning": "after", "more_training": "continued"}
"""The checkpoint that each stage ends with."""


@dataclass(frozen=True)
class StageResult:
    """What one stage of training gave, at the weights of its best epoch (`cxr.training.fitting.best_epoch`).

    More training gives the weights of its last epoch instead.

    Attributes:
        stage: "transfer", "fine_tuning" or "more_training".
        checkpoint: "before", "after" or "continued".
        history: one row an epoch: epoch (1, 2, ...), loss, accuracy, val_loss, val_accuracy, seconds; and
            val_auc, where it is what fine-tuning is stopped by.
        probabilities: float32 [n, n_classes] of all images, in the order of the manifest.
        predictions: the same as a table (`cxr.training.stages.prediction_table`).
        performance: measures on the test set (`cxr.metrics.classification.performance`, or that of
            `cxr.metrics.findings`). With a shortcut also `auc_macro_random_markers`: the AUC on the same images
            with markers that say nothing about the class.
        reliability: of the probabilities on the test set (`cxr.metrics.classification.reliability`, or that of
            `cxr.metrics.findings`).
        confusion: int [n_classes, n_classes] on the test set; rows are the true classes. With several findings an
            image: int [findings, 2, 2] (`cxr.metrics.findings.confusion`).
        seconds: that the stage took, those before an interruption included.
    """

    stage: str
    checkpoint: str
    history: pd.DataFrame
    probabilities: np.ndarray
    predictions: pd.DataFrame
    performance: dict[str, float]
    reliability: pd.DataFrame
    confusion: np.ndarray
    seconds: float


class TwoStages:
    """One network, trained in two stages: call `transfer`, then `fine_tune`, then `finish`.

    With `placebo`, call `more_training` between the last two.

    Making one logs the data set (`manifest.csv`, and `skipped.csv` if files were skipped), seeds all random
    numbers, builds the network and loads its pretrained weights. It also opens the backup, a folder of the cache
    that is named after the run's fingerprint. After an interruption, a training with the same settings, data and
    code resumes from it, with the same results.

    Args:
        dataset: the images, their labels and their splits.
        settings: the notebook's parameters.
        run: the open run, to which everything is logged.

    Attributes:
        model: the network. It holds the weights that the last stage ended with.
        network: what was found of it (`cxr.models.description.describe`).
        pretrained: where its weights came from (`cxr.models.weights.load_backbone`).
        backup: what an interrupted training resumes from (`cxr.training.checkpointing.Backup`).
        hashes: of each checkpoint: `sha256` of its file; for those that a stage ended with also `weights_sha256`.

    Raises:
        InputError: the network cannot be built, or its weights cannot be had or do not fit.
    """

    def __init__(self, dataset: Dataset, settings: TrainParams, run: tracking.Run) -> None:
        self.dataset, self.settings, self.run = dataset, settings, run
        stages.seed_everything(settings.seed, deterministic=settings.deterministic)
        self.model = build.build(
            settings.architecture,
            n_classes=len(dataset.classes),
            image_size=settings.image_size,
            dropout=settings.dropout,
            devices=settings.devices,
            multi_label=settings.task == "multi_label",
        )
        self.pretrained = weights.load_backbone(self.model, settings.weights)
        self.network = description.describe(self.model)
        run.params({key: value for key, value in self.pretrained.items() if key != "weights"})
        run.tags({f"cxr.{key}": value for key, value in self.network.tags().items()})
        self._several = settings.task == "multi_label"
        self._scratch = tracking.scratch()
        self._log_dataset()
        self.backup = checkpointing.take(default_cache() / "training" / run.fingerprint, self._scratch)
        self._results: dict[str, StageResult] = {}  # of each checkpoint
        self.hashes: dict[str, dict[str, str]] = {}
        self._course: list[dict[str, float]] = []
        self._predicted: list[pd.DataFrame] = []

    def __str__(self) -> str:
        return f"{self.network.lines()}\n  weights          {self.pretrained}"

    def transfer(self) -> StageResult:
        """Stage 1: train a new head on the frozen backbone, and the extra heads (`cxr.training.stages.transfer`).

        Logs `checkpoints/before.keras`, `predictions_before.parquet`, `history_transfer.parquet`, metrics, and the
        extra heads as `checkpoints/heads.npz`.
        """
        self._require("transfer", done=[])
        started = time.perf_counter()
        found = stages.transfer(
            self.model,
            *self.dataset.for_stage("transfer"),
            self.settings,
            on_epoch=self._log_epoch("transfer"),
            backup=self.backup,
            cache=default_cache(),
        )
        result = self._conclude("transfer", found.history, started)
        if found.heads:
            weights.save_heads(self._scratch / "heads.npz", found.heads)
            self.run.file(self._scratch / "heads.npz", "checkpoints")
        return result

    def fine_tune(self) -> StageResult:
        """Stage 2: train every layer, from the checkpoint before (`cxr.training.stages.fine_tune`).

        Logs `checkpoints/after.keras`, `predictions_after.parquet`, `history_fine_tuning.parquet` and metrics.
        With `checkpoint_every` it also logs checkpoints during fine-tuning, as `checkpoints/epoch_<epoch>.keras`,
        their performance on the test set, as `course.parquet`, and what they predict for it, as
        `course_predictions.parquet`: `cxr.training.stages.prediction_table` with `epoch` (0: before).
        """
        self._require("fine_tune", done=["before"])
        started = time.perf_counter()
        if self.settings.checkpoint_every:
            self._note_performance(0, self._results["before"].probabilities)
        history = stages.fine_tune(
            self.model,
            *self.dataset.for_stage("fine_tuning"),
            self.settings,
            on_epoch=self._log_epoch("fine_tuning"),
            backup=self.backup,
        )
        result = self._conclude("fine_tuning", history, started)
        if self._course:
            self.run.table(pd.DataFrame(self._course), "course.parquet", show=False)
            self.run.table(pd.concat(self._predicted), "course_predictions.parquet", show=False)
        return result

    def more_training(self) -> StageResult:
        """The matched null: fine-tune on from the checkpoint after (`cxr.training.stages.more_training`).

        It takes as many epochs as fine-tuning took from before to after, which is at least one. Logs
        `checkpoints/continued.keras`, `predictions_continued.parquet`, `history_more_training.parquet` and
        metrics. The checkpoint is no result of the training: it is neither logged as a model nor registered.

        Raises: InputError: the settings do not ask for it, or it is not its turn.
        """
        if not self.settings.placebo:
            raise InputError("more_training: the parameters do not ask for the matched null: set placebo to true")
        self._require("more_training", done=["before", "after"])
        started = time.perf_counter()
        history = stages.more_training(
            self.model,
            *self.dataset.for_stage("fine_tuning"),
            self.settings,
            epochs=best_epoch(self._results["after"].history),
            on_epoch=self._log_epoch("more_training"),
            backup=self.backup,
        )
        return self._conclude("more_training", history, started)

    def side_by_side(self) -> pd.DataFrame:
        """Measures on the test set: one row a measure, one column a checkpoint."""
        return pd.DataFrame({name: result.performance for name, result in self._results.items()})

    def finish(self, *, overview: Figure) -> None:
        """Log what identifies the checkpoints, register the model after, close the run, and delete the backup.

        Args:
            overview: the figure below the run's description in the MLflow UI.
        """
        self._require("finish", done=["before", "after", *(["continued"] if self.settings.placebo else [])])
        settings, run = self.settings, self.run
        run.json(self.hashes, "checkpoints.json")
        run.params({f"checkpoint_sha256_{name}": self.hashes[name]["sha256"] for name in self._results})
        if self.backup.resumed:  # how many epochs of each part came from the backup
            run.params({"resumed": json.dumps(self.backup.resumed)})
        for name in ("before", "after"):
            result = self._results[name]
            tracking.log_model(
                name,
                params={key: getattr(settings, key) for key in ("architecture", "seed", "weights", "image_size")},
                metrics={key: result.performance[key] for key in ("auc_macro", "accuracy", "ece")},
                sha256=self.hashes[name]["sha256"],
                loadable=name == "after",
            )
        performances = {name: result.performance for name, result in self._results.items()}
        data = self.dataset.settings.data  # as it may be stored
        run.describe(descriptions.train({**settings.model_dump(), "data": data}, performances), figure=overview)
        tracking.register(
            architecture=settings.architecture, seed=settings.seed, weights=settings.weights, data=data
        )
        run.finish()
        self.backup.delete()

    def _require(self, step: str, *, done: list[str]) -> None:
        if list(self._results) != done:
            raise InputError(
                f"{step}: call transfer(), fine_tune(), with placebo more_training(), and finish() once each and "
                "in this order; to train again, make a new TwoStages (restart the notebook)"
            )

    def _log_dataset(self) -> None:
        write_manifest(self.dataset.manifest, self._scratch / "manifest.csv")
        self.run.file(self._scratch / "manifest.csv")
        if self.dataset.skipped:
            self.run.table(pd.DataFrame(self.dataset.skipped), "skipped.csv", show=False)
        tracking.log_dataset(**self.dataset.describe())

    def _conclude(self, stage: str, history: pd.DataFrame, started: float) -> StageResult:
        """Save the checkpoint that a stage ended with, evaluate it, and log both."""
        seconds = time.perf_counter() - started
        seconds += float(history["seconds"][: self.backup.resumed.get(stage, 0)].sum())  # before an interruption
        checkpoint, dataset, run = CHECKPOINTS[stage], self.dataset, self.run
        run.metrics({f"seconds_{stage}": seconds})
        path = self._save_checkpoint(checkpoint)
        self.hashes[checkpoint] = {
            "sha256": sha256_file(path),
            "weights_sha256": weights.sha256_weights(self.model),
        }
        path = self.backup.keep(f"predictions_{checkpoint}.npy", lambda path: np.save(path, self._predict()))
        probabilities = np.load(path, allow_pickle=False)
        measured = _Measured(dataset, probabilities)
        predictions = stages.prediction_table(
            dataset.manifest, probabilities, dataset.classes, measured.thresholds
        )
        run.table(predictions, f"predictions_{checkpoint}.parquet", show=False)
        run.table(history, f"history_{stage}.parquet", show=False)

        performance = measured.performance
        if self.settings.shortcut != "none":  # how much the predictions rely on the marker
            test = dataset.rows("test")
            swapped = stages.predict(
                self.model, arrays.Subset(dataset.random_markers, test), self.settings.batch_size
            )
            swapped = classification.performance(dataset.labels[test], swapped, dataset.classes)
            performance["auc_macro_random_markers"] = swapped["auc_macro"]
        run.metrics({f"{key}_{checkpoint}": value for key, value in performance.items()})
        self._results[checkpoint] = StageResult(
            stage=stage,
            checkpoint=checkpoint,
            history=history,
            probabilities=probabilities,
            predictions=predictions,
            performance=performance,
            reliability=measured.reliability,
            confusion=measured.confusion,
            seconds=seconds,
        )
        return self._results[checkpoint]

    def _save_checkpoint(self, name: str) -> Path:
        """Log the model as `checkpoints/<name>.keras`: as it is, or as it was saved before an interruption."""
        path = self.backup.keep(f"{name}.keras", self.model.save)
        self.run.file(path, "checkpoints")
        return path

    def _predict(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Class probabilities float32 [n, n_classes] of all images, or of some rows."""
        images = self.dataset.images if rows is None else arrays.Subset(self.dataset.images, rows)
        return stages.predict(self.model, images, self.settings.batch_size)

    def _log_epoch(self, stage: str) -> Callable[[int, Mapping[str, Any]], None]:
        every = self.settings.checkpoint_every if stage == "fine_tuning" else 0

        def on_epoch(epoch: int, metrics: Mapping[str, Any]) -> None:
            self.run.metrics({f"{stage}/{key}": value for key, value in metrics.items()}, step=epoch)
            if every and epoch % every == 0:
                name = f"epoch_{epoch:03d}"
                self.hashes[name] = {"sha256": sha256_file(self._save_checkpoint(name))}
                self._note_performance(epoch, self._probabilities_during(epoch))

        return on_epoch

    def _probabilities_during(self, epoch: int) -> np.ndarray:
        """Those of `StageResult`, after an epoch of fine-tuning; NaN for images that `_Measured` does not read."""
        dataset, rows = self.dataset, self.dataset.rows("test")
        if self._several:
            rows = np.sort(np.concatenate([dataset.rows("val"), rows]))
        path = self.backup.keep(f"course_{epoch:03d}.npy", lambda path: np.save(path, self._predict(rows)))
        probabilities = np.full((len(dataset), len(dataset.classes)), np.nan, np.float32)
        probabilities[rows] = np.load(path, allow_pickle=False)
        return probabilities

    def _note_performance(self, epoch: int, probabilities: np.ndarray) -> None:
        """Add the performance on the test set after an epoch of fine-tuning to the course, and log its AUC."""
        dataset, test = self.dataset, self.dataset.rows("test")
        measured = _Measured(dataset, probabilities)
        table = stages.prediction_table(
            dataset.manifest.iloc[test], probabilities[test], dataset.classes, measured.thresholds
        )
        self._course.append({"epoch": epoch, **measured.performance})
        self._predicted.append(table.assign(epoch=epoch))
        self.run.metrics({"course/auc_macro": measured.performance["auc_macro"]}, step=epoch)


class _Measured:
    """What predictions are worth on the test set.

    thresholds: float [findings], from the validation images (`findings.best_thresholds`); None where an image has
        one class. performance, reliability, confusion: as in `StageResult`.
    """

    def __init__(self, dataset: Dataset, probabilities: np.ndarray) -> None:
        """`probabilities`: float32 [n, n_classes] in the order of the manifest; those of train are not read."""
        test, val = dataset.rows("test"), dataset.rows("val")
        truth, p = dataset.labels[test], probabilities[test]
        self.thresholds = None
        if truth.ndim == 2:
            self.thresholds = findings.best_thresholds(dataset.labels[val], probabilities[val])
            self.performance = findings.performance(truth, p, dataset.classes, self.thresholds)
            self.reliability = findings.reliability(truth, p)
            self.confusion = findings.confusion(truth, p, self.thresholds)
        else:
            self.performance = classification.performance(truth, p, dataset.classes)
            self.reliability = classification.reliability(truth, p)
            self.confusion = classification.confusion(truth, p, len(dataset.classes))
