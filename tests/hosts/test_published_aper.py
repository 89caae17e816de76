"""Numbers that the published APER computed, by our whole strategy.

HOSTS_REFERENCE_DIR names a folder with another set of them in ``tuned/``.
"""

import json
import os
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from avalanche.training.plugins import EvaluationPlugin
from conftest import Images
from timm.models.vision_transformer import VisionTransformer

from mist_avalanche.strategies import APER, RanPAC, first_session

ROOT = os.environ.get("HOSTS_REFERENCE_DIR") or Path(__file__).parent / "golden"
DIRECTORY = Path(ROOT) / "tuned"
SETTINGS = json.loads((DIRECTORY / "golden.json").read_text())["aper.npz"]["settings"]
ADAPTERS = pytest.mark.parametrize(
    "adapter", ["adapter", "ssf", "vpt_shallow", "vpt_deep", "finetune"]
)


def arrays(name):
    with np.load(DIRECTORY / f"{name}.npz") as read:
        return {key: torch.from_numpy(read[key]) for key in read.files}


COMMON = arrays("common")
GOLDEN = arrays("aper")


def vit():
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
    model = VisionTransformer(**size, num_classes=0).double()
    model.load_state_dict({k[4:]: v for k, v in COMMON.items() if k.startswith("vit/")})
    return model


def pixels(images):
    return (images.double() / 255 - 0.5) / 0.5


def stream():
    """Experiences in the stored order; their training view is mirrored."""
    groups = TransformGroups({"train": (lambda x: x.flip(-1), None), "eval": (None, None)})
    labels, order = COMMON["train_labels"], COMMON["order"]
    ends = np.cumsum([0, *SETTINGS["task_sizes"]])
    made = []
    for first, last in pairwise(ends):
        rows = order[(labels[order] >= first) & (labels[order] < last)]
        images = Images(pixels(COMMON["train_images"][rows]), labels[rows])
        made.append(as_classification_dataset(images, transform_groups=groups))
    return benchmark_from_datasets(train=made).train_stream


def names(adapter, module):
    """The published name of each of the module's parameters, and the parameter."""
    found = {}
    for name, parameter in module.named_parameters():
        first, *rest = name.split(".")
        if adapter == "adapter":
            found[f"blocks.{rest[0]}.{first}.{rest[1]}"] = parameter
        elif adapter == "ssf":
            found[f"{rest[0].replace('/', '.')}.{first}"] = parameter
        else:
            found[name.removeprefix("backbone.")] = parameter
    return found


class Recorder:
    """Trains from the stored values, and keeps what came of them by the names of the file."""

    def __init__(self, adapter):
        self.adapter, self.train, self.seen = adapter, first_session.train, {}

    def __call__(self, backbone, module, head, batches, **settings):
        own, start = names(self.adapter, module), dict(backbone.named_parameters())
        with torch.no_grad():
            head.weight.copy_(GOLDEN[f"{self.adapter}/head_init.weight"])
            if self.adapter != "finetune":
                for name, p in own.items():
                    if (init := f"{self.adapter}/init/{name}") in GOLDEN:
                        p.copy_(GOLDEN[init])
                    else:
                        assert not p.any()  # VPT starts from zero
            features = module.eval()(backbone.eval(), pixels(COMMON["test_images"]))
            module.train(), backbone.train()
        gradients = {}

        def note(p, gradient):
            gradients.setdefault(p, gradient.clone())

        for p in (*own.values(), *head.parameters()):
            p.register_hook(partial(note, p))
        losses = self.train(backbone, module, head, batches, **settings)
        self.seen |= {"features_before": features, "losses": losses}
        self.parameters("grad0", own, "grad0/head", head, gradients.__getitem__)
        self.parameters("final", own, "head_final", head, torch.Tensor.detach)
        if self.adapter == "finetune":
            change = {name: (p - start[name]).norm().detach() for name, p in own.items()}
            in_order = [change[n] for n in SETTINGS["parameter_names"]]
            self.seen["change_norms"] = torch.stack(in_order)
        return losses

    def parameters(self, where, own, where_head, head, of):
        for name, p in own.items():
            self.seen[f"{where}/{name}"] = of(p)
        norms = [of(own[n]).norm() for n in SETTINGS["parameter_names"] if n in own]
        if norms:
            self.seen[f"{where}/norms"] = torch.stack(norms)
        for name, p in head.named_parameters():
            self.seen[f"{where_head}.{name}"] = of(p)


def on_test_images(model, features):
    model.eval()
    with torch.no_grad():
        return features(pixels(COMMON["test_images"]))


def computed(adapter, monkeypatch):
    own = {"adapter": {"dropout": 0.0, "bottleneck": SETTINGS["adapter"]["bottleneck"]}}
    prompts = {"n_prompts": SETTINGS["prompts"]}
    own |= {"vpt_deep": prompts, "vpt_shallow": prompts}
    recorder = Recorder(adapter)
    monkeypatch.setattr(first_session, "train", recorder)
    strategy = APER(
        model=vit(),
        adapter=adapter,
        lr=SETTINGS["lr"],
        train_epochs=SETTINGS["epochs"],
        train_mb_size=SETTINGS["batch_size"],
        weight_decay=SETTINGS["weight_decay"],
        min_lr=float(SETTINGS["scheduler"].rsplit("eta_min=", 1)[1]),
        evaluator=EvaluationPlugin(loggers=[]),
        **own.get(adapter, {}),
    )
    seen, test = recorder.seen, COMMON["test_labels"]
    for t, experience in enumerate(stream()):
        strategy.train(experience, eval_streams=[], shuffle=False)
        seen[f"prototypes_{t}"] = strategy.head.prototypes
        rows = test < len(strategy.head.counts)
        seen[f"logits_{t}"] = on_test_images(strategy.model, strategy.model)[rows]
    seen["features_test"] = on_test_images(strategy.model, strategy.model.features)
    return strategy, seen


def difference(one, other):
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-300))


@ADAPTERS
def test_aper_is_as_published(adapter, monkeypatch):
    strategy, seen = computed(adapter, monkeypatch)
    stored = {k.split("/", 1)[1]: v for k, v in GOLDEN.items() if k.startswith(f"{adapter}/")}
    given = {k for k in stored if k.startswith(("init/", "head_init"))}
    assert stored.keys() - given <= seen.keys()
    off = {k: difference(seen[k], stored[k]) for k in stored.keys() - given}
    assert {k: d for k, d in off.items() if d > 1e-9} == {}
    assert len(off) >= 15
    plain = COMMON["features_test"]
    assert difference(seen["features_test"][:, : plain.shape[1]], plain) < 1e-9
    pretrained = {k: v for k, v in COMMON.items() if k.startswith("vit/")}
    for name, value in strategy.model.backbone.state_dict().items():
        assert torch.equal(value, pretrained[f"vit/{name}"].double())


@ADAPTERS
def test_ranpac_s_first_session_is_aper_s(adapter):
    own = {"dropout": 0.0, "bottleneck": 8} if adapter == "adapter" else {}
    rates = {"lr": 0.05, "train_epochs": 2, "train_mb_size": 8, **own}
    quiet = {"evaluator": EvaluationPlugin(loggers=[])}
    ranpac = RanPAC(
        model=vit(),
        n_random_features=20,
        first_session=adapter,
        first_session_args=rates,
        **quiet,
    )
    aper = APER(model=vit(), adapter=adapter, **rates, **quiet)
    for strategy in (ranpac, aper):
        strategy.train(next(iter(stream())), eval_streams=[])
        strategy.model.eval()
    x = pixels(COMMON["test_images"])
    with torch.no_grad():
        features = ranpac.model.features(x)
        assert torch.equal(features, aper.model.features(x)[:, 32:])
        assert difference(features, aper.model.features(x)[:, :32]) > 1e-5
