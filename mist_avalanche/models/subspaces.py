"""A ViT with one adapter a subspace, and the states that it had when each was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Adapter, StackedAdapters
from .chain import DeltaChain
from .cosine_head import CosineHead
from .forward import Forward
from .heads import BackboneWithHead
from .subspace_head import SubspaceHead

AT_A_TIME = 512  # images in one pass, each counted once a subspace


class SubspaceViT(BackboneWithHead):
    """Images to logits, of one pass through a ViT for each subspace.

    A subspace is an adapter and the state of the ViT that it was trained on. Where the ViT has been
    tuned since, its pass goes through the ViT as it was; before and after, the ViT is as it is now.

    Args:
        backbone: timm's VisionTransformer without classifier.
        head: of the prototypes.
        precision: of the ViT: ``"32"``, or ``"bf16"`` (autocast).
        settings: arguments of each :class:`~mist_avalanche.models.adapters.Adapter`.

    Attributes:
        adapters: one a subspace, and in training the one that trains.
        chain: the states of the ViT; subspace b is of the state after b steps.

    Raises:
        ValueError: the backbone is of another kind.
    """

    head: SubspaceHead

    def __init__(
        self, backbone: nn.Module, head: SubspaceHead, precision: str, settings: Mapping[str, Any]
    ) -> None:
        super().__init__(backbone, head)
        self.adapters = nn.ModuleList()
        self.training_head: CosineHead | None = None
        self.chain, self.settings = DeltaChain(), dict(settings)
        self.run_backbone = Forward(precision)

    def blocks(self, n: int | None = None) -> range:
        """The first n subspaces, None for those that the classifier has.

        Before them -1, the plain ViT in its first state, where that takes part.
        """
        return range(-self.head.first, self.head.n_subspaces if n is None else n)

    def add_adapter(self, seed: int) -> Adapter:
        """A new one, which starts as the identity."""
        adapter = Adapter(self.backbone, **self.settings, seed=seed)
        self.adapters.append(adapter)
        return adapter

    @contextmanager
    def state_of(self, block: int) -> Iterator[None]:
        """Inside, the ViT is as it was when a subspace was trained."""
        with self.chain.at(self.backbone, max(0, block)):
            yield

    def adapted(self, x: Tensor, block: int) -> Tensor:
        """Features (B, D) with a subspace's adapter, of the ViT as it is."""
        if block < 0:
            return self.run_backbone(self.backbone, x)
        adapter: Any = self.adapters[block]
        run: Any = lambda images: adapter.of(self.backbone, images)  # noqa: E731
        return self.run_backbone(run, x)

    def features(self, x: Tensor, blocks: Sequence[int] | None = None) -> Tensor:
        """Features (B, S, D) of images in some of :meth:`blocks`, or in all, without gradient."""
        rows = []
        for group in self._passes(self.blocks() if blocks is None else blocks, len(x), x.is_cuda):
            with torch.no_grad(), self.state_of(group[0]):
                if len(group) == 1:
                    rows.append(self.adapted(x, group[0]).unsqueeze(1))
                else:
                    adapters: Any = [self.adapters[block] for block in group]
                    run: Any = partial(StackedAdapters(adapters).of, self.backbone)
                    rows.append(self.run_backbone(run, x).reshape(len(x), len(group), -1))
        return torch.cat(rows, dim=1)

    def _passes(self, blocks: Sequence[int], images: int, together: bool) -> list[list[int]]:
        """Blocks by passes through the ViT: in one those of one state, where that is faster."""
        if not together:
            return [[block] for block in blocks]
        most, groups = max(1, AT_A_TIME // max(1, images)), list[list[int]]()
        for block in blocks:
            joins = groups and groups[-1][0] >= 0 and len(groups[-1]) < most
            if joins and not any(self.chain.steps[groups[-1][-1] : block]):
                groups[-1].append(block)
            else:
                groups.append([block])
        return groups

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images."""
        n = self.head.n_subspaces
        features = self.features(x) if n else x.new_zeros(len(x), 0, 0)
        logits: Tensor = self.head(features)
        return logits

    def saved(self) -> dict[str, Any]:
        """Adapters, classifiers and states of the ViT."""
        training = self.training_head
        return {
            "training_head": None if training is None else training.state_dict(),
            "adapters": [adapter.state_dict() for adapter in self.adapters],
            "head": self.head.state_dict(),
            "chain": self.chain.state_dict(),
        }

    def load_saved(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`saved` gave."""
        self.adapters = nn.ModuleList()
        for saved in state["adapters"]:
            self.add_adapter(0).load_state_dict(saved)
        self.adapters.requires_grad_(False)
        self.head.load_state_dict(state["head"])
        self.chain.load_state_dict(state["chain"])
        self.training_head, training = None, state.get("training_head")
        if training is not None:
            self.adapters[-1].requires_grad_(True)
            head = CosineHead(training["weight"].shape[1], training["classes"].tolist())
            head.load_state_dict(training)
            self.training_head = head.to(next(self.backbone.parameters()))

    # ---- For a file --------------------------------------------------------------------------

    def exported(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What :meth:`imported` needs beside the ViT: plain data, and tensors by name."""
        head = self.head
        about = {
            "adapter": self.settings,
            "head": {"alpha": head.alpha, "beta": head.beta, "complement": head.complement},
            "states": len(self.chain.steps),
        }
        tensors = {f"head.{n}": t for n, t in head.state_dict().items() if n != "sums"}
        tensors |= {f"adapters.{n}": t for n, t in self.adapters.state_dict().items()}
        for i, step in enumerate(self.chain.steps):
            for name, (index, xor) in step.items():
                tensors[f"steps.{i}.xor.{name}"] = xor
                if index is not None:
                    tensors[f"steps.{i}.index.{name}"] = index
        return about, tensors

    @classmethod
    def imported(
        cls, backbone: nn.Module, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> SubspaceViT:
        """The model that was :meth:`exported`.

        Args:
            backbone: the ViT as it was then.
            about: the plain data.
            tensors: by name.
        """
        model = cls(backbone, SubspaceHead(**about["head"]), "32", about["adapter"])
        parts: dict[str, dict[str, Tensor]] = {"head": {}, "adapters": {}, "steps": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        n_adapters = len({name.split(".")[0] for name in parts["adapters"]})
        for _ in range(n_adapters):
            model.add_adapter(0)
        model.adapters.load_state_dict(parts["adapters"])
        model.head.load_state_dict(parts["head"], strict=False)  # means are made, sums not needed
        model.chain.steps = [{} for _ in range(int(about["states"]))]
        for name, tensor in parts["steps"].items():
            i, kind, where = name.split(".", 2)
            if kind == "xor":
                index = parts["steps"].get(f"{i}.index.{where}")
                model.chain.steps[int(i)][where] = index, tensor
        return model
