"""A study that is killed at random moments ends as one that is left alone.

    python tests/benchmarks/kill_study.py [--kills 20] [--seed 0] [--params params/smoke.yaml]

One study runs undisturbed. Others are given `kill -9` again and again: the process of `cxr study` alone, one of
the processes that it started, or all of them at once, as when the machine is cut off. The same command is given
again until it ends by itself; then the next study begins, until there have been so many kills. At the end every
table, map and checkpoint of every study is compared with the undisturbed study's. Exit status 1 when any differs.

Not compared: what holds times or run ids (`VOLATILE`, `COLUMNS`), and pictures.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).resolve().parents[2]
VOLATILE = ("parameters.yaml", "environment.json", "notebook.ipynb", "report.html", "sha256.json", "checks.html",
            "checkpoints/MLmodel")  # fmt: skip
VICTIMS = ("all", "study", "one of its processes")
COLUMNS = {"seconds", "run_id"}
WHOLE_FILE = re.compile(r'"(checkpoint_)?sha256": "[0-9a-f]{64}"')  # of a .keras file


def command(params: Path, folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "cxr.cli", "study", str(params)),
        *("--tracking-uri", f"sqlite:///{folder}/mlflow.db", "--out", str(folder / "out")),
    ]


def start(params: Path, folder: Path, log) -> subprocess.Popen:
    environment = {**os.environ, "CXR_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        command(params, folder),
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(study: subprocess.Popen, victim: str, chance: random.Random) -> str:
    """Kill by `victim`; returns what was running."""
    parent = psutil.Process(study.pid)
    family = parent.children(recursive=True)
    names = [name_of(process) for process in family]
    if victim == "one of its processes" and family:
        chosen = [chance.choice(family)]
    else:
        chosen = [parent, *(family if victim == "all" else [])]
    for process in chosen:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    return ", ".join(sorted({name for name in names if name})) or "-"


def name_of(process: psutil.Process) -> str:
    """The notebook that a process executes, where it is papermill."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    found = [Path(word).stem for word in words if word.endswith(".ipynb")]
    return found[0] if found else ""


def outcome(folder: Path) -> dict[tuple[str, str], str]:
    """The hash of each artifact of the newest finished run of each name."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = mlflow.MlflowClient()
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
    newest = {}
    for run in sorted(runs, key=lambda run: run.info.start_time):
        if run.info.status == "FINISHED" and run.data.tags.get("cxr.complete") == "true":
            newest[run.info.run_name] = run
    hashes = {}
    for name, run in newest.items():
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        logged = root / "sha256.json"
        for file, digest in (json.loads(logged.read_text()) if logged.exists() else {}).items():
            if file in VOLATILE or file.endswith(".png"):
                continue
            hashes[name, file] = content_hash(root / file) or digest
        for key, value in run.data.params.items():
            if key.endswith("sha256"):
                hashes[name, f"param {key}"] = value
        for key, value in run.data.tags.items():
            if key.endswith("weights_sha256"):
                hashes[name, f"tag {key}"] = value
    return hashes


def content_hash(path: Path) -> str:
    """The hash of what is in a file, without the times in it; empty where there are none."""
    if (
        path.suffix in (".csv", ".parquet") and path.read_bytes().strip()
    ):  # some tables have no rows and no columns
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        table = table.drop(columns=[c for c in table if c in COLUMNS or c.endswith("_run_id")])
        return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()
    if path.suffix == ".keras":  # a zip file, with the moment of its writing
        with zipfile.ZipFile(path) as file:
            return hashlib.sha256(file.read("model.weights.h5")).hexdigest()
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in sorted(file)}
        if "meta" in arrays:  # with the hash of the .keras file
            arrays["meta"] = np.array(WHOLE_FILE.sub("", str(arrays["meta"])))
        parts = (
            f"{name} {array.dtype} {array.shape}".encode() + array.tobytes() for name, array in arrays.items()
        )
        return hashlib.sha256(b"".join(parts)).hexdigest()
    if path.name == "checkpoints.json":
        return hashlib.sha256(WHOLE_FILE.sub("", path.read_text()).encode()).hexdigest()
    return ""


def main(kills: int, seed: int, params: Path, keep: bool) -> int:
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="cxr-kill-"))
    print(f"in {folder}", flush=True)
    begun = time.perf_counter()
    with open(folder / "undisturbed.log", "w") as log:
        code = start(params, folder / "undisturbed", log).wait()
    whole = time.perf_counter() - begun
    assert code == 0, f"the undisturbed study ended with {code}: {folder}/undisturbed.log"
    expected = outcome(folder / "undisturbed")
    print(f"undisturbed: {whole:.0f} s, {len(expected)} hashes", flush=True)

    rows, wrong, round_ = [], [], 0
    while len(rows) < kills and not wrong:
        round_ += 1
        own = folder / f"round_{round_}"
        with open(folder / f"round_{round_}.log", "w") as log:
            while True:
                moment = chance.uniform(2, whole / 2) if len(rows) < kills else None
                study, begun = start(params, own, log), time.perf_counter()
                try:
                    code = study.wait(moment)
                except subprocess.TimeoutExpired:
                    victim = chance.choice(VICTIMS)
                    running = kill(study, victim, chance)
                    code = study.wait()
                    rows.append((round_, f"{moment:.0f} s", victim, running, code))
                    print(*rows[-1], sep=" | ", flush=True)
                    continue
                print(f"round {round_}: ended with {code} after {time.perf_counter() - begun:.0f} s", flush=True)
                if code:  # it was left alone since it started, and what was killed before is no excuse
                    wrong.append((round_, "exit status", code))
                break
        found = outcome(own)
        keys = sorted(expected.keys() | found.keys())
        wrong += [(round_, *key) for key in keys if expected.get(key) != found.get(key)]
    columns = ["study", "after", "killed", "was running", "exit status"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False))
    print(f"{len(rows)} kills in {round_} studies; {len(expected)} hashes of each compared: {len(wrong)} differ")
    for line in wrong:
        print("DIFFERS", *line)
    if not keep and not wrong:
        shutil.rmtree(folder)
    return bool(wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--params", type=Path, default=ROOT / "params" / "smoke.yaml")
    parser.add_argument("--keep", action="store_true", help="leave the studies where they are")
    given = parser.parse_args()
    sys.exit(main(given.kills, given.seed, given.params.resolve(), given.keep))
