"""A server that asks who is there (docs/server.md): what a study does with a store works there too."""

import shutil
import ssl
import subprocess
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import servers
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

from cxr import tracking
from cxr.core.errors import InputError
from cxr.core.params import TrainParams
from cxr.tracking import connection

USERS = {"anna": "a-password-of-anna", "ben": "a-password-of-ben"}


@pytest.fixture
def environment(monkeypatch):
    """Whatever `tracking` and MLflow find in the environment is put back."""
    before = mlflow.get_tracking_uri()
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    yield monkeypatch
    mlflow.set_tracking_uri(before)


def log_in(environment, user, password=""):
    environment.setenv("MLFLOW_TRACKING_USERNAME", user)
    environment.setenv("MLFLOW_TRACKING_PASSWORD", password or USERS.get(user, servers.PASSWORD))


def whole_run() -> str:
    """A run with one of everything, which is read back."""
    run = tracking.start("train", TrainParams(name="shared"), name="of anna", inputs={"manifest": "a"})
    table = pd.DataFrame({"x": np.arange(3.0), "name": ["a", "ü", "'; --"]})
    run.table(table, "deep/er/t.parquet", show=False)
    run.metrics({"auc": 0.5, "undefined": float("nan")})
    run.image(np.zeros((4, 4), np.uint8), key="layercam/x")
    run.finish()
    (found, *_) = tracking.find("train", experiment="shared")
    assert found.run_id == run.run_id and found.complete
    assert found.table("deep/er/t.parquet").equals(table)
    return run.run_id


def passwords_and_permissions(environment, uri) -> None:
    """What a stranger, a user, and another user may do."""
    for name, password in USERS.items():
        servers.create_user(uri, name, password)
    for user, password in [("anna", "a-wrong-password"), ("nobody", "a-wrong-password")]:
        log_in(environment, user, password)
        with pytest.raises(InputError, match=r"refuses \(HTTP 401\): set MLFLOW_TRACKING_USERNAME"):
            tracking.connect(uri)
    log_in(environment, "anna")
    tracking.connect(uri)
    run_id = whole_run()
    log_in(environment, "ben")
    for attempt in (lambda: tracking.find(experiment="shared"), lambda: tracking.stored(run_id)):
        with pytest.raises(InputError, match=r"does not let the user 'ben' do that .*Choose another `name`"):
            attempt()
    log_in(environment, "admin")
    client = get_app_client("basic-auth", uri)
    client.grant_user_permission("ben", "experiment", tracking.experiment_id("shared"), "EDIT")
    log_in(environment, "ben")
    assert whole_run() != run_id and len(tracking.find(experiment="shared")) == 2


@pytest.mark.slow
def test_names_passwords_and_permissions(tmp_path, environment):
    """On PostgreSQL, where it is installed; else on SQLite."""
    with ExitStack() as stack:
        databases = f"sqlite:///{tmp_path}/{{}}.db"
        if servers.postgres_programs() is not None:
            databases = stack.enter_context(servers.postgres())
        uri = stack.enter_context(servers.mlflow_server(tmp_path, databases))
        passwords_and_permissions(environment, uri)
        with pytest.raises(InputError, match=r"refuses the name in http://localhost:\d+: start it with --allowed"):
            tracking.connect(uri.replace("127.0.0.1", "localhost"))
    with pytest.raises(tracking.StoreGone, match="does not answer"):
        tracking.find(experiment="shared")


@pytest.mark.slow
def test_a_database_that_cannot_hold_all_text_is_found_out_at_once(tmp_path, environment):
    """MLflow answers 500 to a description with a dot in it, and a study would wait for better times."""
    if servers.postgres_programs() is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    with servers.postgres("SQL_ASCII") as databases, servers.mlflow_server(tmp_path, databases) as uri:
        log_in(environment, "admin")
        with pytest.raises(InputError, match="its database is not in UTF-8. Make it with `createdb --encoding"):
            tracking.connect(uri)


def test_a_server_that_takes_no_files_is_found_out_before_anything_is_computed(tmp_path, environment):
    mlflow.set_tracking_uri("https://x")
    root = tmp_path / "on-the-server" / "files"
    for place in (f"{root}/1", f"file://{root}/1"):
        with pytest.raises(InputError, match=f"'demo' in {root}, which this machine .*--serve-artifacts"):
            connection.check_reach(SimpleNamespace(name="demo", artifact_location=place))
    assert not root.parent.exists()
    for place in ("mlflow-artifacts:/1", "s3://bucket/1"):
        connection.check_reach(SimpleNamespace(name="demo", artifact_location=place))
    root.mkdir(parents=True)  # mounted here too
    connection.check_reach(SimpleNamespace(name="demo", artifact_location=f"{root}/1"))


def test_a_certificate_that_is_not_trusted_is_no_absent_server(tmp_path, environment):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"https://127.0.0.1:{server.server_port}"
        with pytest.raises(InputError, match=f"does not trust the certificate of {uri}.*_SERVER_CERT_PATH"):
            tracking.connect(uri)
        server.shutdown()


def test_downloads_are_refused_in_the_same_words(environment):
    error = requests.exceptions.HTTPError("403 Client Error", response=SimpleNamespace(status_code=403))
    environment.setenv("MLFLOW_TRACKING_USERNAME", "ben")
    assert "does not let the user 'ben' do that" in connection._refusal(error, "https://x")
    for other in (RuntimeError("failed with error code 403"), MlflowException("x")):
        assert connection._refusal(other, "https://x") == ""
