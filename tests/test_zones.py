"""Zones of the chest: by hand on small masks, and on the phantom and what is no pair of lungs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.data import loading
from cxr.data import manifest as data_manifest
from cxr.metrics import regions, zones

PICTURE = """
..........
.rr...ll..
.rr...ll..
.rr..lll..
.rr..lll..
.rr..lll..
.rr...ll..
......ll..
......ll..
..........
"""
EXPECTED = """
oooooooooo
oaammmddoo
oaammmddoo
obbmmdddoo
obbmmeeeoo
occmmeeeoo
occmmmeeoo
ooooooffoo
ooooooffoo
oooooooooo
"""
LETTERS = dict(zip("abcdefmo", zones.ZONES, strict=True))


def mask(picture):
    return np.array([[letter != "." for letter in line] for line in picture.split()])


def test_by_hand():
    found, missing = zones.of_lungs(mask(PICTURE)[None])
    letters = np.array([list(line) for line in EXPECTED.split()])
    assert missing == [""] and list(found) == list(zones.ZONES)
    for letter, zone in LETTERS.items():
        # the left lung has eight rows: thirds begin at its rows 0, 3 and 6
        np.testing.assert_array_equal(found[zone][0], letters == letter, err_msg=zone)


def lungs(right=(10, 40, 8, 20), left=(10, 40, 28, 40), side=48):
    """A mask of two rectangles: first and last row, first and last column."""
    found = np.zeros((side, side), bool)
    for top, bottom, first, last in (right, left):
        found[top:bottom, first:last] = True
    return found


def joined():
    found = lungs()
    found[20, 8:40] = True
    return found


@pytest.mark.parametrize(
    ("lung", "why"),
    [
        (np.zeros((48, 48), bool), "no lung mask"),
        (joined(), "the lung mask has 1 large pieces, not two"),
        (lungs(right=(10, 40, 8, 20), left=(10, 40, 8, 20)), "1 large pieces"),
        (lungs() | lungs((2, 9, 0, 20), (2, 9, 0, 20)), "3 large pieces"),
        (lungs(left=(10, 17, 28, 40)), "one lung is 4.3 times as large as the other"),
        (lungs((2, 46, 0, 23), (2, 46, 24, 47)), "a lung covers 44% to 44% of the image"),
        (lungs((10, 16, 8, 12), (10, 16, 28, 32)), "a lung covers 1% to 1%"),
        (lungs((2, 20, 8, 20), (26, 44, 28, 40)), "not side by side"),
    ],
)
def test_what_does_not_look_like_two_lungs_has_no_zones(lung, why):
    found, missing = zones.of_lungs(np.stack([lung, lungs()]))
    assert why in missing[0] and missing[1] == ""
    assert not any(zone[0].any() for zone in found.values()) and found["mediastinum"][1].any()


def test_small_pieces_are_outside():
    lung = lungs()
    lung[45:47, 45:47] = True
    found, missing = zones.of_lungs(lung[None])
    assert missing == [""] and found["outside"][0, 45, 45]


@given(st.lists(st.integers(1, 20), min_size=8, max_size=8))
def test_zones_tile_the_image(numbers):
    a, b, c, d, e, f, g, h = numbers
    lung = lungs((a, a + 8 + b, 2, 4 + c % 15), (d, d + 8 + e, 26 + f, 28 + f + g % 15 + h % 3), side=64)
    found, missing = zones.of_lungs(lung[None])
    count = sum(zone[0].astype(int) for zone in found.values())
    assert (count == (0 if missing[0] else 1)).all()
    if not missing[0]:
        inside = sum(found[zone][0] for zone in zones.ZONES[:6])
        np.testing.assert_array_equal(inside, lung)


def test_every_phantom_has_zones_and_shares_sum_to_one():
    settings = TrainParams(phantom_images=40, image_size=96)
    manifest = data_manifest.build_manifest(settings)
    contrast = {"lesion_contrast": settings.lesion_contrast}
    masks = loading.load_regions(manifest, root=None, size=96, **contrast)
    found, missing = zones.of_lungs(masks["lung"])
    assert missing == [""] * 40
    areas = {zone: masks.mean() for zone, masks in found.items()}
    assert areas["outside"] > 0.4 and all(0.01 < area < 0.2 for zone, area in areas.items() if zone != "outside")
    # the heart lies to the left: the left lung's lower third is the smaller one
    assert areas["left_lower"] < areas["right_lower"]
    rng = np.random.default_rng(0)
    table = regions.region_table(*rng.random((2, 40, 6, 6)), found, size=96)
    for checkpoint in ("before", "after"):
        total = sum(table[f"{zone}_energy_{checkpoint}"] for zone in zones.ZONES)
        np.testing.assert_allclose(total, 1, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), bool), np.zeros((1, 4, 4), np.uint8)])
def test_other_arrays_are_refused(bad):
    with pytest.raises(InputError, match="lungs: expected bool masks"):
        zones.of_lungs(bad)
