"""The table of drift metrics: what each is called, how to read it, and the function that computes it.

To add a metric:

1. In a new file of this folder write a function of two prepared maps, `before` and `after`
   (`cxr.metrics.map_features.Features`), that returns a float. Compute what it needs of each map alone through
   `Features.once`.
2. Add one entry to `METRICS`.

Tables, summaries, baselines, the comparison and figures then have it: they go through `METRICS`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from cxr.core.errors import InputError
from cxr.metrics import concentration, correlation, overlap, position, ssim
from cxr.metrics.map_features import Features


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One drift metric.

    Attributes
    ----------
    name : the column of the per-image table, and the stem of the names of MLflow metrics.
    label : the label of an axis.
    compute : the value of a pair of prepared maps of one size, as float.
    identical : the value of two identical maps.
    higher_is_more_stable : None where neither direction means stability (signed changes).
    signed : the value is after minus before, and changes its sign when the two are swapped. All other metrics are
        symmetric.
    bounds : no value lies beyond.
    smallest_side : the least height and width, in pixels, on which it can be computed.
    """

    name: str
    label: str
    compute: Callable[[Features, Features], float]
    identical: float
    higher_is_more_stable: bool | None
    signed: bool = False
    bounds: tuple[float, float] = (0, 1)
    smallest_side: int = 1


def _distance(name: str, label: str, compute: Callable) -> Metric:
    """A distance in units of the image diagonal: 0 for identical maps."""
    label = f"{label} (fraction of the image diagonal)"
    return Metric(name=name, label=label, compute=compute, identical=0.0, higher_is_more_stable=False)


def _likeness(name: str, label: str, compute: Callable, *, lowest: float = 0, smallest_side: int = 1) -> Metric:
    """A likeness in [lowest, 1]: 1 for identical maps."""
    return Metric(
        name=name,
        label=label,
        compute=compute,
        identical=1.0,
        higher_is_more_stable=True,
        bounds=(lowest, 1),
        smallest_side=smallest_side,
    )


def _overlap(name: str, q: float) -> Metric:
    return _likeness(name, f"Overlap of the top {100 * q:.0f} % area (IoU)", partial(overlap.overlap, q=q))


def _change(name: str, label: str, compute: Callable) -> Metric:
    """A signed change: 0 for identical maps, in [-1, 1]."""
    label = f"Change in {label} (after - before)"
    return Metric(
        name=name,
        label=label,
        compute=compute,
        identical=0.0,
        higher_is_more_stable=None,
        signed=True,
        bounds=(-1, 1),
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _distance("centroid_shift", "Centroid shift", position.centroid_shift),
        _distance("peak_shift", "Peak shift", position.peak_shift),
        _overlap("overlap_q05", 0.05),
        _overlap("overlap_q10", 0.10),
        _overlap("overlap", 0.20),
        _overlap("overlap_q30", 0.30),
        _likeness("soft_iou", "Soft IoU (sum of minima / sum of maxima)", overlap.soft_iou),
        _likeness("pearson", "Pearson correlation", correlation.pearson, lowest=-1),
        _likeness("spearman", "Spearman rank correlation", correlation.spearman, lowest=-1),
        _likeness("ssim", "SSIM", ssim.ssim, lowest=-1, smallest_side=ssim.WINDOW),
        _change("gini_change", "Gini coefficient", concentration.gini_change),
        _change("entropy_change", "normalised entropy", concentration.entropy_change),
        _change("top10_energy_change", "top-10 % energy share", concentration.top10_energy_change),
    )
}


def wanted_metrics(names: Iterable[str] | None) -> list[str]:
    """The metrics `names` (None: all) in the order of `METRICS`. Raises InputError for other names."""
    if names is None:
        return list(METRICS)
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"names: unknown metrics {unknown}; known are {list(METRICS)}.")
    return [name for name in METRICS if name in names]


def sign_of_stability(name: str) -> int:
    """1 if higher values of the metric mean more stable maps, -1 if lower ones do.

    Raises InputError for a metric without a direction (a signed change).
    """
    higher = METRICS[name].higher_is_more_stable
    if higher is None:
        raise InputError(f"primary_metric: {name} has no direction of stability: use another, such as overlap")
    return 1 if higher else -1
