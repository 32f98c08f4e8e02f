"""The ends of classifiers: dense layers that turn into convolutions, for images of any size.

A dense layer that reads a whole feature map is a convolution with a window as large as the map
(Sermanet et al. 2014; Long et al. 2015). On a larger image the convolution gives scores at every
position. Both forms have the same parameters, so weights need no conversion between them.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Dense(nn.Module):
    """A dense layer over a window of a feature map, or over a vector of features.

    With `fully_convolutional`, (N, H, W, C) -> (N, H - h + 1, W - w + 1, features) for a window
    (h, w). Otherwise (N, h, w, C), or (N, C) where the window is one position, -> (N, features).

    The kernel is (h, w, C, features), in the order of rows, columns, channels; (C, features)
    where the window is one position.

    Raises:
        ValueError: the input is smaller than the window, or is not of the window's size though
            the layer is dense.
    """

    features: int
    window: tuple[int, int] = (1, 1)
    fully_convolutional: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer to `x`."""
        channels = x.shape[-1]
        single = self.window == (1, 1)
        shape = (channels, self.features) if single else (*self.window, channels, self.features)
        # The input is checked first: what follows would complain in other terms.
        self._check(x)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        if self.fully_convolutional:
            kernel = kernel.reshape(*self.window, channels, self.features)
            layout = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        else:
            y = x.reshape(x.shape[0], -1) @ kernel.reshape(-1, self.features)
        return y + bias

    def _check(self, x: jax.Array) -> None:
        given = x.shape[1:3] if x.ndim == 4 else (1, 1)
        if self.fully_convolutional:
            if any(size < least for size, least in zip(given, self.window, strict=True)):
                raise ValueError(
                    f"{self.name} needs at least {_by(self.window)} positions and the image leaves "
                    f"{_by(given)}: enlarge the image"
                )
        elif given != self.window:
            raise ValueError(
                f"{self.name} is dense and reads {_by(self.window)} positions, this image leaves "
                f"{_by(given)}: resize the image to the network's own size, or build the network "
                "with fully_convolutional=True for a score map"
            )


def classify(
    x: jax.Array,
    num_classes: int | None,
    fully_convolutional: bool,
    name: str,
    average_window: int | None = None,
) -> jax.Array:
    """The global average of a feature map (N, H, W, C) and the linear classifier behind it.

    Args:
        average_window: the side in positions of the average of the fully convolutional form: it
            slides, without padding, over the map (IJCV18, 6.1.1; Oquab et al. 2015), and is cut to
            the map's size where that is smaller. None: nothing is averaged.

    Returns:
        (N, num_classes) logits; (N, C) features where num_classes is None. With
        `fully_convolutional` the classifier's scores at each position of the window,
        (N, H - w + 1, W - w + 1, num_classes), or at each position (N, H, W, num_classes), whose
        spatial mean is the logits; where num_classes is None, the feature map itself.

    >>> import jax, jax.numpy as jnp
    >>> from excitation_jax.models import resnet
    >>> def shape(**options):
    ...     model = resnet.ResNet(depth=18, fully_convolutional=True, **options)
    ...     x = jax.ShapeDtypeStruct((1, 224, 320, 3), jnp.float32)
    ...     return jax.eval_shape(model.init_with_output, jax.random.key(0), x)[0].shape
    >>> shape(), shape(average_window=7)
    ((1, 7, 10, 1000), (1, 1, 4, 1000))
    """
    if not fully_convolutional:
        x = jnp.mean(x, axis=(1, 2))
    if num_classes is None:
        return x
    if fully_convolutional and average_window is not None:
        height, width = (min(average_window, size) for size in x.shape[1:3])
        x = nn.avg_pool(x, (height, width))
    return Dense(num_classes, fully_convolutional=fully_convolutional, name=name)(x)


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
