"""Prompts for a frozen ViT: three prompt modules, and the model that uses them."""

from .base import PromptModule as PromptModule
from .base import PromptOutput as PromptOutput
from .base import choose_blocks as choose_blocks
from .components import ComponentPrompts as ComponentPrompts
from .experts import GeneralExpertPrompts as GeneralExpertPrompts
from .pool import PromptPool as PromptPool
from .prompted_vit import PromptedViT as PromptedViT
