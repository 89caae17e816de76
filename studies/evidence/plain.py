"""Plain baselines: LoRA on the first experience, and a linear probe of all classes at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
CS = (0.01, 0.1, 1.0, 10.0)  # inverse strength of the probe's penalty


class LowRank(nn.Module):
    """W + B A, with A (r, in) at random and B (out, r) zero at the start (arXiv 2106.09685)."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer has."""
        return weight + self.b @ self.a


def tune_lora(
    backbone: nn.Module,
    experience: Any,
    device: str,
    *,
    rank: int,
    lr: float,
    epochs: int,
    precision: str = "32",
) -> float:
    """Merge low-rank changes, trained by cross-entropy, into a backbone; their share of it.

    AdamW with a cosine schedule and batches of 48, all linear layers of the blocks; ``precision``
    as of MISTPlugin.
    """
    total = sum(p.numel() for p in backbone.parameters())
    backbone.requires_grad_(False)
    layers = [m for n, m in backbone.named_modules() if n.endswith(LAYERS)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
    classes = sorted(experience.classes_in_this_experience)
    backbone.to(device).train()
    head = nn.Linear(backbone.num_features, len(classes)).to(device)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    loader = DataLoader(experience.dataset.train(), 48, shuffle=True)
    optimizer = torch.optim.AdamW([*trained, *head.parameters()], lr=lr)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ids = torch.tensor(classes, device=device)
    for _ in range(epochs):
        for x, y, *_ in loader:
            targets = torch.searchsorted(ids, y.to(device))
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                features = backbone(x.to(device))
            loss = F.cross_entropy(head(features.float()), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    backbone.requires_grad_(True).eval()
    return sum(p.numel() for p in trained) / total


def probe(backbone: nn.Module, stream: Any, device: str) -> float:
    """Accuracy, in percent, of multinomial logistic regression on the features of all classes.

    Its penalty is the best on every fifth training image, then it trains on all of them.
    """

    @torch.no_grad()
    def features(part: Any) -> tuple[Tensor, Tensor]:
        rows = [
            (backbone(x.to(device)), y.to(device))
            for experience in part
            for x, y, *_ in DataLoader(experience.dataset.eval(), 256)
        ]
        x, y = (torch.cat(columns) for columns in zip(*rows, strict=True))
        return x.double(), y

    backbone.to(device).eval()
    x, y = features(stream.train_stream)
    shift, scale = x.mean(0), x.std(0) + 1e-6
    x = (x - shift) / scale
    out = torch.arange(len(y), device=device) % 5 == 0

    def fitted(c: float, rows: Tensor) -> Tensor:
        x_, y_ = F.pad(x[rows], (0, 1), value=1.0), y[rows]
        w = x.new_zeros(x_.shape[1], int(y.max()) + 1).requires_grad_()
        lbfgs = torch.optim.LBFGS([w], max_iter=300, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            lbfgs.zero_grad()
            value = F.cross_entropy(x_ @ w, y_) + w[:-1].square().sum() / (2 * c * len(y_))
            value.backward()
            return value

        lbfgs.step(loss)
        return w.detach()

    def accuracy(w: Tensor, x_: Tensor, y_: Tensor) -> float:
        return 100.0 * float(((F.pad(x_, (0, 1), value=1.0) @ w).argmax(1) == y_).double().mean())

    best = max(CS, key=lambda c: accuracy(fitted(c, ~out), x[out], y[out]))
    test, labels = features(stream.test_stream)
    return accuracy(fitted(best, torch.full_like(out, True)), (test - shift) / scale, labels)
