"""Do the tests hold their level? Simulations of false-positive rate, coverage and power, as Markdown tables.

Run: python tests/benchmarks/bench_inference.py [--small] [--jobs N]

Data are like per-image overlaps: two architectures under two methods, k training seeds each, examined on one
test set of n patients with one or two images. A value is 0.55 + effect of the network (what its seed did:
`seed sd`, half of its variance common to both methods) + effect of the patient (sd 0.08, half of its variance
common to all networks, half the architecture's and method's own) + effect of the patient under this network
(sd 0.05) + image (sd 0.15, half of its variance common to all networks), clipped to [0, 1]. The statistic is
the median. A claim is about trainings in general, so with one seed, whose luck no test can see, every rate is
off by as much as seeds matter.

The whole takes about five minutes of one core. A rate of 0.05 counted over 600 repeats (50 patients) has a
standard error of 0.009, over 400 (150 patients) of 0.011, over 200 (400 patients) of 0.015.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import special, stats

from cxr.metrics import classification
from cxr.statistics import bootstrap, estimates, planning, rank_tests, resampling
from cxr.statistics.score_rows import Scores

ALPHA, CENTRE, MARGIN = 0.05, 0.55, 0.05
EFFECTS = (0.02, 0.05, 0.1)


def simulate(
    rng: np.random.Generator, k: int, n: int, seed_sd: float, architectures: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """(values [architectures, 2 methods, k seeds, images], patient [images]), all cells of one expectation."""
    patient = np.repeat(np.arange(n), rng.integers(1, 3, n))
    shape, images = (architectures, 2, k), len(patient)

    def normal(sd: float, *size: int) -> np.ndarray:
        return rng.normal(0, sd, size) if sd else np.zeros(size)

    half = np.sqrt(0.5)
    network = normal(seed_sd * half, architectures, 1, k, 1) + normal(seed_sd * half, *shape, 1)
    patients = normal(0.08 * half, n) + normal(0.08 * half, architectures, 2, 1, n)
    patients = patients + normal(0.05, architectures, 1, k, n)
    image = normal(0.15 * half, images) + normal(0.15 * half, *shape, images)
    return np.clip(CENTRE + network + patients[..., patient] + image, 0, 1), patient


def engine(values: np.ndarray, patient: np.ndarray, n_boot: int, rng_seed: int):
    """A function from the weights of (architecture, method) cells to `estimates.estimate`."""
    weights = bootstrap.patient_weights(patient, n_boot=n_boot, rng_seed=rng_seed)
    point = np.median(values, axis=-1)
    draws = np.empty((n_boot, *point.shape))
    for cell in np.ndindex(point.shape):
        draws[:, *cell] = resampling.weighted("median", values[cell], weights)

    def contrast(cells: dict[tuple[int, int], int]) -> estimates.Estimate:
        theta = sum(w * point[cell] for cell, w in cells.items())
        replicates = sum(w * draws[:, *cell] for cell, w in cells.items())
        return estimates.estimate(theta, replicates, n_patients=patient[-1] + 1)

    return contrast


def crossed_setting(k: int, n: int, seed_sd: float, repeats: int, n_boot: int) -> dict[str, float]:
    """Rates of rejection, and coverage, in one setting."""
    rows, parts = [], []
    for i in range(repeats):
        rng = np.random.default_rng([k, n, round(1000 * seed_sd), i])
        values, patient = simulate(rng, k, n, seed_sd)
        contrast = engine(values, patient, n_boot, i)
        one, two = contrast({(0, 0): 1, (1, 0): -1}), contrast({(0, 1): 1, (1, 1): -1})
        cell = contrast({(0, 0): 1})
        both = contrast({(0, 0): 1, (1, 0): -1, (0, 1): -1, (1, 1): 1})
        means = pd.DataFrame(values[:, 0].mean(1).T).groupby(patient).mean().to_numpy()
        row = {
            "engine": estimates.p_value(one) < ALPHA,
            "Satterthwaite": 2 * special.stdtr(one.df, -abs(one.value) / one.se) < ALPHA,
            "Wilcoxon": stats.wilcoxon(means[:, 0] - means[:, 1]).pvalue < ALPHA,
            "coverage": cell.low <= CENTRE <= cell.high,
            "TOST at the margin": estimates.equivalence(replace(one, value=one.value + MARGIN), MARGIN) < ALPHA,
            "crossover, no difference": estimates.reversal_p(one, two) < ALPHA,
            "crossover, one method differs": estimates.reversal_p(replace(one, value=one.value + 0.1), two)
            < ALPHA,
            "interaction": estimates.p_value(both) < ALPHA,
        }
        row |= {f"power {e}": estimates.p_value(one, -e) < ALPHA for e in EFFECTS}
        rows.append(row)
        parts.append([one.var_seeds, one.var_patients, one.var_residual])
    out = pd.DataFrame(rows).mean().to_dict()
    # The planner, given the average components, beside the power found.
    components = dict(zip(("var_seeds", "var_patients", "var_residual"), np.mean(parts, axis=0), strict=True))
    typical = replace(one, **components)
    out |= {f"planned {e}": planning.power(typical, effect=e) for e in EFFECTS}
    return out | {"k": k, "n": n, "sd": seed_sd}


def percentile_setting(k: int, n: int, seed_sd: float, repeats: int, n_boot: int) -> dict[str, float]:
    """The hierarchical percentile bootstrap (`bootstrap.paired_replicates`) on the same data."""
    reject, cover = 0, 0
    for i in range(repeats):
        rng = np.random.default_rng([k, n, round(1000 * seed_sd), i])
        values, patient = simulate(rng, k, n, seed_sd)
        index = {
            "seed": np.repeat(np.arange(k), len(patient)),
            "image_id": np.tile(np.arange(len(patient)), k),
            "patient_id": np.tile(patient, k),
        }
        columns = pd.MultiIndex.from_tuples([("A", "m"), ("B", "m")], names=["architecture", "method"])
        index = pd.MultiIndex.from_frame(pd.DataFrame(index))
        table = pd.DataFrame(values[:, 0].reshape(2, -1).T, index, columns)
        draws = bootstrap.paired_replicates(table, n_boot=n_boot, rng_seed=i)
        low, high = bootstrap.interval((draws["A", "m"] - draws["B", "m"]).to_numpy())
        reject += not low <= 0 <= high
        low, high = bootstrap.interval(draws["A", "m"].to_numpy())
        cover += low <= CENTRE <= high
    return {"k": k, "n": n, "sd": seed_sd, "percentile": reject / repeats, "cover": cover / repeats}


def rank_setting(k: int, n: int, repeats: int) -> dict[str, float]:
    """Friedman and Wilcoxon under their own null: three architectures, seeds that do nothing."""
    found = []
    for i in range(repeats):
        values, patient = simulate(np.random.default_rng([k, n, i]), k, n, 0, architectures=3)
        cells = list(np.ndindex(3, 1, k))
        scores = pd.concat(
            pd.DataFrame(
                {
                    "architecture": "ABC"[a],
                    "method": "m",
                    "seed": s,
                    "image_id": np.arange(len(patient)),
                    "patient_id": patient,
                    "value": values[a, m, s],
                }
            )
            for a, m, s in cells
        )
        tests = rank_tests.paired_tests(Scores.of(scores, "value"))
        pairs = tests[tests["test"] == "wilcoxon"]
        friedman = tests.loc[tests["test"] == "friedman", "p"].iloc[0]
        found.append([friedman < ALPHA, (pairs["p"] < ALPHA).mean(), (pairs["p_holm"] < ALPHA).any()])
    rates = dict(zip(("Friedman", "Wilcoxon", "any pair, Holm"), np.mean(found, axis=0), strict=True))
    return {"seeds": k, "patients": n} | rates


def auc_setting(k: int, n: int, seed_sd: float, repeats: int, n_boot: int) -> dict[str, float]:
    """Change of AUC between two checkpoints, binormal with separation 1.5, truth 0: coverage and TOST."""
    cover, equal = 0, 0
    for i in range(repeats):
        rng = np.random.default_rng([k, n, round(1000 * seed_sd), i, 1])
        labels = rng.permutation(np.arange(n) % 2)
        weights = bootstrap.patient_weights(np.arange(n), n_boot=n_boot, rng_seed=i)
        weights = weights[(weights[:, labels == 1].sum(1) > 0) & (weights[:, labels == 0].sum(1) > 0)]
        case = rng.normal(0, np.sqrt(0.6), n)
        ones, point, draws = np.ones((1, n), dtype=int), [], []
        for _ in range(k):
            logits = [
                labels * (1.5 + rng.normal(0, seed_sd)) + case + rng.normal(0, np.sqrt(0.4), n) for _ in range(2)
            ]
            p = [np.stack([1 - q, q], 1) for q in special.expit(logits)]
            point.append(np.diff([classification.auc_replicates(labels, q, ones)[0] for q in p])[0])
            draws.append(np.diff([classification.auc_replicates(labels, q, weights) for q in p], axis=0)[0])
        est = estimates.estimate(point, np.transpose(draws), n_patients=n)
        cover += est.low <= 0 <= est.high
        equal += estimates.equivalence(replace(est, value=est.value + 0.02), 0.02) < ALPHA
    return {
        "seeds": k, "patients": n, "seed sd of the separation": seed_sd,
        "coverage": cover / repeats, "TOST at a margin of 0.02": equal / repeats,
    }  # fmt: skip


def show(title: str, table: pd.DataFrame) -> None:
    """Print as Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(map(str, table.columns)) + " |")
    print("|" + " --- |" * table.shape[1])
    for row in table.itertuples(index=False):
        cells = [v if isinstance(v, str) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
        print("| " + " | ".join("-" if c == "nan" else c for c in cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few settings and repeats, for a check in seconds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    start = time.perf_counter()
    seeds, patients, sds = (
        ((1, 2, 3), (50,), (0, 0.05)) if args.small else ((1, 2, 3, 5), (50, 150, 400), (0, 0.02, 0.05))
    )
    repeats, n_boot = ({50: 60}, 100) if args.small else ({50: 600, 150: 400, 400: 200}, 300)
    more = 20 if args.small else 300  # repeats of what is slower
    run = Parallel(n_jobs=args.jobs)

    settings = [*product(seeds, patients, sds)]
    if not args.small:
        settings += [(10, n, 0.02) for n in patients]
    found = pd.DataFrame(run(delayed(crossed_setting)(k, n, sd, repeats[n], n_boot) for k, n, sd in settings))
    middle = patients[len(patients) // 2]
    plain = run(delayed(percentile_setting)(k, middle, sd, more, n_boot) for k, sd in product(seeds, sds))
    found = found.merge(pd.DataFrame(plain), on=["k", "n", "sd"], how="left")
    found = found.rename(columns={"k": "seeds", "n": "patients", "sd": "seed sd"})
    keys = ["seeds", "patients", "seed sd"]

    level = found[keys + ["engine", "Satterthwaite", "percentile", "Wilcoxon"]]
    show(
        "False positives at 0.05: difference of two architectures of equal expected overlap",
        level.rename(columns={"percentile": "percentile bootstrap", "Wilcoxon": "Wilcoxon on patients"}),
    )
    cover = found[keys + ["coverage", "cover"]]
    show(
        "Coverage of 95 % intervals of one cell's median, over trainings",
        cover.rename(columns={"coverage": "engine", "cover": "percentile bootstrap"}),
    )
    others = ["TOST at the margin", "crossover, no difference", "crossover, one method differs", "interaction"]
    show("False positives at 0.05: other claims", found[keys + others])
    ranks = run(delayed(rank_setting)(k, n, more) for k, n in product((1, 2), patients[:2]))
    show("False positives at 0.05 of rank tests, seeds without effect", pd.DataFrame(ranks))
    grid = product((2, 3, 5) if not args.small else (2,), patients[:2], (0, 0.3))
    show("Change of AUC", pd.DataFrame(run(delayed(auc_setting)(k, n, sd, more, n_boot) for k, n, sd in grid)))
    several = found[(found["seeds"] > 1) & (found["seed sd"] > 0)].sort_values(["seed sd", "patients", "seeds"])
    columns = [f"{kind} {e}" for e in EFFECTS for kind in ("power", "planned")]
    show(
        "Power at 0.05 to find a difference of so much: simulated, and as planning.power plans it",
        several[keys + columns],
    )
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
