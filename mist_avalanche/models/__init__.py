"""Models, without Avalanche: backbones, where their features are, and heads on features.

Everything takes and gives tensors. :func:`create_backbone` is the door.
"""

from .backbones import create_backbone, input_statistics
from .defaults import BackboneDefaults, backbone_defaults
from .heads import PrototypeHead, RidgeHead

__all__ = [
    "BackboneDefaults",
    "PrototypeHead",
    "RidgeHead",
    "backbone_defaults",
    "create_backbone",
    "input_statistics",
]
