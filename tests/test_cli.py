import errno
import io
import os
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from data_files import encoded

from cxr.cli import main

COMMANDS = ("check", "plan", "study", "drift", "ui", "models", "params", "completion")


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: demo\n")
    return str(path)


def error_of(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main.main([*command.split(), "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: cxr {command}".rstrip())
    assert "\nexamples:\n  cxr " in text
    assert max(map(len, text.splitlines())) <= 80


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"cxr {metadata.version('cxr')}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["stdy"], "invalid choice: 'stdy' (choose from"),
        (["study"], "the following arguments are required: PARAMS.yaml"),
        (["study", "x.yaml", "--jbs=2"], "unrecognized arguments: --jbs=2"),
        (["study", "x.yaml", "--jobs", "-1"], "argument --jobs: a whole number from 0, got '-1'"),
        (["ui", "--port", "x"], "argument --port: a whole number from 0, got 'x'"),
        (["check", "x.yaml", "y.yaml"], "unrecognized arguments: y.yaml"),
    ],
)
def test_usage_errors_end_with_2_and_say_what_is_wrong(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main.main(words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: cxr") and message in error.splitlines()[-1]


def test_help_imports_nothing_heavy():
    code = (
        "import sys, contextlib, io\nfrom cxr.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main.main(['--help'])\n"
        "heavy = ('mlflow', 'tensorflow', 'pandas', 'numpy', 'pydantic', 'papermill', 'distributed')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - began < 5  # half a second on an idle machine


def test_a_mistyped_network_gets_the_nearest_without_tensorflow():
    code = (
        "import sys\nfrom cxr.cli import main\n"
        "codes = [main.main(['models', name]) for name in ('CompactDensNet', 'VGG16 ', 'no_such_module:net')]\n"
        "print(codes, [m for m in ('tensorflow', 'keras', 'mlflow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2, 2, 2] []\n"
    said = done.stderr.splitlines()
    assert len(said) == 3 and "unknown 'CompactDensNet': did you mean CompactDenseNet or" in said[0]
    assert "did you mean VGG16 or" in said[1] and "there is no module 'no_such_module'" in said[2]


@pytest.mark.slow
def test_models_prints_nothing_of_tensorflow(tmp_path):
    (tmp_path / "own.py").write_text(
        "import sys\nfrom cxr.models import build\n"
        "def net(n_classes, image_size):\n    print('mine', file=sys.stderr)\n"
        "    return build.build('CompactInception', n_classes=n_classes, image_size=image_size)\n"
    )
    words = [sys.executable, "-m", "cxr.cli", "models", "own:net", "--image-size", "64"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert max(map(len, done.stdout.splitlines())) <= 100 and "refused at this size" in done.stdout
    assert done.stdout.startswith("own.net\n  input            64x64")
    assert done.stderr == "mine\n"  # what others say is kept


def test_a_dry_run_does_not_import_tensorflow(tmp_path):
    code = (
        "import sys\nfrom cxr.cli import main\nfrom cxr.data import loading\nfrom cxr.study import runner\n"
        "print([m for m in ('tensorflow', 'keras', 'papermill', 'nbconvert') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["batchsize=3"], "unknown parameter 'batchsize': did you mean 'batch_size'"),
        (["batch_size"], "--set batch_size: expected key=value"),
        (["batch_size=0"], "batch_size: "),
        (["seed=[0, 0]"], "seed: list every entry once"),
        (["architecture=[AlexNet]"], "architecture.0: "),
    ],
)
def test_bad_parameters_end_with_2_and_one_line(params, assignments, message, capsys):
    assert main.main(["study", params, "--set", *assignments]) == 2
    error = error_of(capsys)
    assert error.startswith("cxr: error: ") and message in error


@pytest.mark.parametrize("command", ["study", "check", "plan"])
def test_a_key_that_the_study_does_not_have_is_refused_by_every_command(command, params, tmp_path, capsys):
    assert main.main([command, params, "--set", "epochs=3"]) == 2
    assert "unknown parameter 'epochs': did you mean 'transfer_epochs' or 'fine_tune_epochs'" in error_of(capsys)
    (tmp_path / "study.yaml").write_text("name: demo\nsource_images: 64\n")
    assert main.main([command, params]) == 2
    assert "study.yaml: unknown parameter 'source_images'" in error_of(capsys)


def test_a_parameter_file_that_is_not_there(tmp_path, capsys):
    assert main.main(["study", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: cannot read the parameter file" in error_of(capsys)


@pytest.mark.parametrize("given", ["params/stdy.yaml", "study.yaml", "study.yml"])
def test_a_mistyped_parameter_file(given, tmp_path, monkeypatch, capsys):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").write_text("name: demo\n")
    monkeypatch.chdir(tmp_path)
    assert main.main(["study", given]) == 2
    assert error_of(capsys).endswith(": did you mean params/study.yaml?\n")


@pytest.mark.parametrize("dry", [False, True])
def test_options_reach_the_study(params, dry, monkeypatch):
    from cxr.study import runner

    seen = []
    monkeypatch.setattr(runner, "run", lambda *words, **options: seen.append((words, options)) or 1)
    words = ["study", params, "--set", "seed=4", "n_boot=200", "--set", "weights=none", "--jobs", "0"]
    words += ["--tracking-uri", "sqlite:////x", "--out", "there", "--fresh", "--scheduler", "tcp://there:8786"]
    words += ["--plan", "plan.yaml"] + (["--dry-run"] if dry else [])
    assert main.main(words) == 1
    (((settings, path, overrides), options),) = seen
    given = {"seed": 4, "n_boot": 200, "weights": "none", "jobs": 0, "plan": "plan.yaml"}
    assert path == params and overrides == given
    assert (settings.name, settings.seed, settings.weights, settings.jobs) == ("demo", [4], "none", 0)
    places = {"tracking_uri": "sqlite:////x", "out": "there", "scheduler": "tcp://there:8786"}
    assert options == {**places, "fresh": True, "dry_run": dry}


def test_unreachable_server_ends_with_2_and_writes_nothing(params, capsys, monkeypatch, tmp_path):
    from cxr.study import preflight

    monkeypatch.setattr(preflight, "plan_and_check", lambda *_: [])  # the real notebooks are tested elsewhere
    words = ["--tracking-uri", "http://127.0.0.1:9", "--out", str(tmp_path / "out")]
    assert main.main(["study", params, *words]) == 2
    assert "no MLflow server answers at http://127.0.0.1:9" in error_of(capsys)
    assert not (tmp_path / "out").exists()


def small_set(root, names=("ill", "well")):
    for name in names:
        for k in range(6):
            path = root / name / f"{name}{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(np.random.default_rng(k).integers(0, 256, (9, 9), np.uint8)))
    return root


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["a file", "full", "forbidden"])
def test_a_page_that_cannot_be_written_ends_with_2_and_one_line(place, params, tmp_path, monkeypatch, capsys):
    out, replace = tmp_path / "out", os.replace
    number = {"full": errno.ENOSPC, "forbidden": errno.EACCES}.get(place)
    if place == "a file":
        out.write_text("")

    def refused(source, target):
        if Path(target).parent == out:
            raise OSError(number, os.strerror(number), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refused)
    words = ["--set", f"data={small_set(tmp_path / 'data')}", "groups=label"]
    assert main.main(["check", params, "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"cxr: error: {out}") and said.count("\n") == 1 and "Traceback" not in said
    assert {"full": "make room on the disk", "forbidden": "(--out: another folder)"}.get(place, "") in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_output_ends_with_2_and_one_line():
    words = [sys.executable, "-m", "cxr.cli", "params"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("cxr: error: the output: cannot be written (No space")


@pytest.mark.filterwarnings("ignore")
def test_a_terminal_that_has_not_every_letter(params, tmp_path, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    data = small_set(tmp_path / "data", ("正常", "肺炎"))
    assert main.main(["check", params, "--out", str(tmp_path / "out"), "--set", f"data={data}"]) in (0, 1)
    assert b"page: " in written.getvalue() and b"\\u6b63\\u5e38" in written.getvalue()
    assert "正常" in (tmp_path / "out" / "checks.html").read_text(encoding="utf-8")


def test_ctrl_c_ends_with_130(params, capsys, monkeypatch):
    from cxr.study import runner

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert main.main(["study", params]) == 130
    assert error_of(capsys) == "cxr: interrupted\n"


def test_ui_without_runs_with_a_server_and_on_a_taken_port(tmp_path, capsys):
    store = tmp_path / "mlflow.db"
    assert main.main(["ui", "--tracking-uri", f"sqlite:///{store}"]) == 2
    assert "there are no runs yet" in error_of(capsys)
    assert main.main(["ui", "--tracking-uri", "http://there:1"]) == 0
    assert "open http://there:1" in capsys.readouterr().out
    store.touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main.main(["ui", "--tracking-uri", f"sqlite:///{store}", "--port", str(port)]) == 2
    assert f"port {port} is taken" in error_of(capsys)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ui_shows_the_store_on_this_machine_only(tmp_path):
    import signal

    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = [sys.executable, "-m", "cxr.cli", "ui", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "start_new_session": True}
    with subprocess.Popen([*words, "--port", str(port)], **options) as ui:
        try:
            assert f"http://127.0.0.1:{port}" in ui.stdout.readline()
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                        assert answer.status == 200
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
            with socket.socket() as other:  # another address of the same machine
                assert other.connect_ex(("127.0.0.2", port)) != 0
        finally:
            os.killpg(ui.pid, signal.SIGINT)
        assert ui.wait(30) == 0
