"""What adapts a frozen ViT: modules with parameters of their own, attached by hooks.

Pure torch and timm. ``with module.attached(vit): vit(x)`` is the adapted ViT, and ``vit(x)``
outside of it the plain one.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .adapted import AdaptedBackbone
from .adapter import Adapter
from .base import AdaptingModule
from .fine_tuned import FineTuned
from .prompt_tokens import PromptTokens
from .scale_shift import ScaleShift
from .stacked import StackedAdapters

ADAPTERS: Mapping[str, Callable[..., AdaptingModule]] = MappingProxyType(
    {kind.__name__: kind for kind in (Adapter, ScaleShift, PromptTokens, FineTuned)}
)

__all__ = [
    "ADAPTERS",
    "AdaptedBackbone",
    "Adapter",
    "AdaptingModule",
    "FineTuned",
    "PromptTokens",
    "ScaleShift",
    "StackedAdapters",
]
