"""Models: backbones, their features and defaults, and heads on features."""

from .backbone_with_head import BackboneWithHead as BackboneWithHead
from .backbones import create_backbone as create_backbone
from .backbones import input_statistics as input_statistics
from .defaults import BackboneDefaults as BackboneDefaults
from .defaults import backbone_defaults as backbone_defaults
from .heads import PrototypeHead as PrototypeHead
from .heads import RidgeHead as RidgeHead

__all__ = [
    "BackboneDefaults",
    "BackboneWithHead",
    "PrototypeHead",
    "RidgeHead",
    "backbone_defaults",
    "create_backbone",
    "input_statistics",
]
