"""What adapts a frozen ViT: modules with parameters of their own, attached by hooks.

Pure torch and timm. ``with module.attached(vit): vit(x)`` is the adapted ViT, and ``vit(x)``
outside of it the plain one.
"""

from .adapter import Adapter
from .base import AdaptingModule
from .prompt_tokens import PromptTokens
from .scale_shift import ScaleShift

__all__ = ["Adapter", "AdaptingModule", "PromptTokens", "ScaleShift"]
