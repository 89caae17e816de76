"""How the first experience is learned: what trains, by which rates, in which batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from .._support.checks import check_choice, check_integer, check_rate, nearest_first
from .._support.randomness import derive_seed
from ..method.batches import SeededBatches, SeededItems
from ..models.adapters import Adapter, AdaptingModule, PromptTokens, ScaleShift
from ..models.cosine_head import CosineHead

# Of APER's authors; weight decay is 5e-4, momentum 0.9 and the final rate 0 in all.
PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "adapter": {"train_epochs": 20, "lr": 0.01, "train_mb_size": 48},
        "ssf": {"train_epochs": 20, "lr": 0.01, "train_mb_size": 48},
        "vpt_deep": {"train_epochs": 5, "lr": 0.05, "train_mb_size": 16},
        "vpt_shallow": {"train_epochs": 20, "lr": 0.01, "train_mb_size": 48},
        "finetune": {"train_epochs": 5, "lr": 0.01, "train_mb_size": 128},
    }
)
_ONLY_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bottleneck": ("adapter",),
        "dropout": ("adapter",),
        "n_prompts": ("vpt_deep", "vpt_shallow"),
    }
)


@dataclass(frozen=True)
class FirstSession:
    """SGD with momentum 0.9, a cosine schedule by epochs, and cross-entropy.

    Args:
        adapter: what trains, one of :data:`PUBLISHED`.
        seed: of all that is drawn.
        lr: learning rate.
        train_epochs: passes over the first experience.
        train_mb_size: images in a batch.
        weight_decay: of all that trains.
        min_lr: the rate that the schedule would have after the last epoch.
        bottleneck: of the adapter.
        dropout: in the adapter.
        n_prompts: tokens of VPT.
    """

    adapter: str
    seed: int
    lr: float
    train_epochs: int
    train_mb_size: int
    weight_decay: float = 5e-4
    min_lr: float = 0.0
    bottleneck: int = 64
    dropout: float = 0.1
    n_prompts: int = 5

    @classmethod
    def of(cls, adapter: str, seed: int, given: Mapping[str, Any]) -> FirstSession:
        """With what is given; None and what is not is as published.

        Raises:
            ValueError: an argument that is not known, out of its range, or of another adapter.
        """
        check_choice("adapter", adapter, tuple(PUBLISHED))
        own = {name: value for name, value in given.items() if value is not None}
        known = {f.name for f in fields(cls)} - {"adapter", "seed"}
        for name in own:
            if name not in known:
                raise ValueError(
                    f"The first session has no argument {name!r}. It has "
                    f"{nearest_first(name, known)}."
                )
            if adapter not in (kinds := _ONLY_OF.get(name, (adapter,))):
                raise ValueError(
                    f"`{name}` has no effect with {adapter!r}; it is for "
                    f"{' and '.join(map(repr, kinds))}. Leave it away."
                )
        made = cls(adapter, seed, **{**PUBLISHED[adapter], **own})
        check_rate("lr", made.lr, "(0, inf)")
        check_rate("weight_decay", made.weight_decay, "[0, inf)")
        check_rate("min_lr", made.min_lr, "[0, inf)")
        check_rate("dropout", made.dropout, "[0, 1)")
        for name in ("train_epochs", "train_mb_size", "bottleneck", "n_prompts"):
            check_integer(name, getattr(made, name), 1)
        return made

    def make(self, backbone: nn.Module) -> AdaptingModule | None:
        """What is attached to a backbone and trains; None where the backbone itself does."""
        seed = derive_seed(self.seed, 0)
        if self.adapter == "adapter":
            return Adapter(backbone, self.bottleneck, dropout=self.dropout, seed=seed)
        if self.adapter == "ssf":
            return ScaleShift(backbone, seed)
        if self.adapter == "finetune":
            return None
        return PromptTokens(backbone, self.n_prompts, deep=self.adapter == "vpt_deep")

    def classifier(self, n_features: int, classes: list[int]) -> CosineHead:
        """For features (B, D) of some classes."""
        numbers = torch.Generator().manual_seed(derive_seed(self.seed, 1))
        return CosineHead(n_features, classes, numbers)

    def optimizer(self, trained: list[nn.Parameter]) -> torch.optim.SGD:
        """Of all that trains."""
        return torch.optim.SGD(trained, self.lr, momentum=0.9, weight_decay=self.weight_decay)

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """To be stepped after each epoch."""
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR
        return cosine(optimizer, T_max=self.train_epochs, eta_min=self.min_lr)

    def batches(
        self,
        dataset: Any,
        device: torch.device,
        *,
        num_workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        **_: Any,
    ) -> DataLoader[Any]:
        """Of images under the training transform, the same whatever the number of workers."""
        order = torch.Generator().manual_seed(derive_seed(self.seed, 2))
        size = self.train_mb_size
        sampler = SeededBatches(
            len(dataset), size, order, smallest=size if drop_last else 1, shuffle=shuffle
        )
        return DataLoader(
            SeededItems(dataset.train()),
            batch_sampler=sampler,
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
            collate_fn=dataset.collate_fn,
            generator=torch.Generator().manual_seed(0),  # of the workers, which draw nothing
        )
