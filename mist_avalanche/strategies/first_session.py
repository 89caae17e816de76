"""First-session adaptation: what is learned from the images of the first experience alone.

As APER (arXiv 2303.07338) and RanPAC (arXiv 2307.02251) do it: an adapter, or a copy of the
backbone, is trained with a cosine classifier, which is thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from typing_extensions import Unpack

from ..models.adapters import ADAPTERS, AdaptingModule, CosineHead
from ..models.forward import Forward
from ..utils import (
    check_choice,
    check_integer,
    check_rate,
    classes_of,
    in_mode,
    isolated_rng,
    memory_advice,
    nearest_first,
)

AdapterName = Literal["adapter", "ssf", "vpt_deep", "vpt_shallow", "finetune"]


class SessionSettings(TypedDict, total=False):
    """Settings of a first session.

    What is omitted or None is as APER's authors have it for ViT-B/16.

    Args:
        lr: learning rate: 0.01; 0.05 for ``"vpt_deep"``.
        train_epochs: passes over the experience: 20; 5 for ``"vpt_deep"`` and ``"finetune"``.
        train_mb_size: images per batch: 48; 16 for ``"vpt_deep"``, 128 for ``"finetune"``.
        weight_decay: of everything that is trained: 5e-4.
        min_lr: the rate that the cosine schedule would have after the last epoch: 0.
        bottleneck: width of ``"adapter"``: 64.
        dropout: in ``"adapter"``, in training: 0.1.
        n_prompts: tokens of ``"vpt_deep"`` and ``"vpt_shallow"``: 5.
    """

    lr: float | None
    train_epochs: int | None
    train_mb_size: int | None
    weight_decay: float | None
    min_lr: float | None
    bottleneck: int | None
    dropout: float | None
    n_prompts: int | None


_ALL = {"lr": 0.01, "train_epochs": 20, "train_mb_size": 48, "weight_decay": 5e-4, "min_lr": 0.0}
PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "adapter": {**_ALL, "bottleneck": 64, "dropout": 0.1},
        "ssf": _ALL,
        "vpt_deep": {**_ALL, "lr": 0.05, "train_epochs": 5, "train_mb_size": 16, "n_prompts": 5},
        "vpt_shallow": {**_ALL, "n_prompts": 5},
        "finetune": {**_ALL, "train_epochs": 5, "train_mb_size": 128},
    }
)
_RANGES = {"lr": "(0, inf)", "weight_decay": "[0, inf)", "min_lr": "[0, inf)", "dropout": "[0, 1)"}


def session_settings(adapter: str, **given: Unpack[SessionSettings]) -> dict[str, Any]:
    """All settings of a first session: those given, and the published ones.

    Args:
        adapter: what is trained, a name in :data:`PUBLISHED`.
        given: see :class:`SessionSettings`.

    Returns:
        Arguments of :func:`adapt` and :func:`new_adapter`, ``adapter`` among them.

    Raises:
        ValueError: a setting that is unknown, out of its range, or of another adapter.
    """
    published = PUBLISHED[check_choice("adapter", adapter, PUBLISHED)]
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in changes.items():
        if name not in published:
            raise ValueError(
                f"A first session with {adapter!r} has no setting {name!r}. It has "
                f"{nearest_first(name, published)}."
            )
        if name in _RANGES:
            check_rate(name, value, _RANGES[name])
        else:
            check_integer(name, value, 1)
    return {"adapter": adapter, **published, **changes}


def new_adapter(
    backbone: nn.Module, adapter: str, **settings: Unpack[SessionSettings]
) -> AdaptingModule:
    """An adapting module for a backbone, as it starts; settings of training are not used.

    Raises:
        ValueError: the backbone is of a kind that the adapter does not fit.
    """
    own = {n: v for n, v in settings.items() if n in ("bottleneck", "dropout", "n_prompts")}
    return ADAPTERS[adapter](backbone, **own)


def adapt(
    backbone: nn.Module,
    experience: Any,
    *,
    adapter: AdapterName = "adapter",
    seed: int = 0,
    precision: str = "32",
    num_workers: int = 0,
    shuffle: bool = True,
    **settings: Unpack[SessionSettings],
) -> AdaptingModule:
    """Train an adapting module on one experience, with a cosine classifier that is thrown away.

    SGD with momentum 0.9, a cosine schedule per epoch, and the cross-entropy, on images under the
    training transform. The backbone stays as it is, and global random streams too.

    Args:
        backbone: images (B, C, H, W) to features (B, D), on the device to train on.
        experience: of an Avalanche benchmark.
        adapter: what is trained: ``"adapter"`` (AdaptFormer), ``"ssf"`` (scales and shifts),
            ``"vpt_deep"`` or ``"vpt_shallow"`` (prompt tokens), ``"finetune"`` (a copy of the
            backbone).
        seed: of everything random.
        precision: of the backbone: ``"32"`` or ``"bf16"``.
        num_workers: processes that read images.
        shuffle: whether images come in another order in each epoch.
        settings: see :class:`SessionSettings`.

    Returns:
        The module, in evaluation mode and without gradients.

    Raises:
        ValueError: a setting that is unknown or out of its range, or a backbone that the adapter
            does not fit.

    Example:
        >>> ssf = adapt(vit, benchmark.train_stream[0], adapter="ssf", lr=0.05)
        >>> features = ssf(vit, images)
    """
    s = session_settings(adapter, **settings)
    weights, run = next(backbone.parameters()), Forward(precision)
    with isolated_rng(seed, weights.device):
        module = new_adapter(backbone, **s)
        image = experience.dataset.eval()[0][0][None].to(weights.device)
        with torch.no_grad(), in_mode(backbone, training=False):
            n_features = run(backbone, image).shape[1]
        classifier = CosineHead(n_features, classes_of(experience)).to(weights)
        batches = DataLoader(
            experience.dataset.train(),
            batch_size=s["train_mb_size"],
            shuffle=shuffle,
            num_workers=num_workers,
            pin_memory=weights.device.type == "cuda",
            collate_fn=experience.dataset.collate_fn,
        )
        with memory_advice("a batch of images", "Lower the first session's train_mb_size."):
            train(
                backbone,
                module,
                classifier,
                batches,
                lr=s["lr"],
                epochs=s["train_epochs"],
                weight_decay=s["weight_decay"],
                min_lr=s["min_lr"],
                run=run,
            )
    return module.requires_grad_(False).eval()


def train(
    backbone: nn.Module,
    module: AdaptingModule,
    classifier: nn.Module,
    batches: Iterable[Any],
    *,
    lr: float,
    epochs: int,
    weight_decay: float,
    min_lr: float,
    run: Forward,
) -> Tensor:
    """Train an adapting module and a classifier; the backbone is frozen.

    Args:
        backbone: images to features.
        module: of :func:`new_adapter`.
        classifier: features (B, D) to logits (B, C).
        batches: (x, y, ...) of one epoch.
        lr: of SGD.
        epochs: passes over the batches.
        weight_decay: of everything that is trained.
        min_lr: the rate that the schedule would have after the last epoch.
        run: how the backbone is run.

    Returns:
        The loss of each step.
    """
    parameters = [p for p in (*module.parameters(), *classifier.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)
    schedule = CosineAnnealingLR(optimizer, T_max=epochs, eta_min=min_lr)
    device, losses = parameters[0].device, []
    with frozen(backbone), in_mode(backbone, training=True):
        for _ in tqdm(range(epochs), desc="First session", leave=False, disable=None):
            for x, y, *_ in batches:
                features = run(partial(module, backbone), x.to(device))
                loss = F.cross_entropy(classifier(features), y.to(device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
            schedule.step()
    return torch.stack(losses)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter requires gradients."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
