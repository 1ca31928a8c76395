"""Which epoch of fine-tuning is worth keeping, and at which learning rate? Losses and AUC of every epoch.

    python tests/benchmarks/fine_tuning_rates.py DATA WEIGHTS [--architecture MobileNetV2] [--epochs 10]
        [--rates 1e-5 3e-5 1e-4] [--image-size 224]

DATA and WEIGHTS are the parameters `data` and `weights` of a study. The head is trained until the validation loss
has not fallen for 10 epochs. Then, from there, every layer is trained at each rate. Printed is a Markdown table
with a row an epoch. A MobileNetV2 at 224 px takes some 40 s an epoch of 330 images on two cores.
"""

import argparse
import os
from collections.abc import Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


from cxr.core.params import TrainParams
from cxr.data import dataset as cxr_data
from cxr.data.cache import default_cache
from cxr.metrics import classification
from cxr.models import build, weights
from cxr.training import stages

COLUMNS = ("rate", "epoch", "loss", "val loss", "val AUC", "test AUC", "test accuracy", "test log loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("weights")
    parser.add_argument("--architecture", default="MobileNetV2")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 3e-5, 1e-4])
    parser.add_argument("--image-size", type=int, default=224)
    given = parser.parse_args()
    transfer = {"transfer_epochs": 200, "transfer_learning_rate": 1e-3, "transfer_patience": 10, "extra_heads": 0}
    settings = TrainParams(
        data=given.data, weights=given.weights, architecture=given.architecture, image_size=given.image_size,
        batch_size=16, dropout=0.2, fine_tune_epochs=given.epochs, fine_tune_patience=given.epochs, **transfer,
    )  # fmt: skip
    dataset = cxr_data.open(settings)
    stages.seed_everything(settings.seed)
    model = build.build(
        settings.architecture,
        n_classes=len(dataset.classes),
        image_size=settings.image_size,
        dropout=settings.dropout,
    )
    weights.load_backbone(model, settings.weights)
    history = stages.transfer(model, *dataset.for_stage("transfer"), settings, cache=default_cache()).history
    before, best = model.get_weights(), history.iloc[history["val_loss"].argmin()]

    def measured(split: str) -> dict[str, float]:
        rows = dataset.rows(split)
        p = stages.predict(model, dataset.images[rows], settings.batch_size)
        return classification.performance(dataset.labels[rows], p, dataset.classes)

    def show(rate: str, epoch: int, logs: Mapping[str, float]) -> None:
        val, test = measured("val"), measured("test")
        numbers = [logs["loss"], logs["val_loss"], val["auc_macro"]]
        numbers += [test[name] for name in ("auc_macro", "accuracy", "log_loss")]
        print(f"| {rate} | {epoch} | {' | '.join(f'{value:.3f}' for value in numbers)} |", flush=True)

    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    show("before", int(best["epoch"]), best)
    for rate in given.rates:
        model.set_weights(before)
        stages.seed_everything(settings.seed)
        stages.fine_tune(
            model,
            *dataset.for_stage("fine_tuning"),
            settings.model_copy(update={"fine_tune_learning_rate": rate}),
            on_epoch=lambda epoch, logs, rate=rate: show(f"{rate:g}", epoch, logs),
        )


if __name__ == "__main__":
    main()
