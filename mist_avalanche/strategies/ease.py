"""EASE: expandable subspace ensemble (Zhou et al., arXiv 2403.12030)."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ..models.adapters import Adapter, CosineHead
from ..models.subspaces import COMPLEMENTS, SubspaceHead, SubspaceViT
from ..utils import check_choice, check_integer, check_rate, derive_seed, isolated_rng
from .base import Common, FeatureBatches
from .gradient_based import GradientStrategy, cosine_schedule
from .registry import register


@register(
    "ease", title="EASE", paper="arXiv 2403.12030", needs="vit", stores="adapters, class means"
)
class EASE(GradientStrategy):
    """Trains an adapter for each experience, and classifies in the subspaces of all adapters.

    In each experience, a new adapter of the frozen ViT is trained with a temporary cosine
    classifier and the cross-entropy over the experience's own classes. Then each new class gets its
    mean under the eval transform as a prototype in every subspace. Old classes get prototypes in
    the new subspace, synthesised from other classes
    (:class:`~mist_avalanche.models.subspaces.SubspaceHead`). An image passes through the ViT once
    per subspace. A class that returns updates its means, but still belongs to its first
    experience. A MISTPlugin tunes the ViT before the first experience only.

    Defaults are those of the authors for ViT-B/16 and CIFAR-100.

    Args:
        model: timm's VisionTransformer, images (B, C, H, W) to features (B, D).
        bottleneck: width of an adapter.
        dropout: dropout rate in the adapter during training.
        alpha: α; α / (number of subspaces - 1) is the weight of a class's cosines outside its own
            subspace. None for the cosine of all subspaces as one vector.
        beta: weight of one more block, the ViT without an adapter; None for no such block.
        complement: ``"all"`` recomputes all missing prototypes after each experience, as the
            authors' code does; ``"newest"`` only those in the newest subspace, as in their text.
        lr: initial learning rate of SGD with a cosine schedule.
        weight_decay: weight decay of adapter and classifier.
        seed: seed of the initialisation of adapters and classifiers.
        train_mb_size, train_epochs, common: see :class:`~.base.PretrainedStrategy`. In evaluation,
            ``mb_x`` holds features (B, S, D) if they are cached.
    """

    tune_on = "first"
    follows_tuning = False  # adapters and prototypes belong to one ViT

    adapter: Adapter  # of the current experience, with its classifier
    classifier: CosineHead

    def __init__(
        self,
        *,
        model: nn.Module,
        bottleneck: int = 64,
        dropout: float = 0.1,
        alpha: float | None = 0.1,
        beta: float | None = None,
        complement: Literal["all", "newest"] = "all",
        lr: float = 0.025,
        weight_decay: float = 5e-4,
        seed: int = 0,
        train_mb_size: int = 48,
        train_epochs: int = 20,
        **common: Unpack[Common],
    ) -> None:
        self.lr = check_rate("lr", lr, "(0, inf)")
        self.weight_decay = check_rate("weight_decay", weight_decay, "[0, inf)")
        self.seed = check_integer("seed", seed, 0)
        for name, weight in (("alpha", alpha), ("beta", beta)):
            if weight is not None:
                check_rate(name, weight, "[0, inf)")
        head = SubspaceHead(alpha, beta, check_choice("complement", complement, COMPLEMENTS))
        new_adapter = partial(Adapter, bottleneck=bottleneck, dropout=dropout)
        super().__init__(
            model=SubspaceViT(model, head, new_adapter, plain=beta is not None),
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )

    def before_training(self) -> None:
        """Create an adapter of the frozen ViT, and a temporary classifier to train it with.

        The classifier also has rows for earlier classes, whose images a plugin may replay.
        """
        self.backbone.requires_grad_(False)
        known = {*self._classes, *self.head.seen.nonzero().flatten().tolist()}
        weights: Tensor = next(self.backbone.parameters())
        with isolated_rng(derive_seed(self.seed, len(self.model.adapters)), self.device):
            self.adapter = self.model.new_adapter()
            self.classifier = CosineHead(self.backbone.embed_dim, sorted(known)).to(weights)

    def make_new_optimizer(self) -> torch.optim.SGD:
        """SGD with momentum 0.9 for the adapter and its classifier."""
        parameters = [*self.adapter.parameters(), *self.classifier.parameters()]
        return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)

    def schedule(self, epoch: int) -> float:
        """Cosine."""
        return cosine_schedule(epoch, self.train_epochs)

    def logits(self, x: Tensor) -> Any:
        """Logits (B, C): of images with the new adapter in training, of features in evaluation."""
        if self.is_training:
            adapted = partial(self.adapter, self.backbone)
            return self.classifier(self.model.run_backbone(adapted, x))
        return (self.head if isinstance(self.dataloader, FeatureBatches) else self.model)(x)

    def after_experience(self, dataset: Any, num_workers: int) -> None:
        """Compute prototypes in all subspaces, including the new one."""
        self.model.use(self.adapter)
        found = self.extract(dataset, self.model.features, num_workers)
        self.head.add_subspace(found.features, found.labels)

    def make_eval_dataloader(self, num_workers: int = 0, **kwargs: Any) -> None:
        """Batches of features in all subspaces, cached if possible; of images without a cache."""
        if self._cache is None:
            super().make_eval_dataloader(num_workers=num_workers, **kwargs)
            return
        dataset, run = self.experience.dataset, self.model.features_of
        found = [
            self.cached(dataset, part, partial(run, part), num_workers) for part in self.model.parts
        ]
        features = torch.stack([part.features for part in found], dim=1)
        self.dataloader = FeatureBatches(found[0]._replace(features=features), self.eval_mb_size)
