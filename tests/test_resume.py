"""Training that is killed and run again ends as training that is not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_training.py")
SETTINGS = {
    "architecture": "tiny_nets:small",
    "weights": "none",
    "batch_size": 8,
    "image_size": 32,
    "transfer_epochs": 3,
    "fine_tune_epochs": 3,
    "checkpoint_every": 1,
}
VARIANTS = {
    "features": (
        {"extra_heads": 1, "fine_tune_patience": 1, "placebo": True},
        ["in stage 1", "while writing", "after the last epoch", "in more training"],
    ),
    "augmented": (
        {"extra_heads": 0, "augmentation": "light", "batchnorm": "training", "checkpoint_every": 0},
        ["between the stages", "in epoch 2"],
    ),
}


def train(folder, settings, moments):
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), str(folder), json.dumps(settings), ",".join(moments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1].removeprefix("END "))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_training_ends_as_it_would_have(variant, tmp_path):
    settings, moments = VARIANTS[variant]
    settings = SETTINGS | settings
    undisturbed = train(tmp_path / "undisturbed", settings, ["never"])
    killed = train(tmp_path / "killed", settings, [*moments, "to the end"])
    assert [code for _, code, _ in killed.pop("ends")] == [-9] * len(moments) + [0]
    resumed = killed.pop("resumed")
    assert resumed["fine_tuning"] >= 1 and resumed.get("more_training", 0) == int(settings.get("placebo", False))
    undisturbed.pop("ends")
    undisturbed.pop("resumed")
    assert killed == undisturbed
