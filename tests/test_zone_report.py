"""From where to where in the chest: what a report says of zones."""

import numpy as np
import pandas as pd

from cxr.metrics import regions
from cxr.metrics.zones import ZONES
from cxr.report import zones


def rows(architecture, label, changes, *, passes=True):
    """One row a zone; `changes`: change and half its interval, in points of 100, of some zones."""
    found = []
    for zone in ZONES:
        change, half = changes.get(zone, (0.0, 1.0))
        low, high = change - half, change + half
        found.append(
            {
                **{"architecture": architecture, "method": "layercam", "region": zone, "n_images": 9},
                **{"energy_change": change / 100, "energy_change_ci_low": low / 100},
                **{"energy_change_ci_high": high / 100, "label": label, "passes_checks": passes},
                "direction": "towards" if low > 0 else "away" if high < 0 else "unclear",
            }
        )
    return pd.DataFrame(found)


def test_the_zones_that_gained_and_lost_most_of_those_that_changed():
    changes = {"left_lower": (3, 1), "right_lower": (5, 6), "outside": (-2, 0.5), "mediastinum": (-4, 1)}
    table = pd.concat(
        [
            rows("A", zones.ALL, changes),
            rows("A", "cavities", {}),
            rows("B", zones.ALL, changes, passes=False),
        ]
    )
    found = zones.largest(table)
    assert found[["architecture", "label", "images"]].values.tolist() == [
        ["A", "all classes", 9],
        ["A", "cavities", 9],
    ]
    assert found["gained"].tolist() == ["left lower +3.0 [+2.0, +4.0]", "-"]
    assert found["lost"].tolist() == ["mediastinum -4.0 [-5.0, -3.0]", "-"]


def test_where_no_maps_pass_there_is_no_row():
    assert zones.largest(rows("A", zones.ALL, {}, passes=False)).empty


def test_images_without_two_lungs_are_counted_and_have_no_values(capsys):
    lungs = np.zeros((2, 48, 48), bool)
    lungs[0, 10:40, 8:20] = lungs[0, 10:40, 28:40] = lungs[1, 10:40, 8:40] = True
    masks = zones.of_lungs(lungs)
    assert (
        "zones: 1 of 2 images have none: the lung mask has 1 large pieces, not two (1)" in capsys.readouterr().out
    )
    before, after = np.random.default_rng(0).random((2, 2, 6, 6)).astype(np.float32)
    found = pd.DataFrame(regions.region_table(before, after, masks, size=48))
    energy = found[[f"{zone}_energy_before" for zone in ZONES]].to_numpy()
    assert np.isclose(energy[0].sum(), 1) and np.isnan(energy[1]).all()
    assert zones.of_lungs(None) == zones.of_lungs(lungs & False) == {}
