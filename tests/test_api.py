"""The public face: `import cxr` in a script, as docs/library.md shows it."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

import cxr
from cxr.core.errors import InputError
from cxr.models import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models that differ by their weights, and five pictures."""
    place = tmp_path_factory.mktemp("script")
    for seed, name in enumerate(("before", "after")):
        keras.utils.set_random_seed(seed)
        build.build("CompactResNetV2", n_classes=3, image_size=64).save(place / f"{name}.keras")
    (place / "images" / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (80, 80), np.uint8)
        Image.fromarray(pixels).save(place / "images" / ("deeper" if number == 0 else "") / f"{number}.png")
    return place


def test_the_script_of_the_page_runs_as_written(folder, monkeypatch, capsys):
    page = (PROJECT / "docs/library.md").read_text("utf-8")
    script = re.search(r"```python\n(.*?import cxr\n.*?)```", page, re.S).group(1)
    monkeypatch.chdir(folder)
    exec(compile(script, "library.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1
    assert Image.open(folder / "drift.png").width > 500


def test_values_are_those_of_the_functions_of_a_study(folder):
    from cxr.attribution import explaining
    from cxr.metrics import similarity

    before, after = (cxr.load(folder / f"{name}.keras") for name in ("before", "after"))
    images = cxr.read_images(folder / "images", size=before.size)
    assert images.shape == (5, 64, 64) and images.dtype == np.uint8
    classes = cxr.predict(after, images).argmax(axis=1)
    maps = [cxr.explain(model, images, classes) for model in (before, after)]
    network = keras.models.load_model(folder / "before.keras")
    own = explaining.attribute(network, images, classes, layer="penultimate", methods=["layercam"])["layercam"]
    np.testing.assert_array_equal(maps[0], own)
    expected = similarity.compare_maps(*maps, size=64)["overlap"]
    np.testing.assert_array_equal(cxr.overlap(*maps, size=64), expected)
    np.testing.assert_array_equal(cxr.overlap(maps[0], maps[0], size=64), np.ones(5))


def test_the_figure_is_of_the_median_image_and_says_its_overlap(folder):
    images = np.zeros((3, 64, 64), np.uint8)
    one = np.zeros((3, 8, 8), np.float32)
    one[:, :4] = np.linspace(1, 2, 32).reshape(4, 8)
    other = one.copy()
    other[1] = one[1, ::-1]  # overlap 0
    other[2] = np.roll(one[2], 1, axis=0)
    values = cxr.overlap(one, other, size=64)
    assert values[1] < values[2] < values[0] == 1
    drawn = cxr.figure(images, one, other)
    assert drawn.get_suptitle() == f"image 2: overlap {values[2]:.2f}"
    assert cxr.figure(images, one, other, row=0).get_suptitle() == "image 0: overlap 1.00"
    with pytest.raises(InputError, match="every image has an empty map"):
        cxr.figure(images, np.zeros_like(one), other)


def test_bad_input_is_refused(folder, tmp_path):
    model = cxr.load(folder / "before.keras")
    images = np.zeros((2, 64, 64), np.uint8)
    with pytest.raises(InputError, match="one number for each of 2 images"):
        cxr.explain(model, images, [0])
    with pytest.raises(InputError, match="method"):
        cxr.explain(model, images, [0, 1], method="lime")
    with pytest.raises(InputError):
        cxr.read_images(tmp_path, size=64)
    with pytest.raises(AttributeError, match="module 'cxr' has no attribute 'banana'"):
        _ = cxr.banana


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'tensorflow', 'keras', 'mlflow', 'numpy', 'pandas'}"
    code = f"import sys, cxr; assert 'explain' in dir(cxr); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
