"""Do the answers of a study depend on its seeds, or on the machine? Answers of subsets of its seeds, side by side.

    python tests/benchmarks/answers_by_seeds.py NAME [NAME ...] [--seeds 3] [--subsets 4] [--n-boot 2000]

Each finished study NAME of the default store is answered with all of its seeds, as `4_compare` does, and with
subsets of `--seeds` of them. Give the same study, computed on two machines or with two kinds of arithmetic, as two
names. Printed is a Markdown table: a row a question, a column a study with all seeds, and one with how often each
answer occurs among the subsets. Then the same of the cells: whether their maps pass their checks.

A subset costs about as much as `4_compare`, without its figures: a minute. Subsets share seeds, so that answers of
different studies differ more often than these counts say.
"""

import argparse
import os
import warnings
from collections import Counter
from itertools import combinations

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from cxr import tracking
from cxr.core.params import CompareParams
from cxr.core.progress import progress
from cxr.report import evidence, groups, questions, scores, sections


def answered(name: str, seeds: list[int], n_boot: int) -> dict[str, str]:
    """The answer to each question, and for each cell whether its maps pass their checks.

    Args: seeds: of the study; empty: all.
    """
    settings = CompareParams.check({"name": name, "seed": seeds, "n_boot": n_boot}, where="answers_by_seeds")
    metric, level = settings.primary_metric, settings.level
    study = scores.open(settings)
    predictions, checks = study.predictions(), study.checks_over_seeds()
    found = evidence.gather(
        study.scores,
        study.two_seeds([metric]),
        predictions,
        metric=metric,
        margins=evidence.Margins(
            settings.auc_margin, settings.centroid_margin, settings.overlap_margin, settings.majority, level
        ),
        map_checks=checks,
        analyses=sections.analyses(study, study.score_tables("multiverse.parquet")),
        n_boot=n_boot,
        coincide=study.methods_coincide,
    )
    grouped = groups.of_study(study, predictions, metric, level=level, n_boot=n_boot)
    asked = questions.gather(found, study.scores, checks=checks, classes=grouped.differences, n_boot=n_boot)
    answers = {question: judgement.verdict for question, judgement in questions.answers(asked).items()}
    passes = {" ".join(cell): "fails" if cell in found.unsound else "passes" for cell in asked.drift}
    return {**answers, **passes}


def subsets_of(seeds: list[int], size: int, most: int) -> list[list[int]]:
    """At most `most` of all subsets of this size, spread evenly over their list."""
    every = list(combinations(seeds, size))
    chosen = [every[i * len(every) // min(most, len(every))] for i in range(min(most, len(every)))]
    return [list(subset) for subset in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--subsets", type=int, default=4)
    parser.add_argument("--n-boot", type=int, default=2000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    tracking.connect()
    whole, parts, counts = {}, Counter(), {}
    for name in arguments.name:
        seeds = sorted(scores.open(CompareParams(name=name)).runs["seed"].astype(int).unique().tolist())
        column = f"{name}, {len(seeds)} seeds"
        whole[column] = answered(name, [], arguments.n_boot)
        for subset in subsets_of(seeds, arguments.seeds, arguments.subsets if len(seeds) > arguments.seeds else 0):
            progress(f"{name}: seeds {subset}")
            parts[name] += 1
            for row, answer in answered(name, subset, arguments.n_boot).items():
                counts.setdefault(row, Counter())[answer] += 1
    columns = list(whole)
    many = f"{sum(parts.values())} subsets of {arguments.seeds} seeds"
    print("| | " + " | ".join([*columns, *([many] if parts else [])]) + " |")
    print("|---" * (1 + len(columns) + bool(parts)) + "|")
    for row in whole[columns[0]]:
        cells = [whole[column].get(row, "-") for column in columns]
        if parts:
            cells.append(", ".join(f"{answer} {n}" for answer, n in counts[row].most_common()))
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
