"""How long what a notebook asks of its store takes: a SQLite file, and a server with PostgreSQL and passwords.

    python tests/benchmarks/bench_store.py [--small]

Server and client share this machine, and the network between them is none: what is measured is the work. Without
PostgreSQL's programs (Debian: postgresql) the server has SQLite. Median milliseconds of a call.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import mlflow  # noqa: E402
import servers  # noqa: E402
from mlflow.entities import Metric  # noqa: E402

from cxr import tracking  # noqa: E402


def measure(uri: str, folder: Path, *, repeats: int, megabytes: int) -> dict[str, float]:
    """Median milliseconds of each kind of call against one store."""
    tracking.connect(uri)
    client = mlflow.MlflowClient()
    small, large = folder / "small.parquet", folder / "large.keras"
    small.write_bytes(os.urandom(10_000))
    large.write_bytes(os.urandom(megabytes * 2**20))
    metrics = [Metric(f"metric_{i}", 0.5, 0, 0) for i in range(100)]
    runs: list[str] = []

    def create() -> None:
        tags = {"cxr.stage": "score"}
        runs.append(tracking.create_run(experiment="bench", name="x", tags=tags, params={"a": 1}))

    calls = {
        "new run, with a parameter": (create, repeats),
        "100 metrics": (lambda: client.log_batch(runs[-1], metrics=metrics), repeats),
        "a tag": (lambda: client.set_tag(runs[-1], "x", "y"), repeats),
        "a file of 10 kB": (lambda: client.log_artifact(runs[-1], str(small)), repeats),
        f"a file of {megabytes} MB": (lambda: client.log_artifact(runs[-1], str(large)), 3),
        f"the same back, {megabytes} MB": (lambda: tracking.stored(runs[-1]).file("large.keras"), 3),
        "all about a run": (lambda: tracking.stored(runs[-1]), repeats),
        "runs of a stage": (lambda: tracking.find("score", experiment="bench", complete=False), repeats),
    }
    found = {}
    for name, (call, times) in calls.items():
        call()  # once without the clock
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        found[name] = 1000 * statistics.median(seconds)
    return found


def main(small: bool) -> None:
    os.environ.update(MLFLOW_TRACKING_USERNAME="admin", MLFLOW_TRACKING_PASSWORD=servers.PASSWORD)
    size = {"repeats": 3, "megabytes": 2} if small else {"repeats": 20, "megabytes": 100}
    columns = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        columns["SQLite file"] = measure(f"sqlite:///{folder}/alone.db", folder, **size)
        own = servers.postgres_programs() is not None
        databases = stack.enter_context(servers.postgres()) if own else f"sqlite:///{folder}/{{}}.db"
        name = f"server, {'PostgreSQL' if own else 'SQLite'}"
        for title, seconds in {name: 60, f"{name}, no auth cache": 0}.items():
            with servers.mlflow_server(folder, databases, cache_seconds=seconds) as uri:
                columns[title] = measure(uri, folder, **size)
            if small:
                break
    print(pd.DataFrame(columns).round(1).rename_axis("milliseconds").to_string())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few calls, to see that it runs")
    main(parser.parse_args().small)
