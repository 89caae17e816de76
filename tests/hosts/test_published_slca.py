"""Numbers that the published SLCA computed, by our whole strategy.

HOSTS_REFERENCE_DIR names a folder with another set of them in ``tuned/``.
"""

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from tuned_reference import Comparison, arrays, experiences, seen_test_images, settings_of, vit

from mist_avalanche.models import alignment
from mist_avalanche.strategies import SLCA, gaussian_based
from mist_avalanche.strategies.gradient_based import cosine_schedule

S = settings_of("slca")
PARAMETERS = ("cls_token", "blocks.0.attn.qkv.bias", "blocks.1.mlp.fc1.bias", "norm.weight")


class Recorder(SupervisedPlugin):
    """Starts new rows as published, and compares what happens."""

    def __init__(self, published, compare, pretrained):
        super().__init__()
        self.published, self.compare, self.pretrained = published, compare, pretrained
        self.t = -1

    def before_training_exp(self, strategy, **kwargs):
        self.t += 1
        self.losses, head, n = [], strategy.head, S["task_sizes"][self.t]
        with torch.no_grad():
            for name in ("weight", "bias"):
                start = self.published[f"t{self.t}/head_init.{name}"]
                part = getattr(head.part, name)
                part.copy_(start[-n:])
                rows = torch.cat([getattr(head, name)[:-n], part])
                self.compare(f"t{self.t}/head_init.{name}", rows)

    def after_backward(self, strategy, **kwargs):
        if not self.losses:
            norms = [p.grad.norm() for p in strategy.backbone.parameters()]
            self.compare(f"t{self.t}/grad0_norms", torch.stack(norms))
        self.losses.append(strategy.loss.detach().squeeze())

    def after_training_exp(self, strategy, **kwargs):
        t, vit, head = f"t{self.t}", strategy.backbone, strategy.head
        self.compare(f"{t}/losses", torch.stack(self.losses))
        named = dict(vit.named_parameters())
        assert [*named] == S["parameter_names"]
        self.compare(f"{t}/norms", torch.stack([p.norm() for p in named.values()]))
        moved = [(p - self.pretrained[name]).norm() for name, p in named.items()]
        self.compare(f"{t}/change_norms", torch.stack(moved))
        for name in PARAMETERS:
            self.compare(f"{t}/{name}", named[name])
        for name in ("weight", "bias"):
            self.compare(f"{t}/head.{name}", getattr(head, name))
        gaussians = strategy.gaussians
        factors = [gaussians.factors[y] for y in gaussians.classes]
        self.compare(f"{t}/means", torch.stack([gaussians.means[y] for y in gaussians.classes]))
        self.compare(f"{t}/covariances", torch.stack([f @ f.T for f in factors]))
        x = seen_test_images(len(factors))
        vit.eval()
        with torch.no_grad():
            self.compare(f"{t}/features_test", vit(x))
            self.compare(f"{t}/logits", strategy.model.eval()(x))


def test_slca(monkeypatch):
    published, model = arrays("slca"), vit()
    compare = Comparison(published)
    pretrained = {name: p.detach().clone() for name, p in model.named_parameters()}
    recorder = Recorder(published, compare, pretrained)
    drawing = {}

    def of_task(kind):
        return published[f"t{recorder.t}/align/{kind}"][drawing["epoch"]]

    def noise(*shape, **kwargs):
        rows = of_task("noise")[drawing["class"]]
        drawing["class"] += 1
        assert rows.shape == shape
        return rows

    def order(n, **kwargs):
        return of_task("order")

    monkeypatch.setattr(alignment.torch, "randn", noise)
    monkeypatch.setattr(alignment.torch, "randperm", order)
    drawn, align = alignment.ClassGaussians.draw, gaussian_based.align

    def draw(self, n, generator=None):
        drawing["class"] = 0
        samples = drawn(self, n, generator)
        if drawing["epoch"] == 0:
            compare(f"t{recorder.t}/align/inputs_epoch0", samples[of_task("order")])
        return samples

    def observed(weight, bias, gaussians, **kwargs):
        losses, t = [], f"t{recorder.t}/align"
        drawing["epoch"] = 0
        for each in align(weight, bias, gaussians, **kwargs):
            for name, rows in (("weight", weight), ("bias", bias)):
                compare(f"{t}/head_after_epoch{drawing['epoch']}.{name}", rows)
            losses.append(each)
            drawing["epoch"] += 1
            yield each
        compare(f"{t}/losses", torch.stack(losses))

    monkeypatch.setattr(alignment.ClassGaussians, "draw", draw)
    monkeypatch.setattr(gaussian_based, "align", observed)
    strategy = SLCA(
        model=model,
        lr=S["lr"],
        backbone_lr=S["backbone_lr"],
        milestones=S["milestones"],
        weight_decay=S["weight_decay"],
        align_epochs=S["align"]["epochs"],
        samples_per_class=S["align"]["samples_per_class"],
        temperature=S["align"]["temperature"],
        train_mb_size=S["batch_size"],
        train_epochs=S["epochs"],
        plugins=[recorder],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for t, experience in enumerate(experiences(S["task_sizes"])):
        strategy.train(experience, shuffle=False, eval_streams=[])
        compare(f"t{t}/head_recalled.weight", strategy.head.weight)
    for name in (f"t{t}/align/lr" for t in (1, 2)):
        n = len(published[name])
        rates = [S["align"]["lr"] * cosine_schedule(epoch, n) for epoch in range(n)]
        compare(name, torch.tensor(rates, dtype=torch.float64))
    given = {name for name in published if name.endswith(("/noise", "/order"))}
    assert compare.compared == {*published} - given
