"""Servers that a test or a benchmark starts for itself, as docs/server.md has them: PostgreSQL and MLflow."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "a-password-of-tests"  # MLflow wants twelve characters
_SECONDS = 120  # for a server to answer


def postgres_programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`: Debian's, which are not on the path, or those on the path."""
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = max(debian, key=lambda path: int(path.parts[-3]), default=None) or shutil.which("initdb")
    return Path(found).parent if found else None


@contextmanager
def postgres(encoding: str = "UTF8") -> Iterator[str]:
    """A PostgreSQL server in a folder of its own, that of its socket too: no port, no password.

    PostgreSQL refuses to be run by root, who runs it as `nobody`.

    Yields: the URI of its databases, `runs` and `users`, whose name belongs in the place of `{}`.
    """
    programs = postgres_programs()
    # not pytest's folder, which only its owner may enter, and whose name is too long for a socket
    with tempfile.TemporaryDirectory(prefix="cxr-postgres-") as name:
        folder, as_other = Path(name), {}
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
            as_other = {"user": "nobody", "extra_groups": []}

        def call(program: str, *words: str) -> None:
            options = {"stdout": log, "stderr": log, "cwd": folder, **as_other}
            subprocess.run([programs / program, *words], check=True, **options)

        made = ("-U", "mlflow", "--auth=trust", "-E", encoding, "--no-locale", "--no-sync")
        options = f"-c listen_addresses= -k {folder} -c fsync=off"
        control = ("-D", str(folder / "data"), "-w", "-m", "immediate")
        with open(folder / "log", "wb") as log:
            call("initdb", "-D", str(folder / "data"), *made)
            call("pg_ctl", *control[:3], "-o", options, "start")
            try:
                for database in ("runs", "users"):
                    call("createdb", "-h", str(folder), "-U", "mlflow", database)
                yield f"postgresql+psycopg2://mlflow@/{{}}?host={folder}"
            finally:
                call("pg_ctl", *control, "stop")


@contextmanager
def mlflow_server(
    folder: Path,
    databases: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    workers: int = 1,
    cache_seconds: int = 60,
) -> Iterator[str]:
    """An MLflow server that asks for name and password (`admin` and `PASSWORD`), with its files in `folder`.

    Args:
        databases: a URI with `{}` in place of `runs` and `users`.
        cache_seconds: how long a password that was right is not worked out again; 0: for each request.

    Yields: its address.
    """
    port = port or free_port(host)
    config = folder / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = {databases.format('users')}\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        f"auth_cache_ttl_seconds = {cache_seconds}\n"
    )
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of tests",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    words = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
        *("--backend-store-uri", databases.format("runs"), "--workers", str(workers)),
        *("--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts"),
        *("--host", host, "--port", str(port), "--allowed-hosts", f"{host}:{port}"),
    ]
    uri = f"http://{host}:{port}"
    with open(folder / "server.log", "a") as log:
        server = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for_answer(f"{uri}/health", server, folder / "server.log")
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def create_user(uri: str, name: str, password: str) -> None:
    """As the administrator does; a user may make experiments, and what is in them is theirs."""
    import requests

    user = {"username": name, "password": password}
    requests.post(f"{uri}/api/2.0/mlflow/users/create", json=user, auth=("admin", PASSWORD)).raise_for_status()


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def wait_for_answer(url: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"no server at {url}: {log.read_text()[-2000:]}")
