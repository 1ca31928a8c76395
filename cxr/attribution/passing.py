"""Which maps pass their checks: from the gains of single images to a verdict. NumPy and pandas only.

`cxr.attribution.map_checks` says what is checked and why, and measures the gains. `verdict` judges the maps of one
network, `over_seeds` those of several networks of one architecture that differ by their seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from cxr.core.errors import InputError
from cxr.statistics import bootstrap

RIVALS = {
    "deletion": "a random map when its pixels are blurred",
    "insertion": "a random map when only its pixels are kept",
    "class": "the map for another class",
    "head": "the map under a random head",
    "weights": "the map of a random network",
}
"""The checks, and the rival of each, as a reason names it."""
CHECKS = tuple(RIVALS)
LOOKS = (0.25, 0.5, 0.75)  # shares of the images after which the gains are looked at (`unsettled`)
_FEWEST = 10  # images of a first look: fewer say little of how gains vary
_HOPELESS = 0.01  # chance to pass in the end, under which more images are not worth their time
_SAME = 0.01  # log-odds; maps that differ by rounding alone may rank a few pixels otherwise


def verdict(
    gains: pd.DataFrame, patients: Sequence, *, level: float = 0.95, n_boot: int = 2000, rng_seed: int = 0
) -> pd.DataFrame:
    """Which methods pass their checks on which checkpoint.

    A check passes where the interval of the mean gain lies above 0. A method passes on a checkpoint if all
    five do: more checks make passing harder, not easier. With few images the intervals are wide, so a method
    fails rather than passes by luck.

    The intervals are over patients, for this checkpoint. A failure means: not shown on these images. It proves
    nothing; `reason` says which ("not shown to be better", "worse", "the same"). Measure on images that the
    model classifies correctly: on others there may be no evidence for the class.

    What a pass does not prove: that the map shows all of the evidence, that it shows it at the resolution of
    its grid, or that it is faithful on images unlike these. And a map may pass on the checkpoints before and
    after for different reasons.

    Parameters
    ----------
    gains : checkpoint, method, row, check, gain (`map_checks.measure`); more columns are ignored.
    patients : [m], the patient of each row: the unit of resampling. A check may have gains of some rows only
        (`unsettled`).
    level : of the intervals.
    n_boot, rng_seed : see `cxr.statistics.bootstrap.bootstrap`.

    Returns
    -------
    One row a checkpoint and method, in the order of `gains`: checkpoint, method; n_images, n_patients (with a
    usable map), n_empty, of the check with most images; passes_checks (bool); reason (why it does not pass, "" if
    it does); for each check (CHECKS) its mean gain with the interval, deletion_gain, deletion_gain_ci_low,
    deletion_gain_ci_high, and passes_deletion (bool, False where nothing can be said).

    Raises
    ------
    InputError : for missing columns, checks that lack, and patients that do not cover the rows.
    """
    missing = [name for name in ("checkpoint", "method", "row", "check", "gain") if name not in gains]
    if missing:
        raise InputError(f"verdict: gains has no columns {missing}; it has {list(gains.columns)}.")
    patients = np.asarray(patients)
    if not set(gains["row"]) <= set(range(len(patients))):
        raise InputError(
            f"verdict: {len(patients)} patients for rows {gains['row'].min()} to {gains['row'].max()}: give "
            "one for each row."
        )
    gains = gains.assign(patient_id=patients[gains["row"]], network=0)
    return _judged(gains, ["checkpoint", "method"], level=level, n_boot=n_boot, rng_seed=rng_seed)


def _judged(gains: pd.DataFrame, keys: list[str], *, level: float, n_boot: int, rng_seed: int = 0) -> pd.DataFrame:
    """`verdict` of each cell (`keys`), with the mean of the networks' mean gains.

    Args: gains: `keys`, network, row, patient_id, check, gain.
    """
    found = []
    for cell, part in gains.groupby(keys, sort=False):
        lacking = sorted(set(CHECKS) - set(part["check"]))
        if lacking:
            where = ", ".join(map(str, cell))
            raise InputError(f"verdict: gains of {where} has no rows of {lacking}: measure them.")
        out: dict[str, object] = {}
        reasons = []
        for check in CHECKS:
            own = part[part["check"] == check]
            values = own.pivot(index=["patient_id", "row"], columns="network", values="gain")
            values = values.dropna(axis=1, how="all")
            replicates = bootstrap.patient_replicates(values, statistic="mean", n_boot=n_boot, rng_seed=rng_seed)
            # a replicate that draws no image of a network is the mean of the others
            low, high = bootstrap.interval(replicates.mean(axis=1), level)
            out |= {
                f"{check}_gain": float(values.mean().mean()),
                f"{check}_gain_ci_low": low,
                f"{check}_gain_ci_high": high,
                f"passes_{check}": bool(low > 0),
            }
            if not low > 0:
                same = values.abs().max().max() < _SAME
                how = "the same as" if same else "worse than" if high < 0 else "not shown to be better than"
                reasons.append(f"{how} {RIVALS[check]}")
        usable = part.groupby(["network", "row", "patient_id"])["gain"].count() > 0
        n_patients = usable.index[usable].unique("patient_id").size
        if n_patients < 2:
            reasons = ["usable maps of fewer than two patients: nothing can be said"]
        counts = {"n_images": int(usable.sum()), "n_patients": n_patients, "n_empty": int((~usable).sum())}
        judgement = {"passes_checks": not reasons, "reason": "; ".join(reasons)}
        found.append(dict(zip(keys, cell, strict=True)) | counts | judgement | out)
    return pd.DataFrame(found)


def looks(n: int) -> list[int]:
    """After how many of `n` images the gains are looked at: at LOOKS of them, if these are enough, and at all."""
    return [*(k for k in (round(share * n) for share in LOOKS) if k >= _FEWEST), n]


def unsettled(gains: pd.DataFrame, patients: Sequence, share: float, *, level: float = 0.95) -> tuple[str, ...]:
    """The checks of a method on a checkpoint that more images are needed for; () where its verdict is clear.

    A check passes beyond doubt, where its mean gain lies as far above 0 as group-sequential tests demand at this
    look: the bound of O'Brien and Fleming (1979, Biometrics 35, 549-556), as the spending function of Lan and
    DeMets (1983, Biometrika 70, 659-663) has it for looks at any share. For a level of 0.95 these are 4.3 standard
    errors at a quarter of the images, 3.0 at a half and 2.3 at three quarters. What is spent early is not
    subtracted later: with three looks, a check of maps that gain nothing passes with a probability of 2.8 %, not
    2.5.

    The verdict is clear, where all checks pass beyond doubt; and where for one of them the chance to pass with all
    images is under 1 %, even if the gain is as large as the upper 95 % limit of what was measured (conditional
    power, Lan and Wittes 1988, Biometrics 44, 579-585): the method fails, whatever the others say. Under the gain
    that was measured itself, images of right maps would be left out by chance, and a study, which judges the gains
    of all its seeds together, would lack them.

    The standard error is that of a mean over images with patients as clusters, its tails those of Student's t.

    Args:
        gains: of one method on one checkpoint: row, check, gain, of the first rows. Only of checks that were
            unsettled so far.
        patients: [m], the patient of each row.
        share: of the images that are measured, in (0, 1).
        level: of the verdict's intervals.
    """
    alpha = (1 - level) / 2
    bound = stats.norm.isf(2 * stats.norm.sf(stats.norm.isf(alpha / 2) / np.sqrt(share)))
    patients = np.asarray(patients)
    by_check = {check: own.dropna(subset="gain") for check, own in gains.groupby("check", sort=False)}
    z = np.array([_standard_errors(own["gain"].to_numpy(), patients[own["row"]]) for own in by_check.values()])
    rest = (z + stats.norm.isf(0.05)) / np.sqrt(share) * (1 - share)  # what the other images may add
    hope = stats.norm.sf((stats.norm.isf(alpha) - z * np.sqrt(share) - rest) / np.sqrt(1 - share))
    if (hope < _HOPELESS).any():
        return ()
    return tuple(check for check, own in zip(by_check, z, strict=True) if own < bound)


def _standard_errors(gain: np.ndarray, patients: np.ndarray) -> float:
    """How many standard errors a mean lies above 0, as a normal value; 0 where too few patients tell."""
    _, cluster = np.unique(patients, return_inverse=True)
    n = cluster.max(initial=-1) + 1
    if n < 3:
        return 0.0
    rest = np.bincount(cluster, gain - gain.mean())
    error = np.sqrt(n / (n - 1) * (rest**2).sum()) / len(gain)
    if error == 0:
        return float(np.sign(gain.mean()) * np.inf) if gain.mean() else 0.0
    t = gain.mean() / error
    return float(np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), n - 1)))


def over_seeds(gains: pd.DataFrame, *, level: float = 0.95, n_boot: int = 2000) -> pd.DataFrame:
    """Which methods pass their checks on which checkpoint, for all seeds of each architecture together.

    The gain of a check is the mean of the seeds' mean gains: each seed counts the same, however many images its
    check took (`unsettled`). Were the images pooled, a seed whose maps are bad would count little, as it stops
    early. An interval is over patients, for these networks, and a patient is drawn with the images of all seeds.
    The maps of one seed alone are checked on few images, so that right maps may fail by chance, and the more seeds
    there are, the more surely one of them does. Maps that know nothing of the class gain nothing under any seed.

    Args:
        gains: architecture, seed, patient_id and the columns that `verdict` needs.

    Returns: architecture, n_seeds and the columns of `verdict`; no rows for no gains.
    """
    if gains.empty:
        return pd.DataFrame()
    cells = gains.groupby(["architecture", "method"], sort=False)
    gains = gains.iloc[np.argsort(cells.ngroup(), kind="stable")].rename(columns={"seed": "network"})
    table = _judged(gains, ["architecture", "checkpoint", "method"], level=level, n_boot=n_boot)
    seeds = cells["seed"].nunique()
    table.insert(1, "n_seeds", [seeds[cell] for cell in zip(table["architecture"], table["method"], strict=True)])
    return table


def in_word(table: pd.DataFrame) -> str:
    """Whether all maps of some rows of `verdict` pass: "yes", "no", or "not checked" where there are none."""
    if table.empty:
        return "not checked"
    return "yes" if table["passes_checks"].all() else "no"
