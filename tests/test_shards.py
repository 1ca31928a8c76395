"""Images in parts: the split, the join, and that parts give the numbers of the whole, to the bit."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr import drift, maps, multiverse, references, regions, report, shards, study, tracking
from cxr.errors import InputError
from cxr.params import AttributeParams, ScoreParams, StudyParams
from cxr.steps import handed_over, needed, plan


def table(n, rng, classes=3):
    return pd.DataFrame(
        {
            "image_id": rng.permutation([f"image{i:03d}" for i in range(n)]),
            "label": rng.choice([f"class{c}" for c in range(classes)], n),
            "scored": rng.random(n) < 0.7,
        }
    )


# -- the split


@settings(deadline=None)
@given(n=st.integers(1, 60), count=st.integers(1, 8), seed=st.integers(0, 999))
def test_every_image_is_in_one_part_and_parts_are_alike(n, count, seed):
    rng = np.random.default_rng(seed)
    images = table(n, rng)
    if count > n:
        with pytest.raises(InputError, match=f"set shards to {n} or less"):
            shards.rows(images, shard=1, shards=count)
        return
    own = np.stack([shards.rows(images, shard=k, shards=count) for k in range(1, count + 1)])
    assert (own.sum(0) == 1).all()
    kinds = [np.ones(n, bool), *((images["label"] == name).to_numpy() for name in images["label"].unique())]
    kinds += [kind & images["scored"].to_numpy() for kind in kinds[1:]]
    for kind in kinds:
        assert np.ptp(own[:, kind].sum(1)) <= 1
    mixed = images.sample(frac=1, random_state=seed)
    again = shards.rows(mixed, shard=count, shards=count)
    assert set(mixed["image_id"][again]) == set(images["image_id"][own[-1]]), "row order does not matter"


def test_a_part_by_hand():
    images = pd.DataFrame(
        {"image_id": ["d", "c", "b", "a", "e"], "label": ["y", "x", "x", "y", "x"], "scored": [True] * 4 + [False]}
    )
    # laid out: x not scored: e; x scored: b, c; y: a, d
    assert images["image_id"][shards.rows(images, shard=1, shards=2)].tolist() == ["d", "c", "e"]
    assert images["image_id"][shards.rows(images, shard=2, shards=2)].tolist() == ["b", "a"]
    assert shards.rows(images, shard=0, shards=2).all(), "0 stands for all"
    with pytest.raises(InputError, match="shard: from 1 to shards"):
        shards.rows(images, shard=3, shards=2)


# -- numbers of the parts are those of the whole


@pytest.fixture(scope="module")
def scored():
    """Two stacks of 24 maps, of which some are degenerate, that only beside all others; and their images."""
    rng = np.random.default_rng(5)
    transfer, fine_tuned = rng.random((2, 24, 5, 5)).astype(np.float32)
    transfer[3] = 0
    fine_tuned[10] *= 1e-8
    fine_tuned[17] = np.nan
    images = table(24, rng).assign(patient_id=[f"p{i // 2}" for i in range(24)])
    images["scored"] = True
    return transfer, fine_tuned, images.sort_values("image_id", ignore_index=True)


@pytest.mark.parametrize("count", [2, 5, 24])
def test_scores_of_parts_are_those_of_the_whole_to_the_bit(scored, count):
    transfer, fine_tuned, images = scored
    masks = {"lung": np.random.default_rng(1).random((24, 16, 16)) < 0.4}

    def values(rows):
        own = slice(None) if rows is None else rows
        out = dict(drift.compare_maps(transfer, fine_tuned, size=16, rows=rows))
        label, patient = images["label"], images["patient_id"]
        out |= references.reference_levels(transfer, fine_tuned, label, patient, size=16, draws=2, rows=rows)
        out |= references.floor(transfer, [fine_tuned, transfer[::-1]], size=16, rows=rows)
        out |= regions.region_table(
            transfer, fine_tuned, {name: m[own] for name, m in masks.items()}, size=16, rows=rows
        )
        return pd.DataFrame(out | multiverse.score_variant(transfer, fine_tuned, size=16, rows=rows))

    whole = values(None)
    assert whole["degenerate_transfer"].sum() == 1 and whole["degenerate_fine_tuned"].sum() == 2
    owned = [np.flatnonzero(shards.rows(images, shard=k, shards=count)) for k in range(1, count + 1)]
    parts = [values(own).assign(image_id=images["image_id"].to_numpy()[own]) for own in owned]
    joined = shards.join_tables(parts, images["image_id"])
    pd.testing.assert_frame_equal(joined.drop(columns="image_id"), whole, check_exact=True)


def test_no_rows_no_values(scored):
    transfer, fine_tuned, images = scored
    none = np.zeros(0, int)
    found = drift.compare_maps(transfer, fine_tuned, size=16, rows=none)
    found |= references.floor(transfer, [fine_tuned], size=16, rows=none)
    found |= references.reference_levels(
        transfer, fine_tuned, images["label"], images["patient_id"], size=16, rows=none
    )
    assert {len(value) for value in found.values()} == {0}


# -- joining


def parts_of(count=3, n=11):
    rng = np.random.default_rng(2)
    images = table(n, rng)
    order = np.sort(images["image_id"].to_numpy(str))
    whole = maps.MapStack(
        image_id=order,
        class_index=rng.integers(0, 3, n).astype(np.int32),
        maps=rng.random((n, 4, 4), np.float32),
        stage="transfer",
        method="layercam",
        layer="x",
        classes=("a", "b", "c"),
        checkpoint_sha256="f" * 64,
    )
    ids = [
        images["image_id"][shards.rows(images, shard=k, shards=count)].to_numpy(str) for k in range(1, count + 1)
    ]
    return whole, [maps.take(whole, own) for own in ids]


def test_maps_are_joined_in_the_order_asked_for():
    whole, parts = parts_of()
    joined = shards.join_maps(parts, whole.image_id)
    assert joined.image_id.tolist() == whole.image_id.tolist()
    np.testing.assert_array_equal(joined.maps, whole.maps)
    np.testing.assert_array_equal(joined.class_index, whole.class_index)
    assert joined.maps.dtype == np.float32 and vars(joined).keys() == vars(whole).keys()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[:2], r"\d of 11 images are in no shard, such as image"),
        (lambda p: [*p, p[0]], "image.* is in two shards"),
        (
            lambda p: [*p[:2], replace(p[2], checkpoint_sha256="0" * 64)],
            "shard 1 and 3 differ in checkpoint_sha256",
        ),
        (lambda p: [*p[:2], replace(p[2], layer="y")], "shard 1 and 3 differ in layer: x and y"),
        (lambda p: [*p[:2], replace(p[2], maps=p[2].maps[:, :2])], "what shard 3 holds"),
        (
            lambda p: [*p[:2], replace(p[2], image_id=np.char.add(p[2].image_id, "z"))],
            "is in a shard, and not one",
        ),
    ],
)
def test_maps_that_do_not_belong_together_are_refused(spoil, message):
    whole, parts = parts_of()
    with pytest.raises(InputError, match=message):
        shards.join_maps(spoil(parts), whole.image_id)


def test_files_are_joined_one_by_one(tmp_path):
    whole, parts = parts_of()
    rng = np.random.default_rng(3)
    small = rng.integers(0, 255, (11, 6, 6), np.uint8)
    masks = {"lesion": rng.random((11, 5, 6)) < 0.5}
    folders = []
    for number, part in enumerate(parts):
        own = np.searchsorted(whole.image_id, part.image_id)
        folders.append(tmp_path / str(number))
        part.save(folders[-1] / "maps" / "layercam" / "transfer.npz")
        shards.save_thumbnails(folders[-1] / "thumbnails.npz", part.image_id, small[own])
        regions.save(folders[-1] / "regions.npz", part.image_id, {name: m[own] for name, m in masks.items()})
    out = tmp_path / "out"
    names = list(shards.join_files(folders, whole.image_id, out))
    assert names == ["maps/layercam/transfer.npz", "regions.npz", "thumbnails.npz"]
    np.testing.assert_array_equal(maps.load(out / names[0]).maps, whole.maps)
    np.testing.assert_array_equal(report.thumbnails(out / names[2], whole.image_id), small)
    np.testing.assert_array_equal(regions.load(out / names[1])[1]["lesion"], masks["lesion"])
    _, some = regions.load(out / names[1], whole.image_id[[4, 2]])
    np.testing.assert_array_equal(some["lesion"], masks["lesion"][[4, 2]])
    with pytest.raises(InputError, match="has no masks of image nobody"):
        regions.load(out / names[1], ["nobody"])
    (folders[1] / "thumbnails.npz").unlink()
    with pytest.raises(InputError, match=r"thumbnails.npz is not in shard 2, and in another"):
        list(shards.join_files(folders, whole.image_id, out))


def test_tables_are_joined_in_the_order_of_one_run():
    whole = pd.DataFrame(
        {"epoch": [2, 2, 2, 10, 10, 10], "image_id": list("abc") * 2, "value": [1.5, np.nan, 3, 4, 5, 6]}
    )
    parts = [whole[whole["image_id"].isin(own)] for own in (["b"], [], ["a", "c"])]
    pd.testing.assert_frame_equal(shards.join_tables(parts, list("abc"), by="epoch"), whole, check_exact=True)
    for spoilt, message in [
        ([parts[0]], "2 of 3 images are in no shard, such as a"),
        ([*parts, parts[0]], "image b is in two shards"),
        ([*parts[:2], parts[2][:-1]], "1 of 3 images are in no shard, such as c"),
        ([parts[0], parts[2].drop(columns="value")], "shard 1 and 2 differ in columns: value"),
    ]:
        with pytest.raises(InputError, match=message):
            shards.join_tables(spoilt, list("abc"), by="epoch")
    with pytest.raises(InputError, match="image c is in a shard, and not one of the images to join"):
        shards.join_tables(parts, list("ab"), by="epoch")


def run_info(number, **changes):
    values = {
        "run_id": f"id{number}",
        "name": f"shard{number}",
        "stage": "score_shard",
        "status": "FINISHED",
        "params": {"method": "layercam", "n_boot": "2000"},
        "tags": {"cxr.complete": "true", "cxr.shard": f"{number} of 3", "cxr.shard_of": "whole"},
        "metrics": {},
        "start": datetime.now(UTC),
        "end": datetime.now(UTC),
        "experiment_name": "x",
    }
    return tracking.RunInfo(**{**values, **changes})


def test_runs_are_put_in_order_if_they_belong_together():
    wanted = {"whole": "whole", "settings": {"method": "layercam", "n_boot": "2000"}, "stage": "score_shard"}
    found = shards.in_order([run_info(3), run_info(1), run_info(2)], **wanted)
    assert [run.run_id for run in found] == ["id1", "id2", "id3"]

    def tags(**changes):
        return {**run_info(2).tags, **{key.replace("_", ".", 1): value for key, value in changes.items()}}

    for second, message in [
        ([], "of 3 shards number 2 is not there"),
        ([run_info(2), run_info(1, run_id="other")], "other .*: shard 1 is there twice, as run id1 too"),
        ([run_info(2, status="FAILED")], "run id2 .*: is FAILED and not complete"),
        ([run_info(2, stage="score")], "run id2 .*: is a score run, no score_shard run"),
        ([run_info(2, tags=tags(cxr_shard="2 of 4"))], "splits into 3 and of 4 parts"),
        (
            [run_info(2, tags=tags(cxr_shard_of="another"))],
            "made from other runs, or by another version of the code",
        ),
        (
            [run_info(2, tags=tags(cxr_shard_of="another"), params={"method": "gradcam", "n_boot": "2000"})],
            "was made with method gradcam instead of layercam: run the shard again",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            shards.in_order([run_info(1), *second, run_info(3)], **wanted)


# -- parameters, plan, fingerprints


@pytest.mark.parametrize("model", [AttributeParams, ScoreParams])
def test_a_run_computes_a_part_or_joins_all(model):
    with pytest.raises(InputError, match=r"shard: from 1 to shards \(2\)"):
        model.check({"shard": 3, "shards": 2}, where="x")
    with pytest.raises(InputError, match="computes a part or joins all"):
        model.check({"shard": 1, "shards": 2, "shard_run_ids": ["a"]}, where="x")


def test_a_run_that_joins_shards_has_the_fingerprint_of_one_that_computes_all():
    def of(stage, **values):
        return tracking.fingerprint(stage, ScoreParams(**values), {"attribute": "a"})

    whole = of("score")
    assert of("score", shards=4) == of("score", shards=4, shard_run_ids=["a", "b"]) == whole
    parts = [of("score_shard", shard=k, shards=n) for k, n in ((1, 4), (2, 4), (1, 3))]
    assert len({whole, *parts}) == 4


def test_plan_with_shards():
    grid = {"architecture": ["CompactDenseNet"], "seed": [3], "method": ["layercam"]}
    steps = plan(StudyParams(**grid, shards=2))
    assert [step.key for step in steps] == [
        "train/CompactDenseNet/s3",
        "attribute/CompactDenseNet/s3/shard1of2",
        "attribute/CompactDenseNet/s3/shard2of2",
        "attribute/CompactDenseNet/s3",
        "score/CompactDenseNet/s3/layercam/shard1of2",
        "score/CompactDenseNet/s3/layercam/shard2of2",
        "score/CompactDenseNet/s3/layercam",
        "compare",
    ]
    train, one, two, attribute, _, part, score, compare = steps
    assert one.stage == two.stage == "attribute_shard" and part.stage == "score_shard"
    assert one.needs == two.needs == attribute.inputs == (train.key,)
    assert attribute.needs == (train.key, one.key, two.key) and compare.needs == (score.key,)
    assert part.needs == part.inputs == score.inputs == (attribute.key,)
    assert (two.parameters, part.parameters) == ({"shard": 2}, {"method": "layercam", "shard": 2})
    assert (part.notebook, attribute.notebook) == ("3_score", "2_attribute")
    runs = {step.key: f"run{number}" for number, step in enumerate(steps)}
    assert handed_over(one, runs) == {"train_run_id": "run0"}
    assert handed_over(attribute, runs) == {"train_run_id": "run0", "shard_run_ids": ["run1", "run2"]}
    assert handed_over(part, runs) == {"attribute_run_id": "run3"}
    assert handed_over(score, runs) == {"attribute_run_id": "run3", "shard_run_ids": ["run4", "run5"]}
    assert plan(StudyParams(**grid, shards=1)) == study.plan(StudyParams(**grid))
    # what joins the shards is done: they are not run again, though their runs may be gone
    left = needed(steps, {train.key, attribute.key})
    assert [step.key for step in left] == [step.key for step in (train, attribute, *steps[4:])]


def test_more_shards_than_images_are_found_out_before_anything_runs(tmp_path):
    params = tmp_path / "study.yaml"
    params.write_text("name: x\nphantom_images: 60\nshards: 40\n")
    values = StudyParams.read(params)
    with pytest.raises(InputError, match=r"shards: 1\d test images cannot be shared between 40 parts: set shards"):
        study.dry_run(values, params, {}, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
