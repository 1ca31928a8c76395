import dataclasses

import numpy as np
import pandas as pd
import pytest

from cxr.attribution import maps
from cxr.core.errors import InputError


def map_set(ids=("b", "a", "c"), **changes):
    values = {
        "image_id": np.array(ids),
        "class_index": np.arange(len(ids), dtype=np.int32),
        "maps": np.arange(len(ids) * 6, dtype=np.float32).reshape(-1, 2, 3),
        "checkpoint": "before",
        "method": "layercam",
        "layer": "mixed7",
        "classes": ("x", "y, z", "w"),
        "checkpoint_sha256": "0" * 64,
    }
    return maps.MapSet(**{**values, **changes})


def test_round_trip(tmp_path):
    original = map_set(maps=np.array([[[np.nan, 1]], [[0, 0]], [[1e-30, 3]]], np.float32))
    original.save(tmp_path / "a.npz")
    for name, value in vars(maps.load(tmp_path / "a.npz")).items():
        np.testing.assert_array_equal(value, getattr(original, name))


def test_a_file_that_is_no_map_set(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    np.savez(tmp_path / "b.npz", other=1)
    np.savez(tmp_path / "c.npz", image_id=np.array([{}], object), meta=np.array("{}"))
    for name in ("a", "b", "c", "missing"):
        with pytest.raises(InputError, match=f"{name}.npz: not a set of attribution maps"):
            maps.load(tmp_path / f"{name}.npz")


def test_join_goes_by_image_and_not_by_row():
    a = map_set()
    order = [2, 0, 1]
    b = map_set(
        ids=tuple(a.image_id[order]), class_index=a.class_index[order], maps=a.maps[order] * 10, checkpoint="after"
    )
    left, right = maps.join(a, b)
    assert left.image_id.tolist() == right.image_id.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(left.maps * 10, right.maps)
    assert right.checkpoint == "after"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gradcampp"}, "differ in method: layercam and gradcampp"),
        ({"layer": "mixed10"}, "differ in layer"),
        ({"classes": ("x", "y", "w")}, "differ in classes"),
        ({"class_index": np.array([0, 2, 1])}, "2 images are explained for another class"),
        ({"image_id": np.array(["b", "a", "d"])}, "2 are in one only, such as c"),
    ],
)
def test_map_sets_that_do_not_belong_together(changes, message):
    with pytest.raises(InputError, match=message):
        maps.join(map_set(), dataclasses.replace(map_set(), **changes))


def test_a_map_set_holds_every_image_once():
    with pytest.raises(ValueError, match="every image once"):
        map_set(ids=("a", "a", "b"))
    with pytest.raises(ValueError, match=r"got 3 ids, classes \(2,\)"):
        map_set(class_index=np.array([0, 1]))


def predictions(predicted, ids=("i", "j", "k")):
    labels = ["x", "y", "x"]
    return pd.DataFrame(
        {
            "image_id": ids,
            "patient_id": ["p", "p", "q"],
            "split": "test",
            "label": labels,
            "predicted": predicted,
            "correct": np.array(predicted) == np.array(labels),
        }
    )


def test_select():
    before, after = predictions(["x", "y", "y"]), predictions(["x", "x", "x"]).iloc[::-1]
    both = maps.select(before, after, images="correct", explain="true")
    assert both["image_id"].tolist() == ["i", "j", "k"]
    assert both["both_correct"].tolist() == both["scored"].tolist() == [True, False, False]
    everything = maps.select(before, after, images="all", explain="predicted")
    assert everything["image_id"].tolist() == ["i", "j", "k"]
    assert everything["scored"].all() and everything["both_correct"].tolist() == [True, False, False]
    assert everything["explained"].tolist() == ["x", "x", "x"]
    assert everything["predicted_before"].tolist() == ["x", "y", "y"]
    assert maps.select(before, after, images="all", explain="true")["explained"].tolist() == ["x", "y", "x"]
    with pytest.raises(InputError, match="no image of the 3 is classified correctly by both"):
        maps.select(predictions(["y", "x", "y"]), after, images="correct", explain="true")
    with pytest.raises(InputError, match="not of the same images"):
        maps.select(before, after.iloc[:2], images="all", explain="true")


def test_take_puts_rows_in_the_order_asked_for():
    map_set = maps.MapSet(
        np.array(["i", "j", "k"]), np.array([0, 1, 2]), np.arange(3.0)[:, None, None], "s", "m", "l", ("a",), ""
    )
    taken = maps.take(map_set, np.array(["k", "i"]))
    assert taken.image_id.tolist() == ["k", "i"] and taken.class_index.tolist() == [2, 0]
    assert taken.maps.ravel().tolist() == [2, 0]
    with pytest.raises(InputError, match="lacks image z"):
        maps.take(map_set, np.array(["i", "z"]))


def test_per_class_takes_evenly_from_what_is_scored():
    images = pd.DataFrame({"label": list("aaaaabbc"), "scored": [True] * 4 + [False] + [True] * 3})
    chosen = images.loc[maps.per_class(images, 6)]
    assert chosen["scored"].all() and chosen["label"].value_counts().to_dict() == {"a": 3, "b": 2, "c": 1}
    assert maps.per_class(images, 0).tolist() == [] and len(maps.per_class(images, 99)) == 7
    assert maps.per_class(images, 3).tolist() == maps.per_class(images, 3).tolist()
