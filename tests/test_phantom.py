import inspect
from dataclasses import FrozenInstanceError
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_fill_holes, distance_transform_edt, label
from scipy.stats import chi2_contingency, kruskal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr.core.errors import InputError
from cxr.data.phantom import cases, drawing, rendering
from cxr.data.phantom import lesions as phantom_lesions
from cxr.data.phantom import patients as phantom_patients
from cxr.data.phantom.cases import CLASSES, catalogue
from cxr.data.phantom.rendering import render, render_stack

ABNORMAL = [name for name in CLASSES if name != "normal"]


@lru_cache(maxsize=1)
def table(n=900, seed=5):
    return catalogue(n, seed)


@lru_cache(maxsize=1)
def stack():
    """Fifty images, ten of each class: (labels, images, lesions, lungs) at 128 px."""
    images, lesions, lungs, _ = render_stack(5, range(50), 128)
    return table().label.to_numpy()[:50], images, lesions.any(axis=1), lungs


# --- catalogue


def test_classes_are_sorted_and_five():
    assert list(CLASSES) == sorted(CLASSES)
    assert len(set(CLASSES)) == 5


def test_catalogue_columns_and_ids():
    rows = table()
    assert list(rows.columns) == ["index", "image_id", "label", "patient_id"]
    assert rows["index"].tolist() == list(range(900))
    assert rows.image_id.is_unique
    assert rows.image_id[12] == "phantom-s5-000012"
    assert rows.patient_id.str.fullmatch(r"p5-\d{5}").all()


@settings(max_examples=30)
@given(st.integers(0, 400), st.integers(0, 200), st.integers(0, 2**40))
def test_a_shorter_catalogue_is_a_prefix_of_a_longer_one(n, more, seed):
    pd.testing.assert_frame_equal(catalogue(n, seed), catalogue(n + more, seed).head(n))


@settings(max_examples=30)
@given(st.integers(1, 500), st.integers(0, 1000))
def test_classes_are_balanced_to_one_image(n, seed):
    counts = catalogue(n, seed).label.value_counts().reindex(CLASSES, fill_value=0)
    assert counts.max() - counts.min() <= 1


def test_a_patient_has_one_class_and_a_quarter_have_two_to_four_images():
    patients = table().groupby("patient_id")
    assert (patients.label.nunique() == 1).all()
    # 900 images are ten whole cycles: 60 patients each, of whom 45 have one image and five each 2, 3 and 4.
    assert patients.size().value_counts().to_dict() == {1: 450, 2: 50, 3: 50, 4: 50}
    per_class = table().drop_duplicates("patient_id").label.value_counts()
    assert set(per_class) == {120}


def test_patient_number_does_not_tell_the_class():
    first = table().drop_duplicates("patient_id")
    number = first.patient_id.str[-5:].astype(int)
    assert chi2_contingency(pd.crosstab(number % 5, first.label)).pvalue > 0.01


def test_seeds_give_other_data_sets():
    assert catalogue(90, 0).label.tolist() != catalogue(90, 1).label.tolist()
    assert (render(0, 0, 64).image != render(1, 0, 64).image).mean() > 0.5


# --- images


def test_types_shapes_and_identity():
    rows = table()
    for index in (0, 7, 123):
        picture = render(5, index, 96)
        masks = ("lesion_mask", bool), ("lung_mask", bool), ("marker_mask", bool)
        for name, dtype in (("image", np.uint8), *masks):
            assert getattr(picture, name).shape == (96, 96)
            assert getattr(picture, name).dtype == dtype
        assert (picture.image_id, picture.label, picture.patient_id) == tuple(
            rows.loc[index, ["image_id", "label", "patient_id"]]
        )
    with pytest.raises(FrozenInstanceError):
        picture.label = "normal"


def test_same_bytes_whatever_came_before():
    first = render(5, 31, 96)
    render_stack(9, [4, 2], 64)
    cases._cycle.cache_clear()
    drawing.pixel_centres.cache_clear()
    again = render(5, 31, 96)
    for name in ("image", "lesion_mask", "lung_mask", "marker_mask"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()


def test_stack_is_render_row_by_row():
    images, lesions, lungs, markers = render_stack(5, np.array([8, 3]), 64, lesion_contrast=0.5, marker="class")
    for row, index in enumerate((8, 3)):
        single = render(5, index, 64, lesion_contrast=0.5, marker="class")
        np.testing.assert_array_equal(markers[row], single.marker_mask)
        np.testing.assert_array_equal(images[row], single.image)
        np.testing.assert_array_equal(lesions[row], single.lesion_masks)
        np.testing.assert_array_equal(lungs[row], single.lung_mask)
    empty = render_stack(5, [], 64)
    assert [values.shape for values in empty] == [(0, 64, 64), (0, 5, 64, 64), (0, 64, 64), (0, 64, 64)]
    assert [values.dtype for values in empty] == [np.uint8, bool, bool, bool]


@pytest.mark.parametrize("index", range(10))
def test_an_index_is_the_same_picture_at_every_size(index):
    small, large = render(5, index, 128), render(5, index, 256)
    halved = large.image.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    assert np.corrcoef(halved.ravel(), small.image.ravel())[0, 1] > 0.97
    assert abs(halved.mean() - small.image.mean()) < 1
    for name in ("lung_mask", "lesion_mask"):
        big = getattr(large, name).reshape(128, 2, 128, 2).mean(axis=(1, 3)) >= 0.5
        little = getattr(small, name)
        if little.any() or big.any():
            assert (big & little).sum() / (big | little).sum() > 0.9


def test_looks_like_a_chest():
    """Lungs dark, heart and abdomen bright, two lungs, the heart's bulk to the image's right."""
    _, images, lesions, lungs = stack()
    right_over_left = []
    for image, lesion, lung in zip(images, lesions, lungs, strict=True):
        assert 0.15 < lung.mean() < 0.5
        parts, count = label(lung, np.ones((3, 3)))
        assert count == 2
        areas = np.bincount(parts.ravel())[1:]
        assert areas.min() / areas.max() > 0.55
        left_most, right_most = parts[64][lung[64]][[0, -1]]
        right_over_left.append(areas[left_most - 1] / areas[right_most - 1])
        middle = slice(90, 100), slice(54, 74)
        assert image[middle].mean() > image[lung & ~lesion].mean() + 40
        assert np.ptp(image) > 150
    # The patient's right lung, at the image's left, is the larger one.
    assert 1.05 < np.mean(right_over_left) < 1.4


def test_grey_values_use_the_range_without_saturating():
    _, images, _, _ = stack()
    assert np.mean(images == 255) < 0.02
    assert images.mean(axis=(1, 2)).std() > 8


# --- lesions


def test_normal_has_no_lesion_and_every_other_image_has_one():
    labels, _, lesions, _ = stack()
    assert (lesions.any(axis=(1, 2)) == (labels != "normal")).all()


@pytest.mark.parametrize("name", ABNORMAL)
def test_lesions_lie_in_the_lungs(name):
    labels, _, lesions, lungs = stack()
    for lesion, lung in zip(lesions[labels == name], lungs[labels == name], strict=True):
        assert lesion[lung].sum() / lesion.sum() > 0.9
        assert lesion.sum() / lung.sum() > 0.01
        # The stated margin along x and y, under the largest scale (1.1), and a pixel for the grid.
        margin = 1.1 * phantom_patients.LUNG_EDGE * 64 + 1
        assert distance_transform_edt(~lung)[lesion].max() <= np.sqrt(2) * margin


def test_where_lesions_lie():
    """Masks have the distribution that the class is named after, on the average."""
    labels, _, lesions, lungs = stack()
    rows, columns = np.mgrid[:128, :128]

    def mean(name, of):
        chosen = labels == name
        return np.mean([of(s, u) for s, u in zip(lesions[chosen], lungs[chosen], strict=True)])

    def height(lesion, lung):
        return rows[lesion].mean() - rows[lung].mean()

    def parts(lesion, lung):
        return label(lesion)[1]

    def one_sided(lesion, lung):
        middle = columns[lung].mean()
        left = np.mean(columns[lesion] < middle)
        return max(left, 1 - left)

    def off_axis(lesion, lung):
        middle = columns[lung].mean()
        return np.abs(columns[lesion] - middle).mean() - np.abs(columns[lung] - middle).mean()

    assert mean("cavities", height) < -8
    assert mean("cavities", parts) > 3
    assert mean("consolidation", one_sided) > 0.99
    assert mean("ground_glass", one_sided) < 0.85
    assert mean("ground_glass", off_axis) > 4
    assert mean("interstitial", one_sided) < 0.7
    assert mean("interstitial", lambda s, u: s.sum() / u.sum()) > 0.5


@pytest.mark.parametrize("name", CLASSES)
def test_lesion_contrast_scales_the_lesion_alone(name):
    index = int(table().index[table().label == name][1])
    none, half, full = (render(5, index, 128, lesion_contrast=c) for c in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(none.lesion_mask, full.lesion_mask)
    np.testing.assert_array_equal(none.lung_mask, full.lung_mask)
    change = full.image.astype(float) - none.image
    if name == "normal":
        assert not change.any()
        return
    lesion = full.lesion_mask
    assert change[lesion].mean() > 3
    assert 0.3 < (half.image.astype(float) - none.image)[lesion].mean() / change[lesion].mean() < 0.8
    near = binary_dilation(lesion, iterations=4)
    assert np.abs(change[~near & ~none.lung_mask]).mean() < 0.1
    assert np.abs(change[lesion]).mean() > 3 * np.abs(change[~near]).mean()


def lesion_density(index, size=128):
    """The density that `render` adds, its mask, and its lungs, without anatomy or exposure."""
    name, patient = cases.identity(5, index)
    person = phantom_patients.draw_person(cases.random_stream(5, cases.Stream.PATIENT, patient))
    shot = drawing.draw_shot(cases.random_stream(5, cases.Stream.IMAGE, index))
    view = drawing.make_view(size, shot)
    chest = phantom_patients.make_chest(person, shot, view)
    streams = (
        cases.random_stream(5, cases.Stream.LESION, patient),
        cases.random_stream(5, cases.Stream.LESION_IMAGE, index),
    )
    return *phantom_lesions.LESIONS[CLASSES[name]](*streams, view, chest), chest.lung


def test_mask_is_where_the_envelope_exceeds_its_fraction():
    seen = set()
    for index in range(25):
        name = table().label[index]
        if name == "normal":
            continue
        seen.add(name)
        density, mask, lung = lesion_density(index)
        np.testing.assert_array_equal(mask, render(5, index, 128).lesion_mask)
        assert (density[lung == 0] == 0).all()
        if name == "ground_glass":  # has no holes: the definition itself
            np.testing.assert_array_equal(mask, density > phantom_lesions.MASK_FRACTION * density.max())
        else:
            assert density[~mask].max() < 0.5 * density.max()
            assert density[mask].sum() > 0.7 * density.sum()
    assert seen == set(ABNORMAL)


def test_the_lumen_of_a_cavity_counts_as_lesion():
    """Some mask has a centre less dense than its rim; no mask has a hole."""
    rings = 0
    for index in table().index[table().label == "cavities"][:6]:
        density, mask, _ = lesion_density(index)
        np.testing.assert_array_equal(binary_fill_holes(mask), mask)
        depth = distance_transform_edt(mask)
        rings += density[depth > 5].min(initial=1.0) < 0.3 * density.max()
    assert rings >= 3


# --- what must not tell the class


def test_marker_knows_seed_and_index_only():
    assert list(inspect.signature(rendering.side_marker).parameters) == ["seed", "index"]
    labels = table().label.to_numpy()
    markers = [rendering.side_marker(5, index) for index in range(900)]
    letters = np.array([m.glyph if m else "none" for m in markers])
    assert set(letters) == {"L", "R", "none"}
    assert chi2_contingency(pd.crosstab(letters, labels)).pvalue > 0.01
    shown = [(m, name) for m, name in zip(markers, labels, strict=True) if m]
    for attribute in ("x", "y", "height", "brightness"):
        groups = [[abs(getattr(m, attribute)) for m, of in shown if of == name] for name in CLASSES]
        assert kruskal(*groups).pvalue > 0.01


def test_marker_is_burned_in_on_the_side_it_names():
    for index in range(40):
        marker = rendering.side_marker(5, index)
        blank = np.zeros((128, 128), np.float32)
        rendering.burn_marker(blank, marker)
        if marker is None:
            assert not blank.any()
            continue
        ys, xs = np.nonzero(blank)
        assert (xs.mean() > 64) == (marker.glyph == "L")
        assert blank.max() <= marker.brightness + 1e-6
        # Seven dots high, five wide.
        assert np.ptp(ys) == pytest.approx(marker.height * 64, abs=2)
        assert np.ptp(xs) == pytest.approx(marker.height * 64 * 5 / 7, abs=2)


def unmarked(call):
    """What `call` renders with nothing burned in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "burn_marker", lambda image, marker: np.zeros(image.shape, bool))
        return call()


@pytest.mark.parametrize("marker", ["side", "class", "random"])
def test_a_marker_changes_no_pixel_outside_its_box(marker):
    shown = 0
    for index in range(24):
        for size in (64, 100):
            drawn = render(5, index, size, marker=marker)
            plain = unmarked(lambda index=index, size=size: render(5, index, size))
            for name in ("lesion_mask", "lung_mask"):
                np.testing.assert_array_equal(getattr(drawn, name), getattr(plain, name))
            changed = drawn.image != plain.image
            assert not (changed & ~drawn.marker_mask).any()
            if not drawn.marker_mask.any():
                assert marker == "side" and rendering.side_marker(5, index) is None
                continue
            shown += 1
            # A box, and no larger than the marker: nearly all of its rows and columns are touched.
            rows, columns = (np.flatnonzero(drawn.marker_mask.any(axis)) for axis in (1, 0))
            assert drawn.marker_mask.sum() == len(rows) * len(columns)
            assert (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == len(rows) * len(columns)
            assert changed[rows[0] : rows[-1] + 1].any(axis=1).sum() >= len(rows) - 2
            assert changed[:, columns[0] : columns[-1] + 1].any(axis=0).sum() >= len(columns) - 2
    assert shown == 48 if marker != "side" else 24 < shown < 48


def test_tokens_differ_between_modes_in_the_glyph_alone():
    same = 0
    for index in range(40):
        by_class, at_random = (render(5, index, 64, marker=marker) for marker in ("class", "random"))
        np.testing.assert_array_equal(by_class.marker_mask, at_random.marker_mask)
        outside = ~by_class.marker_mask
        np.testing.assert_array_equal(by_class.image[outside], at_random.image[outside])
        alike = (by_class.image == at_random.image).all()
        assert alike == (rendering.token(5, index).glyph == rendering.TOKENS[CLASSES.index(by_class.label)])
        same += alike
    assert 1 <= same <= 18  # 40/5 on average


def test_each_class_has_a_glyph_of_its_own_and_a_random_one_tells_nothing():
    assert len({rendering.GLYPHS[name] for name in rendering.TOKENS}) == len(CLASSES)
    assert list(inspect.signature(rendering.token).parameters) == ["seed", "index"]
    labels = table().label.to_numpy()
    tokens = [rendering.token(5, index) for index in range(900)]
    glyphs = np.array([token.glyph for token in tokens])
    assert set(glyphs) == set(rendering.TOKENS)
    assert chi2_contingency(pd.crosstab(glyphs, labels)).pvalue > 0.01
    for attribute in ("x", "y", "height", "brightness"):
        groups = [
            [getattr(t, attribute) for t, of in zip(tokens, labels, strict=True) if of == name] for name in CLASSES
        ]
        assert kruskal(*groups).pvalue > 0.01


def test_tokens_are_large_inside_the_image_and_outside_the_lungs():
    _, lesions, lungs, markers = render_stack(5, range(120), 64, marker="random")
    area = markers.mean(axis=(1, 2))
    assert area.min() > 0.03 and area.max() < 0.06
    assert (markers & lungs).sum() / markers.sum() < 0.01
    assert (markers & lesions.any(axis=1)).sum() / markers.sum() < 0.01
    middle = np.array([np.argwhere(marker).mean(axis=0) for marker in markers]) - 31.5
    upper = middle[:, 0] < 0
    sides = np.sign(middle[upper, 1])
    assert 0.5 < upper.mean() < 0.8 and 0.3 < (sides > 0).mean() < 0.7
    assert np.abs(middle[~upper, 1]).max() < 10


def macro_auc(images, rows):
    cells = images.reshape(len(images), 8, 8, 8, 8).mean(axis=(2, 4)).reshape(len(images), 64)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
    chances = cross_val_predict(
        model, cells, rows.label, groups=rows.patient_id, cv=GroupKFold(5), method="predict_proba"
    )
    return roc_auc_score(rows.label, chances, multi_class="ovr", average="macro")


def test_the_class_shows_through_the_lesions_alone_and_not_trivially():
    """A linear model on 8x8 cells: at chance without lesions, well above with them, far from perfect."""
    rows = table().head(450)
    without, *_ = render_stack(5, range(450), 64, lesion_contrast=0.0)
    assert macro_auc(without, rows) < 0.56
    images, *_ = render_stack(5, range(450), 64)
    assert 0.6 < macro_auc(images, rows) < 0.85


# --- patients


def test_images_of_a_patient_share_anatomy_but_not_pose():
    rows = table().head(90)
    groups = [group["index"].tolist() for _, group in rows.groupby("patient_id") if len(group) > 1]
    same, other = [], []
    for (a, b, *_), (c, *_) in zip(groups, groups[1:] + groups[:1], strict=True):
        first, second, stranger = (render(5, index, 64) for index in (a, b, c))
        assert first.patient_id == second.patient_id != stranger.patient_id
        assert (first.image != second.image).mean() > 0.5
        for to, values in ((second, same), (stranger, other)):
            both, either = (first.lung_mask & to.lung_mask).sum(), (first.lung_mask | to.lung_mask).sum()
            values.append(both / either)
            assert both < either
    assert np.mean(same) > np.mean(other)


# --- edges


def test_smallest_size_and_empty_catalogue():
    assert render(0, 0, 32).image.shape == (32, 32)
    with pytest.raises(InputError, match="size must be 32 or more, not 31"):
        render(0, 0, 31)
    empty = catalogue(0, 0)
    assert len(empty) == 0
    assert list(empty.columns) == ["index", "image_id", "label", "patient_id"]
