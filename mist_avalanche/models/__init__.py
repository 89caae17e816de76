"""Models, without Avalanche: backbones, where their features are, and heads on features.

Everything takes and gives tensors. :func:`create_backbone` is the door.
"""

from typing import TYPE_CHECKING

from .._support.lazy import lazily

if TYPE_CHECKING:
    from .backbones import create_backbone as create_backbone
    from .backbones import input_statistics as input_statistics
    from .defaults import BackboneDefaults as BackboneDefaults
    from .defaults import backbone_defaults as backbone_defaults
    from .heads import PrototypeHead as PrototypeHead
    from .heads import RidgeHead as RidgeHead
else:
    __getattr__, __dir__ = lazily(
        __name__,
        create_backbone="backbones",
        input_statistics="backbones",
        BackboneDefaults="defaults",
        backbone_defaults="defaults",
        PrototypeHead="heads",
        RidgeHead="heads",
    )

__all__ = [
    "BackboneDefaults",
    "PrototypeHead",
    "RidgeHead",
    "backbone_defaults",
    "create_backbone",
    "input_statistics",
]
