"""The six networks of the reference maps, in Flax Linen, with the oracles' weights and images."""

from .conversion import Parameter, convert, parameters
from .oracle import Oracle, load_oracle
from .torchvision import ARCHITECTURES, VGG16, AlexNet, GoogLeNet, ResNet, SqueezeNet, untagged

__all__ = [
    "ARCHITECTURES",
    "AlexNet",
    "GoogLeNet",
    "Oracle",
    "Parameter",
    "ResNet",
    "SqueezeNet",
    "VGG16",
    "convert",
    "load_oracle",
    "parameters",
    "untagged",
]
