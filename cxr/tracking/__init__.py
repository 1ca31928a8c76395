"""Runs, and what they hold: the only folder that imports MLflow.

A notebook opens its run with `start`, takes the runs that it reads with `take`, logs and shows with the methods of
`Run`, and closes it with `run.finish()` in its last cell.

A run is *complete* when its status is FINISHED and `finish` has tagged it `cxr.complete`. Only complete runs are
reused. Two runs give the same results when they have the same *fingerprint*: a hash of the settings that matter to
their stage, of their inputs (the manifest's hash, the runs that they read), and of the code.
"""

from __future__ import annotations

import os

# MLflow reads these while it is imported. Data may be confidential and machines without a network: nothing phones
# home. A server that is away is asked again for ten minutes: after 0, 4, 8, 16, 32, 64 and four times 120 s.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")

import atexit
import gc
import logging

import urllib3

from cxr.core.execution import STAGES
from cxr.tracking.artifacts import log_file_as, log_text, scratch
from cxr.tracking.connection import (
    StoreGone,
    connect,
    disk_full,
    experiment_id,
    is_new,
    is_server,
    keep_key_out,
    notebooks_folder,
    param_value,
    project,
    resolve,
    ui_command,
)
from cxr.tracking.entities import (
    describe_experiment,
    describe_run,
    log_dataset,
    log_dataset_of,
    log_model,
    register,
    tag_model,
)
from cxr.tracking.provenance import fingerprint, git_tags
from cxr.tracking.run import (
    Run,
    create_run,
    delete_run,
    end_abandoned,
    end_run,
    log_metrics,
    remove_tag,
    reopen_run,
    set_tags,
    start,
)
from cxr.tracking.source import contents, sha256
from cxr.tracking.stored import (
    StoredRun,
    count_earlier,
    experiments_with,
    find,
    front_page,
    misfit,
    plans_cited,
    run_url,
    started,
    stored,
    take,
    upstream,
)

# As Python ends, it looks through all objects once more for cycles. With MLflow and TensorFlow loaded that takes a
# second of every notebook.
atexit.register(gc.freeze)
# urllib3 logs that it asks a server again; without a handler nobody would see it.
urllib3.add_stderr_logger(logging.WARNING)
