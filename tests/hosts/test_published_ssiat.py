"""Numbers that the published SSIAT computed, by our whole strategy and its parts.

HOSTS_REFERENCE_DIR names a folder with another set of them in ``merged/``.
"""

from functools import partial

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from merged_reference import arrays, experiences, seen_test_images, settings_of, vit
from torch.nn import functional as F
from tuned_reference import Comparison, mirrored, named

from mist_avalanche.models import alignment
from mist_avalanche.models.drift import weighted_shift
from mist_avalanche.models.vit import run_with
from mist_avalanche.strategies import SSIAT, gaussian_based
from mist_avalanche.strategies.gradient_based import cosine_schedule
from mist_avalanche.strategies.ssiat import margin_logits

S = settings_of("ssiat")
PUBLISHED = arrays("ssiat")
GIVEN = ("/noise", "/order", "/order_unpaired", "/input")


class Recorder(SupervisedPlugin):
    """Starts, draws and shifts as published, and compares what happens."""

    def __init__(self, compare, monkeypatch):
        super().__init__()
        self.found, self.t = compare, -1
        self.align = gaussian_based.align
        monkeypatch.setattr(gaussian_based, "align", self.observed)
        monkeypatch.setattr(alignment.torch, "randn", lambda *_, **__: next(self.noise))
        monkeypatch.setattr(alignment.torch, "randperm", lambda *_, **__: next(self.order))

    def compare(self, name, got):
        self.found(f"t{self.t}/{name}", got)

    def features(self, strategy, view=lambda x: x):
        x = torch.stack([x for x, *_ in strategy.experience.dataset.eval()])
        with torch.no_grad():
            return strategy.model.eval().features(view(x))

    def before_training_exp(self, strategy, **kwargs):
        self.t += 1
        self.losses, self.rates, head = [], [], strategy.head.classifier
        if self.t:
            self.before = [self.features(strategy, view) for view in (lambda x: x, mirrored)]
            self.means = torch.stack([*strategy.gaussians.means.values()])
        strategy.model.train()
        new = slice(-S["task_sizes"][self.t], None)
        with torch.no_grad():
            head.weight[new] = PUBLISHED[f"t{self.t}/head_init"][new]
            for name, p in named(strategy.model.adapters[0]) if self.t == 0 else ():
                p.copy_(PUBLISHED[f"t0/adapter_init/{name}"])
                self.compare(f"adapter_init/{name}", p)
        self.compare("head_init", head.weight)

    def before_training_epoch(self, strategy, **kwargs):
        self.rates.append(strategy.optimizer.param_groups[0]["lr"])

    def after_backward(self, strategy, **kwargs):
        if not self.losses:
            for name, p in named(strategy.model.adapters[0]):
                if self.t or ".up." in name:
                    self.compare(f"grad0/{name}", p.grad)
                else:
                    assert not p.grad.any()
            self.compare("grad0/head", strategy.head.classifier.weight.grad)
        self.losses.append(strategy.loss.detach().squeeze())

    def after_training_epoch(self, strategy, **kwargs):
        if len(self.rates) == strategy.train_epochs:  # the last one; what comes next changes them
            self.compare("head", strategy.head.classifier.weight.clone())
            for name, p in named(strategy.model.adapters[0]):
                self.compare(f"adapter/{name}", p)

    def observed(self, weight, bias, gaussians, **how):
        self.noise = iter(PUBLISHED[f"t{self.t}/align/noise"].flatten(0, 1))
        self.order = iter(PUBLISHED[f"t{self.t}/align/order"])
        rows, losses = [], []
        for each in self.align(weight, bias, gaussians, **how):
            rows.append(weight.clone())
            losses.append(each)
            yield each
        self.compare("align/head", torch.stack(rows))
        self.compare("align/losses", torch.stack(losses))
        rates = [how["lr"] * cosine_schedule(epoch, how["epochs"]) for epoch in range(len(rows))]
        self.compare("align/lr", torch.tensor(rates, dtype=torch.float64))

    def after_training_exp(self, strategy, **kwargs):
        self.compare("losses", torch.stack(self.losses))
        self.compare("lr", torch.tensor(self.rates, dtype=torch.float64))
        gaussians, old = strategy.gaussians, sum(S["task_sizes"][: self.t])
        means = torch.stack([gaussians.means[y] for y in gaussians.classes])
        factors = torch.stack([gaussians.factors[y] for y in gaussians.classes[old:]])
        self.compare("means", means)
        self.compare("covariances", factors @ factors.mT)
        if self.t:
            self.compare("means_moved", means[:old])
            before, after = self.before[0], self.features(strategy)
            self.compare("drift/before", before)
            self.compare("drift/after", after)
            self.compare("drift/shift", means[:old] - self.means)
            shift = partial(weighted_shift, self.means, sigma=S["sigma"])
            views = {"before": self.before[1], "after": self.features(strategy, mirrored)}
            self.compare("drift/shift_training_view", shift(**views))
            unpaired = after[PUBLISHED[f"t{self.t}/drift/order_unpaired"]]
            self.compare("drift/shift_unpaired", shift(before=before, after=unpaired))
        x = seen_test_images(len(means))
        with torch.no_grad():
            self.compare("features_test", strategy.model.eval().features(x))
            self.compare("logits", strategy.model(x))


def test_ssiat(monkeypatch):
    compare, align = Comparison(PUBLISHED), S["align"]
    strategy = SSIAT(
        model=vit(),
        bottleneck=S["bottleneck"],
        dropout=0.0,
        lr=S["lr"],
        first_epochs=S["first_epochs"],
        train_epochs=S["later_epochs"],
        scale=S["scale"],
        margin=S["margin"],
        drift_sigma=S["sigma"],
        weight_decay=S["weight_decay"],
        align_lr=align["lr"],
        align_epochs=align["epochs"],
        samples_per_class=align["samples_per_class"],
        train_mb_size=S["batch_size"],
        plugins=[Recorder(compare, monkeypatch)],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for experience in experiences(S["task_sizes"]):
        strategy.train(experience, shuffle=False, eval_streams=[])
    tokens, (adapter,) = PUBLISHED["adapter/input"], strategy.model.adapters
    with torch.no_grad():
        backbone = strategy.backbone
        adapted = run_with(adapter.hooks(backbone), backbone.blocks[-1], tokens)
        compare("adapter/block_output", adapted)
        hidden = adapter.down[-1](tokens).relu()
        compare("adapter/output", adapter.SCALE * adapter.up[-1](hidden))
    wanted = {name for name in PUBLISHED if name.startswith(("t", "adapter/"))}
    assert compare.compared == {name for name in wanted if not name.endswith(GIVEN)}


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_the_loss(case):
    compare, (scale, margin) = Comparison(PUBLISHED), PUBLISHED[f"loss/{case}/scale_margin"]
    cosines, labels = PUBLISHED["loss/cosines"].clone().requires_grad_(), PUBLISHED["loss/labels"]
    loss = F.cross_entropy(margin_logits(cosines, labels, scale, margin), labels)
    loss.backward()
    compare(f"loss/{case}/value", loss)
    compare(f"loss/{case}/grad", cosines.grad)


@pytest.mark.parametrize("case", ["0", "1"])
def test_the_shift_of_means(case):
    means, before, after = (PUBLISHED[f"shift/{name}"] for name in ("means", "before", "after"))
    sigma = float(PUBLISHED[f"shift/{case}/sigma"])
    Comparison(PUBLISHED)(f"shift/{case}/shift", weighted_shift(means, before, after, sigma))
