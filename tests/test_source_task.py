import numpy as np
import pytest

from cxr.data import phantom
from cxr.training import source_task


def test_pictures_depend_on_seed_and_index_only():
    stack, textures, things = source_task.render_stack(3, 5, 48)
    image, texture, thing = source_task.render(3, 4, 48)
    np.testing.assert_array_equal(image, stack[4])
    assert (texture, thing) == (textures[4], things[4])
    assert not np.array_equal(image, source_task.render(4, 4, 48)[0])


def test_every_class_is_drawn_and_none_is_flat():
    images, textures, things = source_task.render_stack(0, 400, 32)
    assert images.dtype == np.uint8 and images.shape == (400, 32, 32)
    assert set(textures) == set(range(len(source_task.TEXTURES)))
    assert set(things) == set(range(len(source_task.OBJECTS)))
    assert images.std(axis=(1, 2)).min() > 1


@pytest.mark.parametrize("name", source_task.OBJECTS[1:])
def test_objects_cover_part_of_the_picture(name):
    y, x = np.mgrid[0:64, 0:64] / 64 - 0.5
    for seed in range(20):
        mask = source_task._object(name, x, y, np.random.default_rng(seed))
        assert np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1
        assert mask.max() > 0.5 and 0.0005 < mask.mean() < 0.6


def test_shares_no_class_with_the_phantom():
    assert not {*source_task.TEXTURES, *source_task.OBJECTS} & set(phantom.CLASSES)
