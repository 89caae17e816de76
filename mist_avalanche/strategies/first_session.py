"""First-session adaptation: an adapter is trained on the first experience only.

As in APER (arXiv 2303.07338) and RanPAC (arXiv 2307.02251), an adapter, or a copy of the backbone,
is trained with a cosine classifier that is then discarded.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..models.adapters import ADAPTERS, CosineHead
from ..models.forward import Forward
from ..utils import (
    check_choice,
    check_integer,
    check_rate,
    classes_of,
    in_mode,
    isolated_rng,
    nearest_first,
)

AdapterName = Literal["adapter", "ssf", "vpt_deep", "vpt_shallow", "finetune"]

# The settings of APER's authors for ViT-B/16, under the names of APER's arguments.
_ALL = {"lr": 0.01, "train_epochs": 20, "train_mb_size": 48, "weight_decay": 5e-4, "min_lr": 0.0}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "adapter": {**_ALL, "bottleneck": 64, "dropout": 0.1},
    "ssf": _ALL,
    "vpt_deep": {**_ALL, "lr": 0.05, "train_epochs": 5, "train_mb_size": 16, "n_prompts": 5},
    "vpt_shallow": {**_ALL, "n_prompts": 5},
    "finetune": {**_ALL, "train_epochs": 5, "train_mb_size": 128},
}


def session_settings(adapter: str, **settings: float | None) -> dict[str, Any]:
    """All settings of a first session: ``adapter``, the given ones, and published defaults.

    Raises:
        ValueError: a setting is unknown, out of its range, or belongs to another adapter.
    """
    published = PUBLISHED[check_choice("adapter", adapter, PUBLISHED)]
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given.keys() - published.keys():
        known = nearest_first(name, published)
        raise ValueError(
            f"A first session with {adapter!r} has no setting {name!r}. It has {known}."
        )
    found = {**published, **given}
    check_rate("lr", found["lr"], "(0, inf)")
    for name in ("weight_decay", "min_lr"):
        check_rate(name, found[name], "[0, inf)")
    for name in ("train_epochs", "train_mb_size"):
        check_integer(name, found[name], 1)
    return {"adapter": adapter, **found}


def new_adapter(backbone: nn.Module, adapter: str, **settings: Any) -> nn.Module:
    """Create the module to be trained, or raise a ValueError if it does not fit the backbone."""
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
    **settings: float | None,
) -> nn.Module:
    """Train an adapter on one experience, with a cosine classifier that is then discarded.

    Uses SGD with momentum 0.9, a cosine schedule per epoch, and the cross-entropy, on images under
    the training transform. The backbone and the global random streams do not change. Afterwards,
    ``adapter(backbone, images)`` returns the adapted features.

    Args:
        backbone: images (B, C, H, W) to features (B, D), on the device to train on.
        experience: experience of an Avalanche benchmark.
        adapter: kind of adapter, see :class:`~mist_avalanche.strategies.APER`.
        seed: seed of all randomness.
        precision: precision of the backbone: ``"32"`` or ``"bf16"``.
        num_workers: number of processes that read images.
        shuffle: whether to shuffle the images in each epoch.
        settings: settings of the training and the adapter, as in APER.
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
        of_training = {name: s[name] for name in ("lr", "train_epochs", "weight_decay", "min_lr")}
        train(backbone, module, classifier, batches, run=run, **of_training)
    return module.requires_grad_(False).eval()


def train(
    backbone: nn.Module,
    module: nn.Module,
    classifier: nn.Module,
    batches: Iterable[Any],
    *,
    run: Forward,
    lr: float,
    train_epochs: int,
    weight_decay: float,
    min_lr: float,
) -> Tensor:
    """Train an adapter and a classifier on batches (x, y, ...), and return the loss of each step.

    The backbone is frozen during training.
    """
    tunable = [p for p in backbone.parameters() if p.requires_grad]
    backbone.requires_grad_(False)
    parameters = [p for p in (*module.parameters(), *classifier.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)
    schedule = CosineAnnealingLR(optimizer, T_max=train_epochs, eta_min=min_lr)
    device, losses = parameters[0].device, []
    with in_mode(backbone, training=True):
        for _ in tqdm(range(train_epochs), desc="First session", leave=False, disable=None):
            for x, y, *_ in batches:
                features = run(partial(module, backbone), x.to(device))
                loss = F.cross_entropy(classifier(features), y.to(device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
            schedule.step()
    for p in tunable:
        p.requires_grad_(True)
    return torch.stack(losses)
