"""What the notebooks of a study need of the machine's memory, said before they start."""

import keras
import numpy as np
import pytest
from keras import layers

from cxr.core.errors import InputError
from cxr.core.params import StudyParams
from cxr.models import size
from cxr.models.size import Size
from cxr.study import memory

GIB = 2**30
STUDY = StudyParams(batch_size=16, attribute_batch_size=32)


def test_the_size_of_a_network_by_hand():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(3, 3, strides=2, padding="same")(image)  # 3 * 9 + 3 weights, 4 * 4 * 3 numbers
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(2)(x))
    assert size.of_model(model) == Size(30 + 8, 64 + 48 + 3 + 2)


def test_needs_grow_with_the_network_and_the_batch():
    small, large = memory.needed(Size(0, 0), STUDY), memory.needed(Size(GIB // 16, 0), STUDY)
    assert large["fine-tuning"] - small["fine-tuning"] == pytest.approx(1)
    assert large["attribution"] - small["attribution"] == pytest.approx(1 / 4)
    one = memory.needed(Size(0, GIB // 4 // 16), STUDY)  # activations of 1 GiB in a batch of 16
    two = memory.needed(Size(0, GIB // 4 // 16), STUDY.model_copy(update={"batch_size": 32}))
    assert 1 <= one["fine-tuning"] - small["fine-tuning"] < 2
    grown = {name: found["fine-tuning"] - small["fine-tuning"] for name, found in (("one", one), ("two", two))}
    assert grown["two"] == pytest.approx(2 * grown["one"])
    assert two["attribution"] == one["attribution"]


SIZES = {"Small": Size(10**6, 10**6), "Large": Size(20 * 10**6, 30 * 10**6)}
MOST = memory.needed(SIZES["Large"], STUDY)["attribution"]


def test_the_largest_need_is_said():
    line = memory.check(SIZES, STUDY, at_once=1, gib=16.0)
    assert line == f"memory: attribution Large takes about {MOST:.1f} GiB (batches of 32); this machine has 16.0"
    line = memory.check(SIZES, STUDY, at_once=2, gib=16.0)
    assert f"2 notebooks at once up to {2 * MOST:.1f}" in line and "CAUTION" not in line


def test_what_may_not_fit_is_a_caution_and_what_cannot_is_refused():
    line = memory.check(SIZES, STUDY, at_once=2, gib=1.9 * MOST)
    assert line.startswith("CAUTION: memory") and line.endswith(
        "if notebooks are killed, lower attribute_batch_size, or jobs"
    )
    with pytest.raises(InputError, match=r"memory: .*machine has \d+\.\d: lower attribute_batch_size, or jobs$"):
        memory.check(SIZES, STUDY, at_once=2, gib=1.4 * MOST)
    trained = STUDY.model_copy(update={"batch_size": 128})
    with pytest.raises(InputError, match=r"fine-tuning Large takes .* \(batches of 128\); .*: lower batch_size$"):
        memory.check(SIZES, trained, at_once=1, gib=4.0)


def test_the_memory_of_a_container_counts(monkeypatch):
    machine = memory.of_machine()
    assert 0 < machine < 10**5
    monkeypatch.setattr(memory.Path, "read_text", lambda _: f"{GIB}\n")
    assert memory.of_machine() == pytest.approx(min(machine, 1))
    monkeypatch.setattr(memory.Path, "read_text", lambda _: "max\n")
    assert np.isfinite(memory.of_machine()) and memory.of_machine() >= machine
