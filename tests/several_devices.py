"""Both stages on a number of virtual CPU devices, or under XLA; run by test_accelerated.py.

    python several_devices.py DEVICES [xla]

Printed, as JSON: losses of both stages, probabilities of the model and of its checkpoint when loaded.
"""

import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cxr.core.params import TrainParams
from cxr.models import build, weights
from cxr.training import optimisation, stages


def main(devices, xla=False):
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * max(1, devices))
    generator = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = generator.integers(0, 120, (48, 64, 64), np.uint8)
    for label in range(3):
        images[labels == label, 20 * label : 20 * label + 20] += 80
    sets = (images[:32], labels[:32]), (images[32:], labels[32:])
    settings = TrainParams(
        architecture="CompactResNetV2",
        image_size=64,
        batch_size=32,  # all: with several devices Keras draws an order more, and the batches are others
        transfer_epochs=8,
        fine_tune_epochs=4,
        extra_heads=1,
        deterministic=not xla,
        xla=xla,
        devices=devices,
    )
    stages.seed_everything(0, deterministic=settings.deterministic)
    model = build.build(settings.architecture, n_classes=3, image_size=64, devices=settings.devices)
    weights.load_backbone(model, settings.weights)
    optimizers = []
    real = optimisation.make_optimizer
    optimisation.make_optimizer = lambda *arguments: optimizers.append(real(*arguments)) or optimizers[-1]
    transfer_history = stages.transfer(model, *sets, settings).history
    fine_tuning = stages.fine_tune(model, *sets, settings)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "x.keras")
        loaded = keras.models.load_model(Path(folder) / "x.keras")
    print(
        json.dumps(
            {
                "replicas": model.distribute_strategy.num_replicas_in_sync,
                "optimizer": type(optimizers[-1]).__name__,
                "transfer": transfer_history[["loss", "val_loss"]].to_numpy().tolist(),
                "fine_tuning": fine_tuning[["loss", "val_loss"]].to_numpy().tolist(),
                "probabilities": stages.predict(model, images[:13], 5).tolist(),
                "loaded": stages.predict(loaded, images[:13], 5).tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), xla=sys.argv[2:] == ["xla"])
