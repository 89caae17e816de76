"""Numbers that the published EASE computed, by our whole strategy.

HOSTS_REFERENCE_DIR names a folder with another set of them in ``tuned/``.
"""

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from tuned_reference import (
    COMMON,
    Comparison,
    arrays,
    experiences,
    named,
    pixels,
    seen_test_images,
    settings_of,
    vit,
)

from mist_avalanche.strategies import EASE

S = settings_of("ease")
PUBLISHED = arrays("ease")
LAST = len(S["task_sizes"]) - 1


class Recorder(SupervisedPlugin):
    """Starts adapters and heads as published, and compares what happens."""

    def __init__(self, compare):
        super().__init__()
        self.compare, self.t = compare, -1

    def before_training_epoch(self, strategy, **kwargs):
        if strategy.clock.train_exp_epochs:
            return
        self.t += 1
        self.losses = []
        self.adapter, self.head = strategy.adapter, strategy.classifier
        self.rows = slice(-S["task_sizes"][self.t], None)
        with torch.no_grad():
            for name, parameter in named(self.adapter):
                parameter.copy_(PUBLISHED[f"adapter_{self.t}/init/{name}"])
            self.head.weight[self.rows] = PUBLISHED[f"head_{self.t}/init.weight"]

    def after_backward(self, strategy, **kwargs):
        if not self.losses:
            for name, parameter in named(self.adapter):
                if ".up." in name:
                    self.compare(f"adapter_{self.t}/grad0/{name}", parameter.grad)
                else:
                    assert not parameter.grad.any()
            self.compare(f"head_{self.t}/grad0.weight", self.head.weight.grad[self.rows])
            self.compare(f"head_{self.t}/grad0.sigma", self.head.sigma.grad)
        self.losses.append(strategy.loss.detach().squeeze())

    def after_training_exp(self, strategy, **kwargs):
        self.compare(f"losses_{self.t}", torch.stack(self.losses))
        for name, parameter in named(self.adapter):
            self.compare(f"adapter_{self.t}/final/{name}", parameter)
        self.compare(f"head_{self.t}/final.weight", self.head.weight[self.rows])
        self.compare(f"head_{self.t}/final.sigma", self.head.sigma)


def evaluated(strategy, compare, prefix, t):
    """Prototypes and logits after an experience."""
    prototypes = strategy.head.prototypes.transpose(0, 1).flatten(1)
    compare(f"{prefix}prototypes_{t}", prototypes)
    with torch.no_grad():
        logits = strategy.model.eval()(seen_test_images(len(prototypes)))
    compare(f"{prefix}logits_{t}", logits)


VARIANTS = {
    "": {},
    "newest_only/": {"complement": "newest"},
    "with_pretrained/": {"alpha": 0.05, "beta": 1.0},
}


@pytest.mark.parametrize("prefix", VARIANTS)
def test_ease(prefix):
    compare = Comparison(PUBLISHED)
    strategy = EASE(
        model=vit(),
        bottleneck=S["bottleneck"],
        dropout=0.0,
        lr=S["lr"],
        weight_decay=S["weight_decay"],
        train_epochs=S["epochs"],
        train_mb_size=S["batch_size"],
        plugins=[Recorder(compare)],
        evaluator=EvaluationPlugin(loggers=[]),
        **{"alpha": S["alpha"], **VARIANTS[prefix]},
    )
    for t, experience in enumerate(experiences(S["task_sizes"])):
        strategy.train(experience, shuffle=False, eval_streams=[])
        evaluated(strategy, compare, prefix, t)
    if not prefix:
        x = pixels(COMMON["test_images"])
        with torch.no_grad():
            compare("features_test", strategy.model.features(x).flatten(1))
            strategy.head.alpha = None
            compare(f"logits_plain_{LAST}", strategy.model(x))
    others = [p for p in VARIANTS if p != prefix]
    own = {f"{prefix}{kind}_{t}" for kind in ("prototypes", "logits") for t in range(LAST + 1)}
    given = {name for name in PUBLISHED if "/init" in name}
    of_others = {n for n in PUBLISHED if any(p and n.startswith(p) for p in others)}
    if prefix:
        of_others |= {n for n in PUBLISHED if n.startswith(("prototypes", "logits", "features"))}
    assert compare.compared == {*PUBLISHED} - given - of_others
    assert own <= compare.compared
