"""Numbers that the published CoFiMA and CoMA computed, by our whole strategy.

HOSTS_REFERENCE_DIR names a folder with another set of them in ``merged/``. Its ``published/``
arrays also average the classifier, with two errors, and are not reproduced.
"""

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from merged_reference import arrays, experiences, seen_test_images, settings_of, vit
from tuned_reference import Comparison

from mist_avalanche.models import alignment
from mist_avalanche.strategies import CoFiMA, cofima
from mist_avalanche.strategies.cofima import fisher_average
from mist_avalanche.strategies.gradient_based import cosine_schedule

S = settings_of("cofima")
PUBLISHED = arrays("cofima")


class Recorder(SupervisedPlugin):
    """Starts new rows and draws as published, and compares what the file has of the run."""

    def __init__(self, compare, prefix, monkeypatch):
        super().__init__()
        self.found, self.prefix, self.t = compare, prefix, -1
        self.average, self.trained = cofima.fisher_average, None
        monkeypatch.setattr(cofima, "fisher_average", self.averaged)
        monkeypatch.setattr(alignment.torch, "randn", lambda *_, **__: next(self.noise))
        monkeypatch.setattr(alignment.torch, "randperm", lambda *_, **__: next(self.order))

    def compare(self, name, got):
        if (name := f"{self.prefix}t{self.t}/{name}") in PUBLISHED:
            self.found(name, got)

    def state(self, where, parameters):
        assert [*parameters] == S["parameter_names"]
        for name, p in parameters.items():
            self.compare(f"{where}/{name}", p)

    def averaged(self, old, new, *args):
        average = self.average(old, new, *args)
        self.trained = {name: p.detach().clone() for name, p in new.items()}
        self.state("averaged", average)
        return average

    def draw(self):
        if self.t > 0:
            self.noise = iter(PUBLISHED[f"t{self.t}/align/noise"].flatten(0, 1))
            self.order = iter(PUBLISHED[f"t{self.t}/align/order"])

    def before_training_exp(self, strategy, **kwargs):
        self.t += 1
        self.draw()
        self.losses, self.rates, head, n = [], [], strategy.head, S["task_sizes"][self.t]
        with torch.no_grad():
            for name in ("weight", "bias"):
                part = getattr(head.part, name)
                part.copy_(PUBLISHED[f"t{self.t}/head_init.{name}"][-n:])
                self.compare(f"head_init.{name}", torch.cat([getattr(head, name)[:-n], part]))

    def before_training_epoch(self, strategy, **kwargs):
        self.rates.append([group["lr"] for group in strategy.optimizer.param_groups])

    def after_backward(self, strategy, **kwargs):
        if not self.losses:
            norms = [p.grad.norm() for p in strategy.backbone.parameters()]
            self.compare("grad0_norms", torch.stack(norms))
        self.losses.append(strategy.loss.detach().squeeze())

    def after_training_exp(self, strategy, **kwargs):
        vit, head, gaussians = strategy.backbone, strategy.head, strategy.gaussians
        self.compare("losses", torch.stack(self.losses))
        self.compare("lr", torch.tensor(self.rates, dtype=torch.float64))
        self.state("trained", self.trained or dict(vit.named_parameters()))
        if strategy.fisher:
            self.state("fisher", strategy.state_dict()["fisher"])
        for name in ("weight", "bias"):
            self.compare(f"head.{name}", getattr(head, name))
        new = gaussians.classes[-S["task_sizes"][self.t] :]
        factors = [gaussians.factors[y] for y in new]
        self.compare("means", torch.stack([gaussians.means[y] for y in new]))
        self.compare("covariances", torch.stack([f @ f.T for f in factors]))
        if self.t > 0:
            self.alignment(strategy)
        x = seen_test_images(len(gaussians.classes))
        vit.eval()
        with torch.no_grad():
            self.compare("features_test", vit(x))
            self.compare("logits", strategy.model.eval()(x))

    def alignment(self, strategy):
        """The alignment once more, epoch by epoch: it must end where the strategy's ended."""
        self.draw()
        weight, bias = strategy.head.weight.clone(), strategy.head.bias.clone()
        epochs: list[dict[str, torch.Tensor]] = []
        n = S["align"]["epochs"]
        losses = alignment.align(
            weight,
            bias,
            strategy.gaussians,
            epochs=n,
            samples=S["align"]["samples_per_class"],
            lr=S["align"]["lr"],
            weight_decay=S["align"]["weight_decay"],
            temperature=S["temperature"],
        )
        for loss in losses:
            now = {"losses": loss, "head.weight": weight.clone(), "head.bias": bias.clone()}
            epochs.append(now)
        for name in epochs[0]:
            self.compare(f"align/{name}", torch.stack([now[name] for now in epochs]))
        assert torch.equal(weight, strategy.head.aligned_weight)
        assert torch.equal(bias, strategy.head.aligned_bias)
        rates = [S["align"]["lr"] * cosine_schedule(epoch, n) for epoch in range(n)]
        self.compare("align/lr", torch.tensor(rates, dtype=torch.float64))


@pytest.mark.parametrize(("prefix", "fisher"), [("", True), ("coma/", False)], ids=["fisher", "no"])
def test_cofima_and_coma(prefix, fisher, monkeypatch):
    compare = Comparison(PUBLISHED)
    strategy = CoFiMA(
        model=vit(),
        new_weight=S["lambda"],
        fisher=fisher,
        fisher_clip=S["fisher_clip"],
        lr=S["lr"],
        backbone_lr=S["backbone_lr"],
        milestones=S["milestones"],
        weight_decay=S["weight_decay"],
        align_epochs=S["align"]["epochs"],
        samples_per_class=S["align"]["samples_per_class"],
        temperature=S["temperature"],
        train_mb_size=S["batch_size"],
        train_epochs=S["epochs"],
        plugins=[Recorder(compare, prefix, monkeypatch)],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for experience in experiences(S["task_sizes"]):
        strategy.train(experience, shuffle=False, eval_streams=[])
    wanted = {name for name in PUBLISHED if name.startswith(prefix or "t")}
    assert compare.compared == {n for n in wanted if not n.endswith(("/noise", "/order"))}


@pytest.mark.parametrize("run", ["0", "1", "2"])
def test_single_averages(run):
    def of(kind):
        kind = f"average/{kind}/"
        return {k.removeprefix(kind): v for k, v in PUBLISHED.items() if k.startswith(kind)}

    compare, new_weight = Comparison(PUBLISHED), float(PUBLISHED[f"average/{run}/lambda"])
    plain = fisher_average(of("old"), of("new"), new_weight)
    weighted = fisher_average(
        of("old"), of("new"), new_weight, (of("fisher_old"), of("fisher_new"))
    )
    for kind, average in (("plain", plain), ("fisher", weighted)):
        for name, published in of(f"{run}/{kind}").items():
            not_defined = published.isnan()  # 0/0, in place of the plain average
            torch.testing.assert_close(average[name][not_defined], plain[name][not_defined])
            published[not_defined] = plain[name][not_defined]
            compare(f"average/{run}/{kind}/{name}", average[name])
    assert len(compare.compared) == len(of(f"{run}/plain")) + len(of(f"{run}/fisher")) > 3
    assert torch.equal(weighted["new"], of("new")["new"])
