"""Does every verdict keep its level, and does every interval cover? Simulations, as Markdown tables.

Run: python tests/benchmarks/bench_inference.py [--small] [--jobs N]

A simulated study has three architectures under two methods, k training seeds each, examined on one test set of 60
patients with one or two images (150 patients for AUC). Values are like overlaps: a centre + what the seed did
(`seed sd`, half of its variance common to both methods) + the patient (sd 0.08, half of its variance common to all
networks, half the architecture's and method's own) + the patient under this network (sd 0.05) + the image (sd
0.15, half of its variance common to all networks). Overlap of two patients, of pairs of seeds, of two heads and
the centroid shift are made alike. Scores of classifiers are binormal, and the separation of their classes varies
between trainings by six times the seed sd. Estimates and verdicts are those of `cxr.statistics`,
`cxr.report.verdicts` and `cxr.report.questions`; of the classes, those of `cxr.report.groups`.

Each rule is asked at the edge of its null hypothesis, where errors are most frequent: for *supported*, one member
of an "all" claim lies at the edge and the others are clearly true; for *contradicted*, all lie at the edge.
With one seed a verdict is about these networks only, so the seed's own effect is part of the truth: seed sd 0.

The rule for a pass: an error rate is within one point above its level, and coverage within one point below its
own, beyond twice the Monte-Carlo error. Errors below the level, and coverage above its own, are allowed: the
interval (Banerjee's) is conservative where seeds and patients both matter.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import optimize, special

from cxr.metrics import baselines, classification
from cxr.report import groups, judgement, questions, verdicts
from cxr.report.evidence import Evidence, Margins
from cxr.report.judgement import Judgement
from cxr.statistics import bootstrap, estimates, planning, rank_tests, resampling
from cxr.statistics.estimates import Estimate
from cxr.statistics.score_rows import Scores

MARGINS = Margins(auc=0.02, centroid=0.5, overlap=0.1)
NAMES, METHODS = ("DenseNet201", "ResNet50V2", "InceptionV3"), ("layercam", "gradcampp")
CELLS = list(product(range(3), range(2)))
PATIENTS, PATIENTS_AUC = 60, 150
CENTRE, SHARED, NOISE = 0.55, 0.3, 0.55  # overlap; of two patients; of two seeds or heads, as far as fine-tuning
FAR = 5.0  # a member that is clearly true


def normal(rng: np.random.Generator, sd: float, *size: int) -> np.ndarray:
    return rng.normal(0, sd, size) if sd else np.zeros(size)


def columns(rng: np.random.Generator, patient: np.ndarray, *shape: int) -> np.ndarray:
    """Noise of patients and images, [*shape, images]; shape is (architectures, methods, networks)."""
    n, images, half = patient[-1] + 1, len(patient), np.sqrt(0.5)
    patients = (
        normal(rng, 0.08 * half, n) + normal(rng, 0.08 * half, *shape[:-1], 1, n) + normal(rng, 0.05, *shape, n)
    )
    return patients[..., patient] + normal(rng, 0.15 * half, images) + normal(rng, 0.15 * half, *shape, images)


class Draws:
    """Medians of columns, and their replicates under one bootstrap over the patients."""

    def __init__(self, patient: np.ndarray, n_boot: int, rng_seed: int) -> None:
        weights = bootstrap.patient_weights(patient, n_boot=n_boot, rng_seed=rng_seed)
        self.weights = resampling.counts_by_row(weights).T
        self.n_boot = n_boot

    def __call__(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """([...], [..., n_boot]) of values [..., images]."""
        flat = values.reshape(-1, values.shape[-1])
        draws = np.stack([resampling.weighted("median", column, self.weights) for column in flat])
        return np.median(values, axis=-1), draws.reshape(*values.shape[:-1], self.n_boot)


def study(k: int, seed_sd: float, n_boot: int, number: int) -> dict[str, object]:
    """The estimates of one simulated study in which nothing differs and everything lies at its centre."""
    rng = np.random.default_rng([k, round(1000 * seed_sd), number])
    patient = np.repeat(np.arange(PATIENTS), rng.integers(1, 3, PATIENTS))
    draws, half, n = Draws(patient, n_boot, number), np.sqrt(0.5), PATIENTS
    network = normal(rng, seed_sd * half, 3, 1, k) + normal(rng, seed_sd * half, 3, 2, k)
    raw = draws(CENTRE + network[..., None] + columns(rng, patient, 3, 2, k))
    shared = draws(SHARED + columns(rng, patient, 3, 2, k))
    corrected = [baselines.corrected(raw[i], shared[i]) for i in (0, 1)]

    def contrast(values: list[np.ndarray], weights: dict[tuple[int, int], int]) -> Estimate:
        groups = []
        for a in dict.fromkeys(a for a, _ in weights):
            own = [(m, w) for (name, m), w in weights.items() if name == a]
            groups.append([sum(w * values[i][a, m] for m, w in own) for i in (0, 1)])
        return estimates.total([(theta, drawn.T) for theta, drawn in groups], n_patients=n)

    out: dict[str, object] = {"cells": [contrast(corrected, {(a, 0): 1}) for a in range(3)]}
    out["methods"] = [contrast(corrected, {(a, 0): 1, (a, 1): -1}) for a in range(3)]
    pairs = list(combinations(range(3), 2))
    out["pairs"] = [(m, a, b, contrast(corrected, {(a, m): 1, (b, m): -1})) for m in (0, 1) for a, b in pairs]
    out["raw pair"] = contrast(list(raw), {(0, 0): 1, (1, 0): -1})
    out["raw pair, seeds paired"] = estimates.estimate(
        raw[0][0, 0] - raw[0][1, 0], (raw[1][0, 0] - raw[1][1, 0]).T, n_patients=n
    )
    out["interaction"] = contrast(corrected, {(0, 0): 1, (1, 0): -1, (0, 1): -1, (1, 1): 1})
    # Centroid shift: half of what two patients differ by.
    moved = draws(0.05 * (1 + network[:, :1, :, None] + columns(rng, patient, 3, 1, k)))
    between = draws(0.1 * (1 + columns(rng, patient, 3, 1, k)))
    out["shift"] = [
        estimates.estimate(moved[0][a, 0] / between[0][a, 0], (moved[1][a, 0] / between[1][a, 0]).T, n_patients=n)
        for a in range(3)
    ]
    # Noise: two heads of each network, or all pairs of seeds, as far apart as before and after.
    if k < 3:
        heads = draws(NOISE + network[:, :1, :, None] + columns(rng, patient, 3, 1, k))
        noise = [baselines.corrected(heads[i], shared[i][:, :1]) for i in (0, 1)]
        out["excess"] = [
            estimates.estimate(
                noise[0][a, 0] - corrected[0][a, 0], (noise[1][a, 0] - corrected[1][a, 0]).T, n_patients=n
            )
            for a in range(3)
        ]
    else:
        two = list(combinations(range(k), 2))
        both = normal(rng, seed_sd, 3, k)
        effect = np.stack([(both[:, i] + both[:, j]) / 2 for i, j in two], axis=1)
        effect = effect + normal(rng, seed_sd / 2, 3, len(two))
        values = draws(NOISE + effect[:, None, :, None] + columns(rng, patient, 3, 1, len(two)))
        excess = []
        for value, drift, reference in zip(values, raw, shared, strict=True):
            each = []
            for p, (i, j) in enumerate(two):
                common = (reference[:, 0, i] + reference[:, 0, j]) / 2
                left = [baselines.corrected(x, common) for x in (value[:, 0, p], drift[:, 0, i], drift[:, 0, j])]
                each.append(left[0] - (left[1] + left[2]) / 2)
            excess.append(np.stack(each, axis=1))
        out["excess"] = [
            estimates.over_pairs(two, excess[0][a], excess[1][a].T, n_patients=n, level=0.95) for a in range(3)
        ]
    out["classes"] = class_differences(rng, patient, k, seed_sd, n_boot)
    return out


def class_differences(
    rng: np.random.Generator, patient: np.ndarray, k: int, seed_sd: float, n_boot: int
) -> pd.DataFrame:
    """`groups.differences` of one cell whose patients are of three classes that do not differ."""
    raw = CENTRE + normal(rng, seed_sd, k)[:, None] + columns(rng, patient, 1, 1, k)[0, 0]
    shared = SHARED + columns(rng, patient, 1, 1, k)[0, 0]
    rows = [
        pd.DataFrame(
            {
                "architecture": NAMES[0],
                "method": METHODS[0],
                "seed": seed,
                "image_id": [f"i{number}" for number in range(len(patient))],
                "patient_id": [f"p{number}" for number in patient],
                "label": [f"class {number % 3}" for number in patient],
                "overlap": raw[seed],
                "overlap_two_patients": shared[seed],
            }
        )
        for seed in range(k)
    ]
    return groups.differences(pd.concat(rows, ignore_index=True), {}, ["label"], "overlap", n_boot=n_boot)


def separation(auc: float, sd: float) -> float:
    """The binormal separation at which trainings that vary by `sd` have this AUC on average."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)

    def excess(d: float) -> float:
        return float(weights @ special.ndtr((d + sd * nodes) / np.sqrt(2))) / np.sqrt(2 * np.pi) - auc

    return optimize.brentq(excess, 0.1, 9)


def performance(k: int, sd: float, n_boot: int, number: int) -> dict[str, list[Estimate]]:
    """AUC, all 0.99 in expectation, and change of AUC, all 0 around 0.95, of three architectures."""
    rng = np.random.default_rng([k, round(1000 * sd), number, 1])
    n, labels = PATIENTS_AUC, rng.permutation(np.arange(PATIENTS_AUC) % 2)
    weights = bootstrap.patient_weights(np.arange(n), n_boot=n_boot, rng_seed=number)
    weights = np.vstack(
        [np.ones(n, int), weights[(weights[:, labels == 1].sum(1) > 0) & (weights[:, labels == 0].sum(1) > 0)]]
    )
    case, out = rng.normal(0, np.sqrt(0.6), n), {"auc": [], "change": []}
    for _ in range(3):
        for kind, auc in (("auc", 0.99), ("change", 0.95)):
            centre, theta = separation(auc, sd), []
            for _ in range(k):
                checkpoints = []
                for _ in range(1 if kind == "auc" else 2):
                    d = centre + normal(rng, sd, 1)
                    p = special.expit(labels * d + case + rng.normal(0, np.sqrt(0.4), n))
                    checkpoints.append(classification.auc_replicates(labels, np.stack([1 - p, p], 1), weights))
                theta.append(checkpoints[-1] if kind == "auc" else checkpoints[1] - checkpoints[0])
            values = np.stack(theta, axis=1)
            out[kind].append(estimates.estimate(values[0], values[1:], n_patients=n))
    return out


# ---------------------------------------------------------------- asking the verdicts


def moved(est: Estimate, by: float) -> Estimate:
    return replace(est, value=est.value + by)


def evidence(**parts: object) -> Evidence:
    empty = pd.DataFrame()
    given = {"auc": {}, "auc_change": {}, "shift": {}, "excess": {}, "pairs": empty, "crossings": empty} | parts
    return Evidence(
        metric="overlap", corrected=True, margins=MARGINS, against="noise", unsound={}, analyses=empty, **given
    )


def of_cells(found: list[Estimate], edge: float, others: float | None = None) -> dict[tuple[str, str], Estimate]:
    """Estimates moved to the edge; with `others`, all but the first moved there instead."""
    places = [edge, *[edge if others is None else others] * (len(found) - 1)]
    return {(name, "layercam"): moved(est, by) for name, est, by in zip(NAMES, found, places, strict=True)}


def of_names(found: list[Estimate], edge: float) -> dict[str, Estimate]:
    return {name: moved(est, edge) for name, est in zip(NAMES, found, strict=True)}


def pairs_table(found: list, leads: dict[tuple[int, int, int], float]) -> pd.DataFrame:
    """`Evidence.pairs`, with differences around the given ones (method, a, b)."""
    rows = []
    for m, a, b, est in found:
        est = moved(est, leads.get((m, a, b), 0.0))
        row = {"method": METHODS[m], "a": NAMES[a], "b": NAMES[b], "difference": est.value, "estimate": est}
        row |= {"p": estimates.p_value(est), "p_equivalent": estimates.equivalence(est, MARGINS.overlap)}
        rows.append(row | {"n_seeds": est.n_seeds, "n_patients": est.n_patients})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=estimates.holm(table["p"]))


def crossings(table: pd.DataFrame) -> pd.DataFrame:
    first, second = (table[table["method"] == method].set_index(["a", "b"]) for method in METHODS)
    rows = []
    for (a, b), row in first.iterrows():
        one, two = row["estimate"], second.loc[(a, b), "estimate"]
        ends = {"estimate_a": one, "estimate_b": two, "difference_a": one.value, "difference_b": two.value}
        tests = {"p": estimates.reversal_p(one, two), "p_same_order": estimates.same_order_p(one, two)}
        methods = {"method_a": METHODS[0], "method_b": METHODS[1], "n_seeds": one.n_seeds}
        rows.append({"a": a, "b": b} | ends | tests | methods)
    out = pd.DataFrame(rows)
    return out.assign(p_holm=estimates.holm(out["p"]))


def sure(est: Estimate, value: float) -> Estimate:
    """An estimate of this value beyond all doubt."""
    return replace(est, value=value, se=1e-6, var_seeds=1e-12, var_patients=1e-12)


def first_of(found: list[Estimate], edge: float, others: float) -> dict[str, Estimate]:
    """The first estimate moved to the edge; the others surely have another value."""
    first, *rest = found
    return dict(zip(NAMES, [moved(first, edge), *(sure(est, others) for est in rest)], strict=True))


def crossed(s: dict, leads: dict[tuple[int, int, int], float]) -> Evidence:
    table = pairs_table(s["pairs"], leads)
    return evidence(pairs=table, crossings=crossings(table))


def asked(excess: dict | None = None, **parts: object) -> questions.Asked:
    """What a study's own questions are asked of."""
    none = dict.fromkeys(("drift", "chance", "null", "disease", "methods"), {})
    return questions.Asked(evidence(excess=excess or {}), **none | parts)


def by_method(found: list[Estimate], edge: float) -> Judgement:
    """The question whether drift depends on the method, with each network's difference moved to the edge."""
    methods = {(name, *METHODS): moved(est, edge) for name, est in zip(NAMES, found, strict=False)}  # or one
    return questions.by_method(asked(methods=methods))


CORRECTED = (CENTRE - SHARED) / (1 - SHARED)  # of a cell
NEAR = 1 - MARGINS.overlap - CORRECTED  # moves a cell to the margin around identical maps
PAIRS = list(combinations(range(3), 2))
ALL_BUT_ONE = {(m, a, b): FAR for m in (0, 1) for a, b in PAIRS if (m, a, b) != (0, 0, 1)}
# The claim, the verdict that would be an error, its level, and the verdict at the edge of its null hypothesis.
EDGES = {
    ("AUC above 0.99", "supported", 0.025): lambda s: verdicts.high_auc(
        evidence(auc=first_of(s["auc"], 0.0, 0.999))
    ),
    ("AUC above 0.99", "contradicted", 0.025): lambda s: verdicts.high_auc(evidence(auc=of_names(s["auc"], 0.0))),
    ("performance stable", "supported", 0.025): lambda s: verdicts.stable_performance(
        evidence(auc_change=first_of(s["change"], MARGINS.auc, 0.0))
    ),
    ("performance stable", "contradicted", 0.025): lambda s: verdicts.stable_performance(
        evidence(auc_change=of_names(s["change"], MARGINS.auc))
    ),
    ("centroid stays put", "supported", 0.025): lambda s: verdicts.still_centroid(
        evidence(shift=of_cells(s["shift"], 0.0, -FAR))
    ),
    ("centroid stays put", "contradicted", 0.025): lambda s: verdicts.still_centroid(
        evidence(shift=of_cells(s["shift"], 0.0))
    ),
    ("evidence moved", "yes", 0.025): lambda s: questions.moved(asked(drift=of_cells(s["cells"], NEAR, -FAR))),
    ("evidence moved", "no", 0.025): lambda s: questions.moved(asked(drift=of_cells(s["cells"], NEAR, FAR))),
    ("evidence moved", "in part", 0.05): lambda s: questions.moved(asked(drift=of_cells(s["cells"], NEAR))),
    ("beyond seeds", "yes", 0.025): lambda s: questions.beyond_seeds(asked(of_cells(s["excess"], 0.0, FAR))),
    ("beyond seeds", "in part", 0.05): lambda s: questions.beyond_seeds(asked(of_cells(s["excess"], 0.0))),
    ("depends on method", "yes", 0.05): lambda s: by_method(s["methods"], 0.0),
    ("depends on method", "no", 0.025): lambda s: by_method(s["methods"][:1], MARGINS.overlap),
    ("depends on class", "yes", 0.05): lambda s: questions.by_class(asked(classes=s["classes"])),
    ("depends on architecture", "supported", 0.05): lambda s: verdicts.depends_on_architecture(
        evidence(pairs=pairs_table(s["pairs"], {}))
    ),
    ("depends on architecture", "contradicted", 0.025): lambda s: verdicts.depends_on_architecture(
        evidence(pairs=pairs_table([(0, 0, 1, s["pairs"][0][-1])], {(0, 0, 1): MARGINS.overlap}))
    ),
    ("order of three", "supported", 0.025): lambda s: verdicts.extremes(
        evidence(pairs=pairs_table(s["pairs"], {(0, 0, 2): FAR, (0, 1, 2): FAR}))
    ),
    ("order of three", "contradicted", 0.025): lambda s: verdicts.extremes(
        evidence(pairs=pairs_table(s["pairs"], {}))
    ),
    ("ranking reverses", "supported", 0.05): lambda s: verdicts.reversal(
        crossed(s, {(0, a, b): FAR for a, b in PAIRS})
    ),
    ("ranking reverses", "contradicted", 0.05): lambda s: verdicts.reversal(crossed(s, ALL_BUT_ONE)),
}
COVERED = {
    "corrected overlap of a cell": lambda s: (s["cells"][0], CORRECTED),
    "its difference of two architectures": lambda s: (s["pairs"][0][-1], 0.0),
    "difference of differences": lambda s: (s["interaction"], 0.0),
    "centroid shift / two patients": lambda s: (s["shift"][0], 0.5),
    "noise minus drift": lambda s: (s["excess"][0], 0.0),
    "AUC of 0.99": lambda s: (estimates.proportion(s["auc"][0]), 0.99),
    "change of AUC": lambda s: (s["change"][0], 0.0),
}
EFFECT = 0.1


def one(k: int, seed_sd: float, n_boot: int, number: int) -> dict[str, bool]:
    """What happens in one simulated study."""
    judgement.finds = verdicts.finds = questions.finds = lambda *_: ""  # a text that takes longer than all else
    found = study(k, seed_sd, n_boot, number) | performance(k, 6 * seed_sd, n_boot, number)
    row = {f"{claim} {wrong}": ask(found).verdict == wrong for (claim, wrong, _), ask in EDGES.items()}
    for name, of in COVERED.items():
        est, truth = of(found)
        row[name] = est.low <= truth <= est.high
    for kind in ("raw pair", "raw pair, seeds paired"):
        row[f"false {kind}"] = estimates.p_value(found[kind]) < 0.05
        row[f"power {kind}"] = estimates.p_value(found[kind], -EFFECT) < 0.05
    row["power corrected"] = estimates.p_value(found["pairs"][0][-1], -EFFECT) < 0.05
    row["planned"] = planning.power(found["raw pair"], effect=EFFECT) if k > 1 else np.nan
    return row


def setting(k: int, seed_sd: float, repeats: int, n_boot: int) -> dict[str, float]:
    rows = pd.DataFrame([one(k, seed_sd, n_boot, number) for number in range(repeats)])
    return {"seeds": k, "seed sd": seed_sd} | rows.astype(float).mean().to_dict()


def rank_setting(k: int, n: int, repeats: int) -> dict[str, float]:
    """Friedman and Wilcoxon under their own null: three architectures, seeds that do nothing."""
    found = []
    for i in range(repeats):
        rng = np.random.default_rng([k, n, i])
        patient = np.repeat(np.arange(n), rng.integers(1, 3, n))
        values = CENTRE + columns(rng, patient, 3, 1, k)
        keys = {"method": "m", "image_id": np.arange(len(patient)), "patient_id": patient}
        scores = pd.concat(
            pd.DataFrame(keys | {"architecture": "ABC"[a], "seed": s, "value": values[a, 0, s]})
            for a, s in np.ndindex(3, k)
        )
        tests = rank_tests.paired_tests(Scores.of(scores, "value"))
        pairs = tests[tests["test"] == "wilcoxon"]
        friedman = tests.loc[tests["test"] == "friedman", "p"].iloc[0]
        found.append([friedman < 0.05, (pairs["p"] < 0.05).mean(), (pairs["p_holm"] < 0.05).any()])
    rates = dict(zip(("Friedman", "Wilcoxon", "any pair, Holm"), np.mean(found, axis=0), strict=True))
    return {"seeds": k, "patients": n} | rates


def show(title: str, table: pd.DataFrame) -> None:
    """Print as Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(map(str, table.columns)) + " |")
    print("|" + " --- |" * table.shape[1])
    for row in table.itertuples(index=False):
        cells = [v if isinstance(v, str) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
        print("| " + " | ".join("-" if c == "nan" else c for c in cells) + " |", flush=True)


def by_seeds(found: pd.DataFrame, name: str) -> dict[str, str]:
    """The rates of one question, a column for each number of seeds: one rate a seed sd, with / between them."""
    return {
        f"{k} seed{'s' * (k > 1)}": " / ".join(f"{rate:.3f}" for rate in rows[name])
        for k, rows in found.groupby("seeds")
    }


def rule_table(found: pd.DataFrame, repeats: int) -> pd.DataFrame:
    """A row a rule: level, the error rate of each setting, and whether all are within one point of the level."""
    rows = []
    for claim, wrong, level in EDGES:
        name, error = f"{claim} {wrong}", np.sqrt(level * (1 - level) / repeats)
        row = {"claim": claim, "wrongly": wrong, "level": f"{level:g}"} | by_seeds(found, name)
        rows.append(row | {"holds": "yes" if found[name].max() <= level + 0.01 + 2 * error else "NO"})
    return pd.DataFrame(rows)


def coverage_table(found: pd.DataFrame, repeats: int) -> pd.DataFrame:
    rows = []
    for name in COVERED:
        error = np.sqrt(0.95 * 0.05 / repeats)
        row = {"95 % interval of": name} | by_seeds(found, name)
        rows.append(row | {"holds": "yes" if found[name].min() >= 0.95 - 0.01 - 2 * error else "NO"})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few settings and repeats, for a check in seconds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--repeats", type=int, help="simulated studies a setting")
    args = parser.parse_args()
    start = time.perf_counter()
    repeats = args.repeats or (8 if args.small else 600)
    n_boot = 60 if args.small else 200
    settings = [(1, 0.0), *product((2, 3) if args.small else (2, 3, 5), (0.02, 0.05))]
    run = Parallel(n_jobs=args.jobs)
    found = pd.DataFrame(run(delayed(setting)(k, sd, repeats, n_boot) for k, sd in settings))

    error = np.sqrt(0.025 * 0.975 / repeats)
    show(
        f"Error rates ({repeats} studies; Monte-Carlo error {error:.3f} at 0.025; seed sd 0.02 / 0.05)",
        rule_table(found, repeats),
    )
    error = np.sqrt(0.95 * 0.05 / repeats)
    show(f"Coverage (Monte-Carlo error {error:.3f}; seed sd 0.02 / 0.05)", coverage_table(found, repeats))
    several = found[found["seeds"] > 1]
    power = several[["seeds", "seed sd"]].assign(
        **{
            "false positives": several["false raw pair"],
            "false positives, seeds paired": several["false raw pair, seeds paired"],
            f"power at {EFFECT:g}": several["power raw pair"],
            "power, seeds paired": several["power raw pair, seeds paired"],
            "as planned": several["planned"],
            "corrected": several["power corrected"],
        }
    )
    show(f"A difference of {EFFECT:g} between two architectures, two-sided at 0.05", power)
    more = 20 if args.small else 200
    ranks = run(delayed(rank_setting)(k, n, more) for k, n in product((1, 2), (50,) if args.small else (50, 150)))
    show("False positives at 0.05 of rank tests, seeds without effect", pd.DataFrame(ranks))
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
