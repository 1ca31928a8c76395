"""Pretraining on the procedural source task."""

from cxr.core.params import PretrainParams
from cxr.training import pretraining, stages


def test_pretraining_learns_the_source_task():
    stages.seed_everything(0)
    settings = PretrainParams(
        architecture="CompactResNetV2", image_size=48, source_images=192, epochs=4, batch_size=16
    )
    epochs = []
    model, history = pretraining.pretrain(settings, on_epoch=lambda epoch, metrics: epochs.append(epoch))
    assert epochs == [1, 2, 3, 4] and history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert model.name == "CompactResNetV2" and model.output_shape == (None, 2)
