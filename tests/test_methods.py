import numpy as np
import pandas as pd
import pytest

from cxr.core.errors import InputError
from cxr.report import comparison, methods, pictures


def test_examples_are_chosen_by_rule():
    table = pd.DataFrame(
        {
            "image_id": list("abcdefg"),
            "label": ["x"] * 5 + ["y", "y"],
            "overlap": [0.5, 0.9, 0.1, np.nan, 0.9, np.nan, np.nan],
            "centroid_shift": [0.2, 0.1, 0.3, np.nan, 0.4, np.nan, np.nan],
        }
    )
    chosen = pictures.examples(table, "overlap")
    assert chosen["label"].tolist() == ["x"] * 3, "a class of empty maps only has no example"
    assert dict(zip(chosen["rule"], chosen["image_id"], strict=True)) == {
        "least drift": "b",  # tied with e: the lower id
        "median drift": "e",  # of b, e, a, c the lower middle one
        "most drift": "c",
    }
    assert pictures.examples(table, "centroid_shift")["image_id"].tolist() == ["b", "a", "e"]
    with pytest.raises(InputError, match="gini_change has no direction"):
        pictures.examples(table, "gini_change")


def test_settled_says_what_came_first():
    course = pd.DataFrame(
        {
            "architecture": "A",
            "method": ["fast"] * 4 + ["slow"] * 4,
            "seed": 0,
            "epoch": [0, 1, 2, 3] * 2,
            "value": [1, 0.6, 0.55, 0.5, 1, 0.95, 0.9, 0.5],
            "auc": [0.9, 0.93, 0.95, 0.96] + [0.9, 0.955, 0.95, 0.96],
        }
    )
    table = comparison.settled(course, auc_margin=0.02).set_index("method")
    assert table.loc["fast", ["epoch_moved", "epoch_settled", "first"]].tolist() == [1, 2, "evidence"]
    assert table.loc["slow", ["epoch_moved", "epoch_settled", "first"]].tolist() == [3, 1, "AUC"]
    assert table["final_drift"].tolist() == [0.5, 0.5]


def parameters(**changes):
    values = dict.fromkeys(
        ("dropout", "transfer_epochs", "transfer_learning_rate", "transfer_patience", "fine_tune_epochs"), "7"
    )
    values |= {"optimizer": "adam", "fine_tune_learning_rate": "0.0003", "fine_tune_from": "", "batch_size": "32"}
    values |= {"batchnorm": "inference", "augmentation": "none", "extra_heads": "2", "image_size": "128"}
    values |= {"data": "phantom", "phantom_images": "2000", "phantom_seed": "0", "lesion_contrast": "2.5"}
    values |= {"split_seed": "3", "vary_split": "False"}
    return values | {"shortcut": "none", "weights": "source", "architecture": "A", "seed": "0"} | changes


def test_methods_are_written_from_the_parameters():
    def text(score="log_odds", level=0.95, attribution=None, **changes):
        return methods.methods_text(
            [parameters(**changes), parameters(**{"seed": "1", **changes})],
            {"images": "correct", "explain": "true", "score": score, "target_layer": "penultimate"}
            | {"baseline_draws": "4", "attribute_split": "test"}
            | (attribution or {}),
            compare={"level": level, "n_boot": 2000, "primary_metric": "overlap"}
            | {"auc_margin": 0.02, "centroid_margin": 0.5, "overlap_margin": 0.1, "majority": 0.75},
            counts=pd.DataFrame({"split": ["test"], "images": [500], "patients": [333]}),
            versions={"keras": "3.15"},
        )

    plain = text()
    assert "explain the log-odds of the true class at" in plain
    assert "explain the logit of the true class at" in text(score="logit")
    assert "2000 procedurally drawn radiographs" in plain and "nothing in them is measured from patients" in plain
    assert "test 500 (333 patients)" in plain and "seeds: 0, 1" in plain and "keras 3.15" in plain
    assert "over new trainings and new patients" in plain and "Banerjee" in plain and "at 95%" in plain
    assert "every layer trainable" in plain and "marker" not in plain
    assert "All trainings have the same splits." in plain and "given these splits" in plain
    varied = text(vary_split="True")
    assert "test 500 (333 patients) in the training with seed 0" in varied
    assert "drawn with the seed 3 + its training seed" in varied and "in the test sets of both" in varied
    assert "new splits included" in varied and "same splits" not in varied
    assert "a marker tells the class" in text(shortcut="transfer")
    assert "matched null" not in plain + text(placebo="False") and "matched null" in text(placebo="True")
    assert "on the test images that both checkpoints classify correctly." in plain
    assert "on the validation images that both" in text(attribution={"attribute_split": "val"})
    assert "on all training images." in text(attribution={"attribute_split": "train", "images": "all"})
    assert "at 99.5%" in text(level=0.995) and "at 99.9%" in text(level=0.999)
    assert "*two heads*" in plain and "(transfer heads" not in text(extra_heads="0") + text(augmentation="light")
    assert "and *two seeds* (fine" in plain and "*two seeds*" not in text(seed="0")
    assert "Splits are stratified by class and grouped by patient: test" in plain
    assert "Splits are those that the data give, or else stratified by class" in text(data="xrays")
    assert "Splits are stratified" in text(data="xrays", given_splits="ignore")
    many = {
        "label_map": "{'a': 'b'}",
        "multi_label": "single",
        "max_images_per_class": "40",
        "on_bad_image": "skip",
    }
    for words in (
        "labels are mapped",
        "several classes are left out",
        "at most 40 images",
        "cannot be decoded are",
    ):
        assert words in text(data="xrays", **many) and words not in text(data="xrays")
    used = {"class_weights": "True", "precision": "mixed_float16", "xla": "True", "deterministic": "False"}
    for words in ("classes weighted", "backbone in mixed_float16", "compiled with XLA", "without deterministic"):
        assert words in text(**used) and words not in plain
    assert "by 2 devices" in text(devices="2")
    findings = {"task": "multi_label", "uncertain": "ignore", "blank": "zero", "class_weights": "True"}
    several = text(data="t.csv", only="{'view': ['PA']}", **findings)
    assert "an image can have several findings; uncertain labels are left out, blank ones counted as 0" in several
    assert "only rows with" in several and "a sigmoid for each finding" in several and "softmax" not in several
    assert "of each finding that an image has at" in several
    assert "on the findings of the test images that both checkpoints call." in several
    assert "images with and without a finding weighted to count the same in the loss" in several
    assert "each patient has each of four with a chance of 35 %" in text(**findings)
    assert "highest macro AUC on the validation images" in text(fine_tune_monitor="val_auc")
    assert "images of ``` a``[b](c) ```" in text(data="a``[b](c)")
    assert "images of `xrays`" in text(data="xrays") and "all up to `pool3` frozen" in text(fine_tune_from="pool3")
