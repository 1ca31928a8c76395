"""The smallest difference between two architectures that a design finds with 80 % power."""

from __future__ import annotations

from itertools import combinations
from math import inf, nan, pi, sqrt
from typing import Any

from cxr.core.errors import InputError
from cxr.core.params import CompareParams, StudyParams
from cxr.metrics.metric_table import METRICS
from cxr.report import evidence
from cxr.statistics import planning
from cxr.statistics.estimates import Estimate

SEED_SDS = (0.02, 0.05)
IMAGE_SD = 0.15
"""Assumptions where there is no pilot: standard deviations of the primary metric, between the medians of two seeds
and between patients under one network. docs/inference.md uses the same."""
_ASSUMED = (
    "ASSUMPTIONS, not measurements: in the primary metric as it is tested, the standard deviation of the median "
    f"is {{sd:g}} between seeds, and that of single values is {IMAGE_SD:g} between patients; what patients share "
    "cancels in a difference"
)


def smallest(
    est: Estimate, *, seeds: int, patients: int, alpha: float = 0.05, most: float = 1.0, precision: float = 1e-4
) -> float:
    """The smallest difference that so many seeds and patients find with `planning.POWER`, two-sided at alpha.

    By bisection of `planning.power`, which grows with the effect.

    Args:
        est: an estimate of such a difference, with its variance components.
        most: the largest difference that the metric allows.

    Returns: the difference, within `precision` and never too small; infinity if even `most` has less power; NaN if
        `est` has one seed or no variance.
    """

    def power(effect: float) -> float:
        return planning.power(est, effect=effect, seeds=seeds, patients=patients, alpha=alpha)

    if seeds < 2 or power(most) != power(most):
        return nan
    if power(most) < planning.POWER:
        return inf
    low, high = 0.0, most
    while high - low > precision:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= planning.POWER else (middle, high)
    return high


def assumed(seed_sd: float, *, seeds: int, patients: int, level: float) -> Estimate:
    """A difference between the medians of two architectures, with the variances that `SEED_SDS` assume.

    The variance of a median is pi / 2 times that of a mean.
    """
    residual = 2 * pi / 2 * IMAGE_SD**2 / patients
    between = 2 * seed_sd**2 + residual
    return Estimate(
        *(0.0, sqrt(between / seeds), seeds - 1.0, nan, nan, level),
        *(seeds, patients, between, 0.0, residual, 2.0 * (seeds - 1)),
    )


def declared(study: StudyParams, patients: int, *, pilot: str = "", tracking_uri: str | None = None) -> Any:
    """The entry of a plan: the smallest differences, and what they rest on. A text where they cannot be known.

    Args:
        patients: of the images that get maps; 0 if not counted.
        pilot: a study in the store, whose variances are used; empty: `SEED_SDS`.

    Raises: InputError: there is no such pilot, or it has one seed.
    """
    seeds, pairs = len(study.seed), len(list(combinations(study.architecture, 2)))
    methods = [name for name in study.method if name not in evidence.TWIN.values()]  # asked only if they agree
    tests = pairs * len(methods)
    estimates = of_pilot(pilot, study, tracking_uri) if pilot else {}  # a mistyped pilot is refused in any case
    if not pairs:
        return "not asked: there is one architecture"
    if seeds < 2:
        return "not known: one seed does not show how seeds vary, so no difference between architectures is found"
    if patients < 2:
        return "not known: the patients were not counted"
    if not pilot:
        estimates = {
            _ASSUMED.format(sd=sd): assumed(sd, seeds=seeds, patients=patients, level=study.level)
            for sd in SEED_SDS
        }
    alpha = 1 - study.level
    corrected = METRICS[study.primary_metric].identical == 1
    metric = f"corrected {study.primary_metric}" if corrected else study.primary_metric
    rows = []
    for basis, est in estimates.items():
        row: dict[str, Any] = {"rests_on": basis}
        for name, tested in (("in_one_comparison", 1), (f"in_the_strictest_of_{tests}", tests)):
            found = smallest(est, seeds=seeds, patients=patients, alpha=alpha / tested)
            row[name] = _in_words(found)
        rows.append(row)
    return {
        "of": f"a difference in {metric} between two architectures, under one method",
        "power": planning.POWER,
        "seeds": seeds,
        "patients": f"{patients} (fewer where images are excluded)",
        "comparisons": f"{tests}; the strictest is the first step of Holm's correction over all of them",
        "smallest": rows,
    }


def _in_words(found: float) -> float | str:
    if found == inf:
        return "none: even a difference of 1 is found with less power"
    return round(found, 3) if found == found else "not known: the values do not vary"


def of_pilot(name: str, study: StudyParams, tracking_uri: str | None = None) -> dict[str, Estimate]:
    """Differences between the architectures of a pilot, in the study's primary metric, by what they are.

    Raises InputError: there is no such study in the store, it has one architecture, or one seed.
    """
    from cxr import tracking  # loads MLflow, which takes seconds
    from cxr.report import scores
    from cxr.statistics import contrasts

    uri = tracking.resolve(tracking_uri)
    if tracking.is_new(uri):
        raise InputError(f"--pilot {name}: there is no store at {uri}: correct --tracking-uri")
    tracking.connect(uri)
    try:
        pilot = scores.open(CompareParams(name=name))
        values = evidence.primary_scores(pilot.scores, study.primary_metric, level=study.level)
    except InputError as error:
        raise InputError(f"--pilot {name}: {error}") from None
    pairs = contrasts.compare_architectures(values)
    if pairs.empty or pairs["n_seeds"].max() < 2:
        what = "one architecture" if pairs.empty else "one seed"
        raise InputError(
            f"--pilot {name}: it has {what}, which does not show how the difference between two architectures "
            "varies: name a study with several, or leave --pilot out"
        )
    return {
        f"the pilot {name!r}, {row.method}: {row.a} - {row.b} ({row.n_seeds} seeds, {row.n_patients} patients; "
        "variances from few seeds are rough)": row.estimate
        for row in pairs.itertuples()
    }
