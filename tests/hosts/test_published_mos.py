"""Numbers that the published MOS computed, by our whole strategy and its parts.

HOSTS_REFERENCE_DIR names a folder with another set of them in ``merged/``. Its ``published/``
arrays merge in every forward pass, and are reproduced as far as there is nothing to merge with.
"""

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from merged_reference import COMMON, arrays, experiences, seen_test_images, settings_of, vit
from tuned_reference import Comparison, named

from mist_avalanche.models import alignment
from mist_avalanche.models.adapters import Adapter
from mist_avalanche.models.linear_head import GrowingLinear
from mist_avalanche.models.subspaces import RetrievalHead
from mist_avalanche.strategies import MOS, gaussian_based, mos
from mist_avalanche.strategies.mos import merge

S = settings_of("mos")
PUBLISHED = arrays("mos")
LAST = len(S["task_sizes"]) - 1


class Recorder(SupervisedPlugin):
    """Starts and draws as published, and compares what happens."""

    def __init__(self, compare, monkeypatch):
        super().__init__()
        self.found, self.t = compare, -1
        self.align, self.separation = gaussian_based.align, mos.separation_loss
        monkeypatch.setattr(gaussian_based, "align", self.observed)
        monkeypatch.setattr(mos, "separation_loss", self.separated)
        monkeypatch.setattr(alignment.torch, "randn", lambda *_, **__: next(self.noise))
        monkeypatch.setattr(alignment.torch, "randperm", lambda *_, **__: next(self.order))

    def compare(self, name, got):
        self.found(f"t{self.t}/{name}", got)

    def compare_rows(self, name, got):
        """Rows that are there yet; published are those of all classes."""
        name = f"t{self.t}/{name}"
        rest = self.found.published[name][len(got) :]
        self.found(name, torch.cat([got.detach(), rest]))

    def before_training_epoch(self, strategy, **kwargs):
        if strategy.clock.train_exp_epochs:
            self.rates.append([group["lr"] for group in strategy.optimizer.param_groups])
            return
        self.t += 1
        self.losses, self.separations = [], []
        self.rates = [[group["lr"] for group in strategy.optimizer.param_groups]]
        self.rows = dict(strategy.head.linear.classifier.named_parameters())
        with torch.no_grad():
            for name, p in named(strategy.adapter):
                if self.t == 0:
                    p.copy_(PUBLISHED[f"t0/adapter_init/{name}"])
                    self.compare(f"adapter_init/{name}", p)
                else:
                    self.found(f"t{self.t - 1}/adapter/{name}", p)
            for name, p in self.rows.items():
                new = slice(len(p) - S["task_sizes"][self.t], len(p))
                p[new] = PUBLISHED[f"t{self.t}/head_init.{name}"][new]
                self.compare_rows(f"head_init.{name}", p)

    def separated(self, rows):
        loss = self.separation(rows)
        self.separations.append(loss.detach())
        if self.t == 1 and len(self.separations) == 1:
            n = len(PUBLISHED["orth/means"])
            self.found("orth/means", rows[:n])
            self.found("orth/features", rows[n:])
            self.found("orth/value", loss)
            (gradient,) = torch.autograd.grad(loss, rows, retain_graph=True)
            self.found("orth/grad", gradient[n:])
        return loss

    def after_backward(self, strategy, **kwargs):
        if not self.losses:
            for name, p in named(strategy.adapter):
                if self.t or ".up." in name:
                    self.compare(f"grad0/{name}", p.grad)
                else:
                    assert not p.grad.any()
            self.compare_rows("grad0/head.weight", self.rows["weight"].grad)
        loss = strategy.loss.detach().squeeze()
        self.losses.append(loss - S["separation_weight"] * self.separations[-1])

    def after_training_epoch(self, strategy, **kwargs):
        if len(self.rates) == S["epochs"]:  # the last one; the alignment comes next
            for name, p in self.rows.items():
                self.compare_rows(f"head.{name}", p.clone())

    def observed(self, weight, bias, gaussians, **how):
        self.noise = iter(PUBLISHED[f"t{self.t}/align/noise"].flatten(0, 1))
        self.order = iter(PUBLISHED[f"t{self.t}/align/order"])
        losses = []
        for each in self.align(weight, bias, gaussians, **how):
            losses.append(each)
            yield each
        self.compare("align/losses", torch.stack(losses))
        for name, p in self.rows.items():
            self.compare_rows(f"align/head.{name}", p)

    def after_training_exp(self, strategy, **kwargs):
        self.compare("losses", torch.stack(self.losses))
        self.compare("orth_losses", torch.stack(self.separations))
        self.compare("lr", torch.tensor(self.rates, dtype=torch.float64))
        for name, p in named(strategy.adapter):
            self.compare(f"adapter/{name}", p)
            if self.t == 0:
                self.found(f"published/t0/adapter/{name}", p)
        gaussians = strategy.gaussians
        new = gaussians.classes[-S["task_sizes"][self.t] :]
        factors = torch.stack([gaussians.factors[y] for y in new])
        self.compare("means", torch.stack([gaussians.means[y] for y in new]))
        self.compare("covariances", factors @ factors.mT)
        self.compare("prototypes", strategy.head.first.prototypes)
        x = seen_test_images(len(gaussians.classes))
        with torch.no_grad():
            features = strategy.model.eval().features(x)
            self.compare("features_test", features)
            first, refined = strategy.head.retrieve(features)
            self.compare("first_logits", first)
            self.compare("refined_logits", refined)
            self.compare("scores", strategy.model(x).exp())
            if self.t == 0:
                self.found("published/t0/scores", strategy.model(x).exp())


def test_mos(monkeypatch):
    compare, align = Comparison(PUBLISHED), S["align"]
    strategy = MOS(
        model=vit(),
        bottleneck=S["bottleneck"],
        dropout=0.0,
        merge=S["merge"],
        separation=S["separation_weight"],
        rounds=S["retrieval_rounds"],
        lr=S["lr"],
        weight_decay=S["weight_decay"],
        align_lr=align["lr"],
        align_epochs=align["epochs"],
        samples_per_class=align["samples_per_class"],
        train_mb_size=S["batch_size"],
        train_epochs=S["epochs"],
        plugins=[Recorder(compare, monkeypatch)],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for experience in experiences(S["task_sizes"]):
        strategy.train(experience, shuffle=False, eval_streams=[])
    wanted = {n for n in PUBLISHED if n.startswith(("t", "orth/", "published/t0/"))}
    assert compare.compared == {n for n in wanted if not n.endswith(("/noise", "/order"))}


def adapter_of(prefix):
    adapter = Adapter(vit(), bottleneck=S["bottleneck"])
    with torch.no_grad():
        for name, p in named(adapter):
            p.copy_(PUBLISHED[f"{prefix}/{name}"])
    return adapter


def test_merging():
    earlier, compare = [adapter_of(f"t{t}/adapter") for t in range(LAST + 1)], Comparison(PUBLISHED)
    for n in range(1, LAST + 2):
        adapter = adapter_of("merge/before")
        merge(adapter, torch.nn.ModuleList(earlier[:n]), S["merge"])
        for name, p in named(adapter):
            if (key := f"merge/after_{n}/{name}") in PUBLISHED:
                compare(key, p)
    assert compare.compared == {n for n in PUBLISHED if n.startswith("merge/after")}


def test_retrieval():
    features, prototypes = PUBLISHED["retrieval/features"], PUBLISHED["retrieval/prototypes"]
    head = RetrievalHead(GrowingLinear(features.shape[2]), S["retrieval_rounds"]).double()
    head.own = torch.arange(LAST + 1).repeat_interleave(torch.tensor(S["task_sizes"]))
    head.first.sums, head.first.counts = prototypes, torch.ones_like(head.own)
    head.linear.classifier = torch.nn.Linear(*prototypes.shape[::-1]).double()
    head.linear.active_units = torch.ones_like(head.own)
    compare = Comparison(PUBLISHED)
    with torch.no_grad():
        for name, p in head.linear.classifier.named_parameters():
            p.copy_(PUBLISHED[f"retrieval/head.{name}"])
        compare("retrieval/refined_logits", head.retrieve(features)[1])
        compare("retrieval/scores", head(features).exp())


def test_features_of_the_vit():
    with torch.no_grad():
        Comparison(COMMON)("features_test", vit()(seen_test_images(sum(S["task_sizes"]))))
