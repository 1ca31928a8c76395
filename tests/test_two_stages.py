"""TwoStages: what both stages give, and what is logged of them. Interruptions are in test_resume.py."""

import numpy as np
import pytest
from killed_training import Recorded, synthetic

from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.metrics import classification
from cxr.training import two_stages
from cxr.training.fitting import best_epoch

SETTINGS = TrainParams(
    weights="none",
    batch_size=8,
    image_size=32,
    transfer_epochs=2,
    fine_tune_epochs=2,
    extra_heads=1,
    checkpoint_every=1,
    shortcut="transfer",
    placebo=True,
)


class Logged(Recorded):
    """A run that also records how it is closed."""

    def __init__(self):
        super().__init__()
        self.values, self.models, self.ends = {}, {}, []

    def params(self, values):
        self.values |= values

    tags = params

    def json(self, values, name):
        self.files[name] = values

    def describe(self, text, *, figure=None):
        self.ends.append(("described", figure))

    def finish(self):
        self.ends.append(("finished", None))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_CACHE", str(tmp_path_factory.mktemp("cache")))
        run = Logged()
        patch.setattr(two_stages.tracking, "log_dataset", lambda **about: run.values.update(dataset=about))
        patch.setattr(two_stages.tracking, "log_model", lambda name, **about: run.models.update({name: about}))
        patch.setattr(two_stages.tracking, "register", lambda **about: run.ends.append(("registered", None)))
        dataset = synthetic(SETTINGS)
        vars(dataset)["random_markers"] = dataset.images[::-1]
        stages = two_stages.TwoStages(dataset, SETTINGS, run)
        for step in (stages.fine_tune, lambda: stages.finish(overview=None)):
            with pytest.raises(InputError, match="in this order"):
                step()
        results = stages.transfer(), stages.fine_tune()
        with pytest.raises(InputError, match="in this order"):
            stages.finish(overview=None)
        results += (stages.more_training(),)
        for step in (stages.transfer, stages.fine_tune, stages.more_training):
            with pytest.raises(InputError, match="in this order"):
                step()
        folder = stages.backup.folder
        assert folder.is_dir()
        stages.finish(overview="figure")
        assert not folder.exists(), "the backup is deleted"
        yield dataset, run, stages, results


def test_each_stage_gives_its_checkpoint(trained):
    dataset, _, stages, (before, after, continued) = trained
    assert (before.stage, before.checkpoint) == ("transfer", "before")
    assert (after.stage, after.checkpoint) == ("fine_tuning", "after")
    assert (continued.stage, continued.checkpoint) == ("more_training", "continued")
    test = dataset.rows("test")
    for result in (before, after, continued):
        epochs = [1, 2] if result is not continued else list(range(1, best_epoch(after.history) + 1))
        assert result.history["epoch"].tolist() == epochs and result.seconds > 0
        np.testing.assert_array_equal(result.predictions.filter(regex=r"^p_\d$").to_numpy(), result.probabilities)
        expected = classification.performance(dataset.labels[test], result.probabilities[test], dataset.classes)
        assert {key: result.performance[key] for key in expected} == expected
        assert result.confusion.sum() == len(test) and result.reliability["n"].sum() == len(test)
        assert 0 <= result.performance["auc_macro_random_markers"] <= 1
    assert not np.array_equal(before.probabilities, after.probabilities)
    assert not np.array_equal(after.probabilities, continued.probabilities)
    assert stages.side_by_side()["after"].to_dict() == after.performance


def test_what_is_logged(trained):
    dataset, run, stages, (before, after, continued) = trained
    assert set(run.files) == {
        *("manifest.csv", "before.keras", "after.keras", "heads.npz", "epoch_001.keras", "epoch_002.keras"),
        *("continued.keras", "checkpoints.json"),
    }
    assert set(run.tables) == {
        *("predictions_before.parquet", "predictions_after.parquet", "predictions_continued.parquet"),
        *("history_transfer.parquet", "history_fine_tuning.parquet", "history_more_training.parquet"),
        *("course.parquet", "course_predictions.parquet"),
    }
    assert run.files["checkpoints.json"] == stages.hashes
    for name in ("before", "after", "continued"):
        assert run.files[f"{name}.keras"] == stages.hashes[name]["weights_sha256"]
        assert run.values[f"checkpoint_sha256_{name}"] == stages.hashes[name]["sha256"]
    logged = {(key, step): value for key, value, step in run.metrics_logged}
    assert logged["auc_macro_before", None] == before.performance["auc_macro"]
    assert logged["auc_macro_after", None] == after.performance["auc_macro"]
    assert logged["auc_macro_continued", None] == continued.performance["auc_macro"]
    assert logged["more_training/val_loss", 1] == continued.history["val_loss"].iloc[0]
    assert logged["transfer/val_loss", 2] == before.history["val_loss"].iloc[1]
    assert logged["fine_tuning/val_loss", 2] == after.history["val_loss"].iloc[1]
    course = run.tables["course.parquet"]
    assert course["epoch"] == [0, 1, 2] and course["auc_macro"][0] == before.performance["auc_macro"]
    predicted = run.tables["course_predictions.parquet"]
    test = before.predictions["split"] == "test"
    assert predicted["epoch"] == [epoch for epoch in (0, 1, 2) for _ in range(test.sum())]
    assert predicted["p_0"][: test.sum()] == before.predictions.loc[test, "p_0"].tolist()
    assert run.values["dataset"]["digest"] == dataset.manifest_hash
    assert run.values["cxr.preprocessing"] == "tf" and run.values["weights_sha256"] == ""


def test_models_are_logged_and_the_run_is_closed_last(trained):
    _, run, stages, (_, after, _) = trained
    assert {name: model["loadable"] for name, model in run.models.items()} == {"before": False, "after": True}
    assert run.models["after"]["sha256"] == stages.hashes["after"]["sha256"]
    assert run.models["after"]["metrics"]["auc_macro"] == after.performance["auc_macro"]
    assert run.ends == [("described", "figure"), ("registered", None), ("finished", None)]
    assert "resumed" not in run.values


def test_without_the_matched_null_both_checkpoints_are_the_same(trained, tmp_path, monkeypatch):
    dataset, _, with_null, _ = trained
    monkeypatch.setenv("CXR_CACHE", str(tmp_path))
    monkeypatch.setattr(two_stages.tracking, "log_dataset", lambda **about: None)
    settings = SETTINGS.model_copy(update={"placebo": False})
    stages = two_stages.TwoStages(dataset, settings, Logged())
    stages.transfer(), stages.fine_tune()
    names = ["before", "after", "epoch_001", "epoch_002"]
    assert set(stages.hashes) == set(names)
    for name in ("before", "after"):
        assert stages.hashes[name]["weights_sha256"] == with_null.hashes[name]["weights_sha256"]
    with pytest.raises(InputError, match="set placebo to true"):
        stages.more_training()
