"""The score that maps explain: one number an image, for one class, from the logits.

- `log_odds`, the default: log(p / (1 - p)) of the class' probability p. Under a softmax it is the class' logit
  minus the log-sum-exp of the others. For an output with a sigmoid of its own it is the logit itself.
- `logit`: the class' logit alone, as tf-keras-vis and most published code explain it.
- `probability`: p.

Why not the logit. A softmax ignores what all logits share: a vector added to the kernel of every class, a number
added to every bias. Training leaves that free. The gradient of one logit contains it, and so do the maps. Two
networks with the same predictions for every image can thus have different maps, and a map can move while no
prediction does. A method should give two such networks the same maps (implementation invariance, Sundararajan et
al. 2017, arXiv 1703.01365, section 2.2). The log-odds depend on the probabilities alone. Their gradient is a
contrast: what speaks for the class, against what speaks for the others, weighted by their probabilities (Wang and
Wang 2022, "Why Not Other Classes?": Towards Class-Contrastive Back-Propagation Explanations, NeurIPS 35).

The gradient of the probability is p (1 - p) times that of the log-odds. Maps that are multiplied by a factor when
gradients are (`proportional` in `cxr.core.methods`) are therefore the same for both, up to a factor.

Everything from the input of the layer `logits` on is in float64 (`Head`). In float32, what all logits share would
cost digits of their differences.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from cxr.core.errors import InputError
from cxr.core.methods import SCORES
from cxr.models.graph import activation_of, producer

DEFAULT = SCORES[0]


def of_images(logits: tf.Tensor, classes: tf.Tensor, score: str = DEFAULT, *, exclusive: bool = True) -> tf.Tensor:
    """The score of one class of each image.

    Args:
        logits: [n, n_classes], of any float type.
        classes: int [n].
        score: one of `cxr.core.methods.SCORES`.
        exclusive: whether the classes exclude each other (a softmax). If not, each output has its own sigmoid.

    Returns: float64 [n]. Gradients flow to the logits. That of the probability, p (1 - p), does not vanish where p
        rounds to 1.
    Raises: InputError for another score, or for a softmax over one class, which is always 1.
    """
    if score not in SCORES:
        raise InputError(f"score: unknown {score}: use {', '.join(SCORES)}")
    logits = tf.cast(logits, tf.float64)
    own = tf.gather(logits, classes, batch_dims=1)
    if score == "logit":
        return own
    if exclusive and logits.shape[1] == 1:
        raise InputError(f"score: {score} of a softmax over one class does not exist: its probability is always 1")
    log_odds = own - _of_others(logits, classes) if exclusive else own
    return _sigmoid(log_odds) if score == "probability" else log_odds


def _of_others(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """The log-sum-exp of the other classes' logits."""
    is_class = tf.one_hot(classes, tf.shape(logits)[1], on_value=True, off_value=False)
    return tf.reduce_logsumexp(tf.where(is_class, tf.constant(-np.inf, logits.dtype), logits), axis=1)


@tf.custom_gradient
def _sigmoid(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    # TensorFlow's own gradient is y (1 - y), which is 0 where y rounds to 1
    return tf.sigmoid(x), lambda upstream: upstream * tf.sigmoid(x) * tf.sigmoid(-x)


class Head:
    """The last layer of a classifier in float64, with the weights that it has when it is called.

    Attributes:
        input: the symbolic input of the layer `logits`, [n, d]. Make it an output of a model, and give what the
            model returns there to `logits` and `scores`.
        exclusive: whether the classes exclude each other, as the model's last layer says.

    Raises: InputError for an unknown `score`; for `log_odds` or `probability` of a model that does not end with
        the softmax or the sigmoids of its logits; and for a layer `logits` that is not linear.
    """

    def __init__(self, model: keras.Model, score: str = DEFAULT) -> None:
        if score not in SCORES:
            raise InputError(f"score: unknown {score}: use {', '.join(SCORES)}")
        self._dense = model.get_layer("logits")
        if not isinstance(self._dense, layers.Dense) or activation_of(self._dense) != "linear":
            raise InputError(f"score: 'logits' of {model.name} is not a Dense layer with a linear output")
        end = producer(model.output)
        follows = end is not self._dense and producer(end.input) is self._dense
        function = activation_of(end) if follows else "linear"
        if score != "logit" and function not in ("softmax", "sigmoid"):
            raise InputError(
                f"score: {model.name} ends with '{end.name}', not with the softmax or the sigmoids of its logits, "
                f"so its {score} is not known: end it with one of them, or explain the logit"
            )
        self.score = score
        self.exclusive = function != "sigmoid"
        self.input: keras.KerasTensor = self._dense.input

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """float64 [n, n_classes] from the input of the layer `logits`, [n, d]."""
        found = tf.matmul(tf.cast(features, tf.float64), tf.cast(self._dense.kernel, tf.float64))
        return found + tf.cast(self._dense.bias, tf.float64) if self._dense.use_bias else found

    def scores(self, features: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """float64 [n], the score of each image's class (`of_images`), from the input of the layer `logits`."""
        return of_images(self.logits(features), classes, self.score, exclusive=self.exclusive)
