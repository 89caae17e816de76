"""Models: backbones, their features and defaults, and heads on features."""

from .backbone_with_head import BackboneWithHead
from .backbones import create_backbone, input_statistics
from .defaults import BackboneDefaults, backbone_defaults
from .heads import PrototypeHead, RidgeHead
from .statistics_head import StatisticsHead

__all__ = [
    "BackboneDefaults",
    "BackboneWithHead",
    "PrototypeHead",
    "RidgeHead",
    "StatisticsHead",
    "backbone_defaults",
    "create_backbone",
    "input_statistics",
]
