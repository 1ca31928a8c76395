"""The smallest difference between two architectures that a design finds with 80 % power."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from cxr.core.errors import InputError
from cxr.core.params import CompareParams, StudyParams
from cxr.report.evidence import primary_scores, twins
from cxr.statistics import planning
from cxr.statistics.estimates import Estimate
from cxr.statistics.planning import IMAGE_SD, SEED_SDS, assumed

_ASSUMED = (
    "ASSUMPTIONS, not measurements: in the primary metric as it is tested, the standard deviation of the median "
    f"is {{sd:g}} between seeds, and that of single values is {IMAGE_SD:g} between patients; what patients share "
    "cancels in a difference"
)


def declared(study: StudyParams, patients: int, *, pilot: str = "", tracking_uri: str | None = None) -> Any:
    """The entry of a plan: the smallest differences, and what they rest on. A text where they cannot be known.

    Args:
        patients: of the images that get maps; 0 if not counted.
        pilot: a study in the store, whose variances are used; empty: `SEED_SDS`.

    Raises: InputError: there is no such pilot, or it has one seed.
    """
    seeds, pairs = len(study.seed), len(list(combinations(study.architecture, 2)))
    tests = pairs * (len(study.method) - len(twins(study.method)))  # twins are not in Holm's family
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
    rows = []
    for basis, est in estimates.items():
        row: dict[str, Any] = {"rests_on": basis}
        for name, tested in (("in_one_comparison", 1), (f"in_the_strictest_of_{tests}", tests)):
            found = planning.smallest_effect(est, seeds=seeds, patients=patients, alpha=alpha / tested)
            row[name] = _in_words(found)
        rows.append(row)
    return {
        "of": f"a difference in {study.primary_metric} between two architectures, under one method",
        "power": planning.POWER,
        "seeds": seeds,
        "patients": f"{patients} (fewer where images are excluded)",
        "comparisons": f"{tests}; the strictest is the first step of Holm's correction over all of them",
        "smallest": rows,
    }


def _in_words(found: float) -> float | str:
    if found > 1:
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
        values = primary_scores(pilot.scores, study.primary_metric, level=study.level)
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
