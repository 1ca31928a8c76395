"""The lung finder: what it finds and refuses, and the masks that `cxr lungs` writes."""

import numpy as np
import pandas as pd
import pytest
from commands import cxr
from PIL import Image

from cxr.cli import main
from cxr.core.errors import InputError
from cxr.core.params import DataParams
from cxr.data import loading
from cxr.data.manifest import data_root, list_images
from cxr.data.phantom import rendering
from cxr.models import lungs
from cxr.training import lung_task


@pytest.fixture(scope="module")
def network():
    return lungs.load()


def test_the_lungs_of_unseen_phantoms_are_found(network):
    images, _, truth, _ = rendering.render_stack(11, range(40), lungs.SIDE)
    found = lungs.find(images, network)
    assert found.missing == [""] * 40
    agreement = lungs.dice(found.masks(lungs.SIDE), truth)
    assert agreement.mean() >= 0.95 and agreement.min() > 0.85
    larger = found.masks((224, 300))
    assert larger.shape == (40, 224, 300) and abs(larger.mean() - truth.mean()) < 0.01


def test_what_is_no_chest_is_refused(network):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, lungs.SIDE, lungs.SIDE), np.uint8)
    flat = np.full((1, lungs.SIDE, lungs.SIDE), 128, np.uint8)
    found = lungs.find(np.concatenate([noise, flat]), network)
    assert all(found.missing) and not found.masks(lungs.SIDE).any()


def test_an_image_whose_mirror_image_looks_otherwise_is_refused():
    class Doubtful:  # sees two lungs in an image, and others in its mirror image
        def predict(self, given, **_):
            logits = np.full(given.shape, -9.0, np.float32)
            first = given[0, 48, 20, 0] > given[0, 48, 75, 0]
            logits[:, 20:80, 10:40] = logits[:, 20:80, 55:85] = 9
            logits[:, 20 : 50 if first else 80, 10:40] = 9.5 if first else -9
            return logits

    image = np.zeros((1, lungs.SIDE, lungs.SIDE), np.uint8)
    image[:, :, :48] = 200
    found = lungs.find(image, Doubtful())
    assert found.agreement[0] < lungs.AGREEMENT and found.missing[0]


def test_dice_by_hand():
    a = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]], bool)
    b = np.array([[[0, 1, 1, 1]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]], bool)
    assert lungs.dice(a, b).tolist() == [2 * 1 / (2 + 3), 1, 0]


def test_other_arrays_are_refused():
    with pytest.raises(InputError, match=r"images: expected uint8 \[n, 96, 96\], got float64"):
        lungs.find(np.zeros((1, 96, 96)))


def test_weights_of_something_else_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("other.npz", "missing.npz"):
        with pytest.raises(InputError, match=f"{name}: no weights of the lung finder"):
            lungs.load(tmp_path / name)


def test_the_task_repeats_itself_and_varies():
    images, shares = lung_task.render_stack(3, range(6), 48)
    again, _ = lung_task.render_stack(3, range(2, 4), 48)
    np.testing.assert_array_equal(images[2:4], again)
    assert images.dtype == np.uint8 and images.shape == shares.shape == (6, 48, 48)
    assert shares.min() >= 0 and shares.max() <= 1
    assert len({image.tobytes() for image in images}) == 6


# -- cxr lungs


@pytest.fixture
def radiographs(tmp_path):
    """Six phantoms as PNG files of other proportions, in folders of classes; one of them is no chest."""
    for k in range(6):
        image = rendering.render(0, k, 200).image if k < 5 else np.full((200, 200), 90, np.uint8)
        path = tmp_path / "images" / ("ill", "well")[k % 2] / f"{k}.v1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((240, 180)).save(path)
    return tmp_path


def lung_regions(settings):
    manifest = list_images(settings, labelled=True)
    loading.check_images(manifest, data_root(settings))
    return manifest, loading.load_regions(manifest, root=data_root(settings), size=96)["lung"]


@pytest.mark.filterwarnings("ignore:.*have no mask", "ignore:.*treated as a separate patient")
@pytest.mark.parametrize("kind", ["folder", "table"])
def test_the_masks_that_are_written_are_read_again(radiographs, kind, monkeypatch):
    monkeypatch.chdir(radiographs)
    data = "images"
    if kind == "table":  # whose paths lead up
        data = "tables/all.csv"
        paths = sorted(str(path.relative_to(radiographs)) for path in radiographs.glob("images/*/*.png"))
        (radiographs / "tables").mkdir()
        rows = {"path": [f"../{path}" for path in paths], "label": "x", "patient_id": paths}
        pd.DataFrame(rows).to_csv(data, index=False)
    done = cxr("lungs", data, "lungs", store=radiographs, folder=radiographs)
    assert "lungs: found on 5 of 6 images\n  refused 1: " in done.stdout
    assert "--set lung_mask_folder=lungs" in done.stdout
    found = pd.read_csv("lungs/lungs.csv", keep_default_na=False).set_index("path")
    assert (found["refused"] != "").sum() == 1
    sheet = np.asarray(Image.open("lungs/sheet_01.png").convert("RGB")).astype(int)
    assert (np.abs(sheet - sheet.mean(axis=2, keepdims=True)).max(axis=2) > 60).sum() > 500, (
        "outlines have a colour"
    )
    manifest, masks = lung_regions(DataParams(data=data, lung_mask_folder="lungs"))
    for row, mask in zip(manifest.itertuples(), masks, strict=True):
        number = int(row.path.rsplit("/", 1)[1][0])
        if number == 5:
            assert row.lung_mask == "" and not mask.any()
        else:
            truth = rendering.render(0, number, 96).lung_mask
            assert lungs.dice(mask[None], truth[None])[0] > 0.9
    again = cxr("lungs", data, "lungs", store=radiographs, folder=radiographs)
    assert again == done


@pytest.mark.filterwarnings("ignore:.*treated as a separate patient")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("phantom out", "the phantom has lung masks of its own"),
        ("images images/lungs", "lies in the folder of the images"),
        ("nowhere out", "nowhere"),
        ("images out --set data=x", "data"),
        ("images out --set imagefolder=x", "unknown parameter 'imagefolder': did you mean 'image_folder'"),
        ("twins out", "a.jpg and a/a.png would have the same mask"),
        ("masked.csv out", "all images have lung masks already"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(radiographs, words, message, monkeypatch, capsys):
    monkeypatch.chdir(radiographs)
    for name in ("a/a.png", "a/a.jpg", "b/b.png"):
        path = radiographs / "twins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32)).save(path)
    one = "images/ill/0.v1.png"
    pd.DataFrame({"path": [one], "label": "x", "patient_id": "p", "lung_mask": one}).to_csv("masked.csv")
    assert main.main(["lungs", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


@pytest.mark.slow
def test_on_real_radiographs(real_cxr5, tmp_path):
    """How many are right was counted by eye (docs/lungs.md): here it counts how many are not refused."""
    done = cxr("lungs", real_cxr5, tmp_path / "lungs", store=tmp_path)
    found = int(done.stdout.split("found on ")[1].split()[0])
    assert found >= 0.9 * 555
