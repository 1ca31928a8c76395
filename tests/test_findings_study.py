"""A study with several findings an image, for real, and `cxr drift` on its two checkpoints."""

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import cxr
from PIL import Image

from cxr import tracking
from cxr.attribution import maps
from cxr.core.params import DataParams
from cxr.data import multi_label
from cxr.data.manifest import build_manifest
from cxr.data.phantom import cases, rendering
from cxr.metrics import findings, regions

pytestmark = pytest.mark.slow
SMALL = ("task=multi_label", "name=findings", "phantom_images=160", "method=[layercam]", "multiverse=false")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with a test set from elsewhere: 40 images in a table, some of whose labels are uncertain."""
    store = tmp_path_factory.mktemp("findings")
    manifest = build_manifest(DataParams(task="multi_label", phantom_images=40, phantom_seed=7))
    for row in manifest.itertuples():
        index = int(row.image_id.rsplit("-", 1)[1])
        drawn = rendering.render(7, index, 64, lesion_contrast=2.5, several=True)
        Image.fromarray(drawn.image).save(store / f"{row.image_id}.png")
    table = pd.DataFrame({"path": manifest["image_id"] + ".png", "patient_id": manifest["patient_id"]})
    for name in cases.FINDINGS:
        table[name.title()] = manifest[f"finding_{name}"].where(manifest.index % 7 > 0, "-1")
    table.to_csv(store / "table.csv", index=False)
    layout = {"data": str(store / "table.csv"), "task": "multi_label", "uncertain": "ignore"}
    layout |= {"label_columns": {name.title(): name for name in cases.FINDINGS}}
    (store / "elsewhere.yaml").write_text(yaml.safe_dump(layout))
    return store, cxr(*words(store), store=store)


def words(store):
    external = f"external={{elsewhere: {store / 'elsewhere.yaml'}}}"
    return "study", "params/smoke.yaml", "--set", *SMALL, external, "--out", store / "out"


@pytest.fixture
def only(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study[0]}/mlflow.db")
    tracking.connect()

    def find(stage, experiment="findings"):
        (info,) = tracking.find(stage, experiment=experiment)
        return tracking.stored(info.run_id)

    return find


def test_each_finding_of_an_image_is_explained_and_scored_for_its_patient(only):
    train, attribute, score = only("train"), only("attribute"), only("score")
    table = train.table("predictions_after.parquet")
    test = table[table["split"] == "test"]
    images = attribute.table("images.parquet")
    has = (test[multi_label.columns(test)] == "1").to_numpy()
    assert len(images) == has.sum() > len(test) / 2 and images["image_id"].is_unique
    owners = test.set_index("image_id")["patient_id"]
    assert (images["patient_id"].to_numpy() == owners.loc[images["image"]].to_numpy()).all()
    assert (images["image_id"] == images["image"] + ": " + images["explained"]).all()
    drift = score.table("drift.parquet")
    assert len(drift) == len(images) and set(drift["label"]) <= set(cases.FINDINGS)
    found = maps.load(attribute.file("maps/layercam") / "after.npz")
    assert found.classes == cases.FINDINGS and set(found.image_id) == set(images["image_id"])


def test_the_logged_performance_is_of_findings(only):
    train = only("train")
    table = train.table("predictions_after.parquet")
    p = table.filter(regex=r"^p_\d+$").to_numpy(float)
    truth, split = multi_label.truth(table), table["split"].to_numpy()
    cuts = findings.best_thresholds(truth[split == "val"], p[split == "val"])
    own = findings.performance(truth[split == "test"], p[split == "test"], list(cases.FINDINGS), cuts)
    for name, value in own.items():
        assert train.metrics[f"{name}_after"] == pytest.approx(value, abs=1e-6), name
    called = table[[f"called_{k}" for k in range(4)]].to_numpy()
    np.testing.assert_array_equal(called, p >= cuts)


def test_the_lesion_of_a_row_is_that_of_its_finding(only):
    attribute = only("attribute")
    ids, masks = regions.load(attribute.file("regions.npz"))
    assert set(masks) == {"lesion", "other_lesions", "lung", "marker"}
    row = next(k for k, name in enumerate(ids) if masks["other_lesions"][k].any())
    image, finding = ids[row].split(": ")
    index = int(image.rsplit("-", 1)[1])
    drawn = rendering.render(0, index, 64, lesion_contrast=2.5, several=True)
    np.testing.assert_array_equal(masks["lesion"][row], drawn.lesion_masks[cases.CLASSES.index(finding)])
    np.testing.assert_array_equal(masks["lesion"][row] | masks["other_lesions"][row], drawn.lesion_mask)


def test_the_comparison_says_what_each_finding_did(only, study):
    compare = only("compare")
    table = compare.table("classes.csv")
    assert set(table["class"]) <= set(cases.FINDINGS) and table["moved"].notna().all()
    assert {"lesion_area", "lesion_energy_after", "other_lesions_energy_after"} <= set(table)
    performance = compare.table("groups_performance.csv")
    assert set(performance["value"]) == set(cases.FINDINGS) and set(performance["measure"]) == {"AUC"}
    after = only("train").metrics
    for row in performance.itertuples():
        assert row.after_median == pytest.approx(after[f"auc_{row.value}_after"])
    page = (study[0] / "out" / "report.html").read_text(encoding="utf-8")
    assert "An image can have several findings" in page and "Class by class" in page


def test_a_test_set_from_elsewhere_stands_beside_the_studys_own(only, study):
    store, done = study
    assert "external: elsewhere: 34 images of" in done.stdout
    assert "external CompactResNetV2 s0 elsewhere: started" in done.stdout
    there, train, compare = only("drift"), only("train"), only("compare")
    assert there.params["external"] == "elsewhere" and there.params["train_run"] == train.run_id
    drift = there.table("drift.parquet")
    assert set(drift["architecture"]) == {"CompactResNetV2"} and set(drift["seed"]) == {0}
    table = compare.table("external.csv").set_index("set")
    assert list(table.index) == ["test", "elsewhere"]
    for name in ("auc_macro_before", "auc_macro_after"):
        assert table.at["elsewhere", name] == pytest.approx(there.metrics[name])
        assert table.at["test", name] == pytest.approx(train.metrics[name])
    assert table.at["elsewhere", "drift"] == pytest.approx(there.metrics["overlap_corrected_median"])
    assert "On elsewhere (" in (store / "out" / "report.html").read_text(encoding="utf-8")
    assert "0 to run" in cxr(*words(store), store=store).stdout


def test_cxr_drift_compares_its_checkpoints_finding_by_finding(only, study, tmp_path):
    store, folder = study[0], only("train").file("checkpoints")
    columns = ", ".join(f"{name.title()}: {name}" for name in cases.FINDINGS)
    pair = ("drift", folder / "before.keras", folder / "after.keras", store / "table.csv")
    options = ("--preprocessing", "none", "--n-boot", "100", "--images", "all")
    options += ("--out", tmp_path / "drift.parquet")
    given = ("--set", "task=multi_label", f"label_columns={{{columns}}}", "map_check_images=0")
    refused = cxr(*pair, *options, *given, store=store, code=2)
    assert "labels that are uncertain: say what they count as" in refused.stderr
    said = cxr(*pair, *options, *given, "uncertain=ignore", store=store).stdout
    assert "explained: each finding that an image has" in said and "both models call" in said
    drift = pd.read_parquet(tmp_path / "drift.parquet")
    there = only("drift").table("drift.parquet")  # of the study, by the same notebook
    assert sorted(drift["image_id"]) == sorted(there["image_id"])
    assert {"auc_macro_before", "auc_consolidation_after"} <= set(only("drift", "drift").metrics)
    one = ("--set", "label_column=Cavities", "map_check_images=0")
    single = cxr(*pair, *options, *one, store=store, code=2)
    assert "the models have 4 outputs, and the labels are of" in single.stderr
