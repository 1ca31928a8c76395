"""Does an attribution map pass its checks? Two tests of each method on each checkpoint, and a verdict.

`deleting.perturbation` asks whether the pixels that a map ranks high carry the class probability.
`randomising.cascade` asks whether the map depends on what the model has learned. `check` runs both on all
checkpoints and methods, and `verdict` says which methods pass.

Neither test proves that a map is right. A map that fails one of them supports no statement about the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from cxr.attribution import deleting, explaining, randomising, scores
from cxr.attribution.cases import Cases
from cxr.attribution.deleting import CENTRE, KINDS, RANDOM
from cxr.attribution.maps import MapSet
from cxr.core.errors import InputError
from cxr.statistics import bootstrap

SURVIVES = 0.5  # the limit of `verdict`


class Checked(NamedTuple):
    """What `check` found, for all checkpoints; each table has a column `checkpoint`."""

    verdicts: pd.DataFrame  # `verdict`
    areas: pd.DataFrame  # `deleting.perturbation`
    curves: pd.DataFrame  # `deleting.perturbation`
    cascades: pd.DataFrame  # `randomising.cascade`


def check(
    networks: Mapping[str, keras.Model],
    map_sets: Mapping[str, Mapping[str, MapSet]],
    cases: Cases,
    rows: np.ndarray,
    *,
    layer: str,
    score: str = scores.DEFAULT,
    batch_size: int = 32,
) -> Checked:
    """Both tests of every method on every checkpoint, on some of the images.

    Args:
        networks: by checkpoint.
        map_sets: by checkpoint and method; their rows are those of `cases`.
        rows: int [m], the images that are used (`Cases.checked`).
        layer: the target layer of the maps. score: what they explain.
        batch_size: images per pass.
    """
    images, classes = cases.pixels[rows], cases.class_index[rows]
    patients = cases.table["patient_id"].to_numpy()[rows]
    found = []
    for checkpoint, model in networks.items():
        maps = {method: map_set.maps[rows] for method, map_set in map_sets[checkpoint].items()}
        areas, curves = deleting.perturbation(
            model, images, classes, maps, batch_size=batch_size, label=f"{checkpoint}, deletion and insertion"
        )
        again = explaining.explainer(model, layer=layer, methods=tuple(maps), score=score, batch_size=batch_size)
        cascade = randomising.cascade(
            model,
            lambda _, again=again: again(images, classes),  # compiled once; it reads the weights as they are
            layer=layer,
            size=cases.size,
            label=f"{checkpoint}, randomisation",
        )
        tables = (verdict(areas, cascade, patients), areas, curves, cascade)
        found.append([table.assign(checkpoint=checkpoint) for table in tables])
    return Checked(*(pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True)))


def verdict(
    areas: pd.DataFrame,
    randomised: pd.DataFrame,
    patients: Sequence,
    *,
    level: float = 0.95,
    survives: float = SURVIVES,
    n_boot: int = 2000,
    rng_seed: int = 0,
) -> pd.DataFrame:
    """Which methods pass their checks on one checkpoint.

    - `passes_deletion`, `passes_insertion`: the interval of the mean gain over random maps lies above 0. Both must
      hold, so that two tests make passing harder, not easier.
    - `passes_randomisation`: with all weights randomised, the maps have little in common with the original ones.
      The interval of the median Spearman correlation lies below `survives`; a vanished map counts as 0.
    - `passes_checks`: all three.

    With few images the intervals are wide, so a method fails rather than passes by luck.

    Two numbers are arbitrary: `level` and `survives`. No paper gives a limit for the latter. Maps of one network
    on one grid correlate because of anatomy and padding alone, so do not expect 0; at 0.5 they share a quarter of
    the rank variance.

    The intervals are over patients, for this checkpoint and one draw of random weights. (Over five draws, the last
    level's median spanned 0.07 to 0.24 on two compact networks.) A failure means: not shown on these images. It
    proves nothing; `reason` says which ("not shown to be better", "worse"). The gain is in probability, so images
    of which the model is sure weigh most. Measure it on images that the model classifies correctly.

    A method can pass and be no better than the centre prior (`beats_centre`), if the evidence is in the centre. It
    can also pass although it hardly changes with the logits alone (`head_spearman` near 1). Then it shows what the
    network sees, not what speaks for the class, and nothing that training a head alone has changed.

    Parameters
    ----------
    areas : from `perturbation`.
    randomised : from `cascade`, on the same rows and methods.
    patients : [n], the patient of each row: the unit of resampling.
    level : of the intervals.
    survives : see above, in (0, 1].
    n_boot, rng_seed : see `cxr.statistics.bootstrap.bootstrap`.

    Returns
    -------
    One row a method, in the order of `areas`:

    - method; n_images, n_patients (with a usable map), n_empty;
    - deletion, insertion, and both for each baseline on the same images (deletion_random, deletion_centre, ...):
      means;
    - the gain of each kind over random maps, positive where the map is better (random - map for deletion, map -
      random for insertion), with its interval: deletion_gain, deletion_gain_ci_low, deletion_gain_ci_high, ...;
    - the same over the centre prior: deletion_gain_centre, ...;
    - head_spearman (median at the first level), randomised_spearman (median at the last level), randomised_ci_low,
      randomised_ci_high, randomised_overlap (median, vanished maps as 0), vanished (share at the last level);
    - passes_deletion, passes_insertion, passes_randomisation, beats_centre (both kinds), passes_checks: bool,
      False where nothing can be said (NaN); reason: why it does not pass, "" if it does.

    Raises
    ------
    InputError : for missing columns or methods, patients that do not cover the rows, and options out of range.
    """
    _require(areas, ("row", "method", "grid", *KINDS), "areas")
    _require(randomised, ("row", "method", "level", "spearman", "overlap", "vanished"), "randomised")
    if not 0 < survives <= 1:
        raise InputError(f"verdict: survives must lie in (0, 1], got {survives}: it is a rank correlation.")
    patients = np.asarray(patients)
    names = [name for name in areas["method"].unique() if name not in (RANDOM, CENTRE)]
    missing = sorted(set(names) - set(randomised["method"]))
    if missing or not names:
        raise InputError(f"verdict: no rows for {missing or 'any method'}; give both tests of the same methods.")
    rows = {*areas["row"], *randomised["row"]}
    if rows != set(range(len(patients))):
        raise InputError(
            f"verdict: {len(patients)} patients for rows {min(rows)} to {max(rows)}: give one for each row."
        )

    def interval(values: np.ndarray, statistic: str) -> tuple[float, float]:
        draws = bootstrap.bootstrap(values, patients, statistic=statistic, n_boot=n_boot, rng_seed=rng_seed)
        return bootstrap.interval(draws, level)

    def by_row(table: pd.DataFrame) -> pd.DataFrame:
        return table.set_index("row").reindex(range(len(patients)))

    found = []
    for name in names:
        mine = by_row(areas[areas["method"] == name])
        usable = mine["deletion"].notna().to_numpy()
        grid = areas.loc[areas["method"] == name, "grid"].iloc[0]
        baselines = {
            RANDOM: by_row(areas[(areas["method"] == RANDOM) & (areas["grid"] == grid)]),
            CENTRE: by_row(areas[areas["method"] == CENTRE]),
        }
        out: dict[str, object] = {
            "method": name,
            "n_images": int(usable.sum()),
            "n_patients": len(pd.unique(patients[usable])),
            "n_empty": int((~usable).sum()),
        }
        out |= {kind: mine[kind].mean() for kind in KINDS}
        for kind, sign in zip(KINDS, (-1, 1), strict=True):
            for baseline, table in baselines.items():
                out[f"{kind}_{baseline}"] = table.loc[usable, kind].mean()
            for baseline, table in baselines.items():
                gain = (sign * (mine[kind] - table[kind])).to_numpy()
                key = f"{kind}_gain" if baseline == RANDOM else f"{kind}_gain_{baseline}"
                low, high = interval(gain, "mean")
                out |= {key: float(gain[usable].mean()) if usable.any() else np.nan}
                out |= {f"{key}_ci_low": low, f"{key}_ci_high": high}

        levels = randomised[randomised["method"] == name]
        first, last = (
            by_row(levels[levels["level"] == at]) for at in (levels["level"].min(), levels["level"].max())
        )
        gone = last["vanished"].to_numpy(bool)
        left = {key: last[key].mask(gone, 0.0) for key in ("spearman", "overlap")}
        low, high = interval(left["spearman"].to_numpy(), "median")
        out |= {
            "head_spearman": first["spearman"].mask(first["vanished"].astype(bool), 0.0).median(),
            "randomised_spearman": left["spearman"].median(),
            "randomised_ci_low": low,
            "randomised_ci_high": high,
            "randomised_overlap": left["overlap"].median(),
            "vanished": gone.sum() / max(1, left["spearman"].notna().sum()),
            "passes_deletion": bool(out["deletion_gain_ci_low"] > 0),
            "passes_insertion": bool(out["insertion_gain_ci_low"] > 0),
            "passes_randomisation": bool(high < survives),
            "beats_centre": all(bool(out[f"{kind}_gain_centre_ci_low"] > 0) for kind in KINDS),
        }
        out["passes_checks"] = all(out[f"passes_{test}"] for test in (*KINDS, "randomisation"))
        found.append(out | {"reason": _reason(out, survives)})
    return pd.DataFrame(found)


def _reason(out: Mapping[str, object], survives: float) -> str:
    if out["n_patients"] < 2:
        return "usable maps of fewer than two patients: nothing can be said"
    reasons = []
    for kind, done in zip(KINDS, ("deleted", "inserted"), strict=True):
        if not out[f"passes_{kind}"]:
            verb = "worse than" if out[f"{kind}_gain_ci_high"] < 0 else "not shown to be better than"
            reasons.append(f"{verb} a random map when its pixels are {done}")
    if not out["passes_randomisation"]:
        verb = "survives" if out["randomised_ci_low"] >= survives else "may survive"
        reasons.append(f"{verb} the randomisation of all weights")
    return "; ".join(reasons)


def _require(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"verdict: {name} has no columns {missing}; it has {list(table.columns)}.")
