"""Models that this project did not train: plain Keras, as tutorials have it. For tests and docs/drift.md.

    python tests/foreign_models.py phantom FOLDER [N]     N phantom images as PNG files, with a manifest.csv
    python tests/foreign_models.py cnn MANIFEST FOLDER [SEED]
    python tests/foreign_models.py mobilenet MANIFEST FOLDER SOURCE_MANIFEST [SEED]
    python tests/foreign_models.py twin MODEL.keras TWIN.keras

`cnn` trains a small network with Flatten and Dense, and saves it after epoch 2 and epoch 6. `mobilenet` is
transfer learning by the book: MobileNetV2 nested in a Sequential (pretrained here on the images of
SOURCE_MANIFEST, where a tutorial downloads ImageNet weights), a new head on the frozen backbone (saved), then
all of it at a low learning rate (saved). Every fourth patient is kept out of training: FOLDER/test.csv for `cxr
drift`. `twin` writes a model with the same predictions and another last layer.
"""

import csv
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers
from PIL import Image


def write_phantom(folder: Path, n: int = 400) -> None:
    from cxr.data.phantom import cases, rendering

    folder.mkdir(parents=True, exist_ok=True)
    table = cases.catalogue(n, seed=0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "patient_id"])
        for start in range(0, n, 16):
            part = table.iloc[start : start + 16]
            images = rendering.render_stack(0, part["index"].tolist(), 128, lesion_contrast=2.5)[0]
            for image, row in zip(images, part.itertuples(), strict=True):
                Image.fromarray(image).save(folder / f"{row.image_id}.png")
                rows.writerow([f"{row.image_id}.png", row.label, row.patient_id])


def read(manifest: Path, side: int, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
    """(images float32 [n, side, side, channels] of 0 to 255, classes int [n], whether for the test, rows)."""
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    patients = {name: k for k, name in enumerate(sorted({row["patient_id"] for row in rows}))}
    mode = "L" if channels == 1 else "RGB"
    pictures = [Image.open(manifest.parent / row["path"]).convert(mode).resize((side, side), 2) for row in rows]
    images = np.stack([np.asarray(picture, np.float32).reshape(side, side, channels) for picture in pictures])
    classes = np.array([names.index(row["label"]) for row in rows])
    return images, classes, np.array([patients[row["patient_id"]] % 4 == 3 for row in rows]), rows


def write_test(manifest: Path, folder: Path, rows: list[dict], test: np.ndarray) -> None:
    with (folder / "test.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "patient_id"])
        for row, kept in zip(rows, test, strict=True):
            if kept:
                path = os.path.relpath(manifest.parent / row["path"], folder)
                out.writerow([path, row["label"], row["patient_id"]])


def cnn(side: int, classes: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu", padding="same", name="last"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def train_cnn(
    manifest: Path, folder: Path, seed: int = 0, *, side: int = 96, epochs: tuple[int, int] = (2, 6)
) -> None:
    keras.utils.set_random_seed(seed)
    images, classes, test, rows = read(manifest, side, 1)
    model = cnn(side, int(classes.max()) + 1)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    done = 0
    for end in epochs:
        model.fit(images[~test], classes[~test], initial_epoch=done, epochs=end, batch_size=16, verbose=0)
        print(f"epoch {end}: test accuracy {model.evaluate(images[test], classes[test], verbose=0)[1]:.3f}")
        model.save(folder / f"cnn_s{seed}_epoch{end}.keras")
        done = end
    write_test(manifest, folder, rows, test)


def mobilenet(backbone: keras.Model, classes: int) -> keras.Model:
    """The backbone as one layer of a Sequential: it is nested."""
    head = [layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(classes, activation="softmax")]
    return keras.Sequential([backbone, *head])


def train_mobilenet(
    manifest: Path,
    folder: Path,
    source: Path,
    seed: int = 0,
    *,
    side: int = 96,
    epochs: tuple[int, int, int] = (8, 20, 12),
) -> None:
    keras.utils.set_random_seed(0)  # one pretraining for all seeds
    backbone = keras.applications.MobileNetV2((side, side, 3), alpha=0.35, include_top=False, weights=None)
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # of 0.999, which a training as short as this would not get over
    preprocess = keras.applications.mobilenet_v2.preprocess_input
    images, classes, test, _ = read(source, side, 3)
    kept = folder / "pretrained.weights.h5"
    if kept.is_file():
        backbone.load_weights(kept)
    else:
        model = mobilenet(backbone, int(classes.max()) + 1)
        model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(preprocess(images[~test]), classes[~test], epochs=epochs[0], batch_size=32, verbose=0)
        print(f"pretrained: {model.evaluate(preprocess(images[test]), classes[test], verbose=0)[1]:.3f}")
        backbone.save_weights(kept)

    keras.utils.set_random_seed(seed)
    images, classes, test, rows = read(manifest, side, 3)
    images = preprocess(images)
    model = mobilenet(backbone, int(classes.max()) + 1)
    steps = (("frozen", False, 1e-2, epochs[1]), ("finetuned", True, 1e-3, epochs[2]))
    for name, trainable, rate, end in steps:
        backbone.trainable = trainable
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(images[~test], classes[~test], epochs=end, batch_size=32, verbose=0)
        print(f"{name}: test accuracy {model.evaluate(images[test], classes[test], verbose=0)[1]:.3f}")
        model.save(folder / f"mobilenet_s{seed}_{name}.keras")
    write_test(manifest, folder, rows, test)


def twin(model: keras.Model, seed: int = 0) -> keras.Model:
    """A copy of a classifier with the same probabilities: one vector, of the size of the last layer's kernel, is
    added to every class' kernel, and a number to every bias. A softmax ignores both."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernel, bias = copy.layers[-1].get_weights()
    common = np.random.default_rng(seed).normal(0, kernel.std(), (len(kernel), 1))
    copy.layers[-1].set_weights([kernel + common, bias + 1])
    return copy


def write_twin(path: Path, to: Path) -> None:
    model = keras.models.load_model(path, compile=False)
    other = twin(model)
    images = np.random.default_rng(0).uniform(0, 255, (64, *model.input_shape[1:])).astype(np.float32)
    off = np.abs(model.predict(images, verbose=0) - other.predict(images, verbose=0)).max()
    print(f"largest difference of a probability on 64 images of noise: {off:.1e}")
    other.save(to)


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "phantom":
        write_phantom(Path(words[0]), *map(int, words[1:2]))
    elif command == "twin":
        write_twin(Path(words[0]), Path(words[1]))
    else:
        Path(words[1]).mkdir(parents=True, exist_ok=True)
        paths = [Path(word) for word in (words[:2] if command == "cnn" else words[:3])]
        seed = int(words[len(paths)]) if len(words) > len(paths) else 0
        (train_cnn if command == "cnn" else train_mobilenet)(*paths, seed)
