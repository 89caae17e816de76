"""Prompts for a frozen ViT: three modules that make them, and what attaches them by hooks.

Pure torch and timm. :class:`PromptedViT` is the door; the strategies L2P, DualPrompt and CODAPrompt
train what is in it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .base import Attached, PromptModule, check_blocks
from .components import ComponentPrompts
from .experts import GeneralExpertPrompts
from .pool import PromptPool
from .prompted_vit import PromptedViT, vit_depth

PROMPTS: Mapping[str, Callable[..., PromptModule]] = MappingProxyType(
    {kind.__name__: kind for kind in (PromptPool, GeneralExpertPrompts, ComponentPrompts)}
)

__all__ = [
    "PROMPTS",
    "Attached",
    "ComponentPrompts",
    "GeneralExpertPrompts",
    "PromptModule",
    "PromptPool",
    "PromptedViT",
    "check_blocks",
    "vit_depth",
]
