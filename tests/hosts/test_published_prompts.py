"""Numbers that the published L2P, DualPrompt and CODA-Prompt computed, by our whole strategies.

HOSTS_REFERENCE_DIR names a folder with another set of them in ``prompts/``.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from conftest import Images
from timm.models.vision_transformer import VisionTransformer

from mist_avalanche.models.prompts import components
from mist_avalanche.strategies import L2P, CODAPrompt, DualPrompt
from mist_avalanche.strategies.coda_prompt import coda_cosine

ROOT = os.environ.get("HOSTS_REFERENCE_DIR") or Path(__file__).parent / "golden"
DIRECTORY = Path(ROOT) / "prompts"
SETTINGS = json.loads((DIRECTORY / "golden.json").read_text())["settings"]
DTYPES = {"f32": torch.float32, "f64": torch.float64}
TOLERANCE = {"f32": 1e-4, "f64": 1e-10}
MINIMUM = {"f64": 60, "f32": 40}  # arrays that a variant compares at least


def arrays(name):
    with np.load(DIRECTORY / f"{name}.npz") as read:
        return {key: torch.from_numpy(read[key]) for key in read.files}


COMMON = arrays("common")


def vit(dtype):
    s = SETTINGS["vit"]
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")
    model = VisionTransformer(**{n: s[n] for n in names}, num_classes=0)
    model.load_state_dict({k[4:]: v for k, v in COMMON.items() if k.startswith("vit/")})
    return model.to(dtype)


def pixels(images, dtype):
    return images.to(dtype) / 256


def experiences(dtype):
    """Three batches each, in order, and an image more of each class, which never trains."""
    per_task = SETTINGS["run"]["classes_per_task"]
    made = []
    for t, (x, y) in enumerate(zip(COMMON["train/images"], COMMON["train/labels"], strict=True)):
        x, y = x.flatten(0, 1), y.flatten()
        x = pixels(torch.cat([x, x[:1].expand(per_task, -1, -1, -1)]), dtype)
        y = torch.cat([y, torch.arange(t * per_task, (t + 1) * per_task)])
        made.append(as_classification_dataset(Images(x, y)))
    return benchmark_from_datasets(train=made).train_stream


def value_of(parameter, gradient):
    """A parameter, or its gradient, which is 0 where it is frozen."""
    if not gradient:
        return parameter
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class Recorder(SupervisedPlugin):
    """What happened in the steps, by the names that the files have."""

    def __init__(self, begin, parameters, record):
        super().__init__()
        self.begin, self.parameters, self.record = begin, parameters, record
        self.seen, self.hooked, self.norms = {}, {}, []
        self.task = -1

    def before_training_exp(self, strategy, **kwargs):
        self.task += 1
        self.step, self.norms = 0, []
        model, rows = strategy.model, SETTINGS["run"]["classes_per_task"] * self.task
        with torch.no_grad():
            for name in ("weight", "bias"):
                own = getattr(model.head.classifier, name)
                own[rows:] = COMMON[f"head/{name}"][rows : len(own)].to(own.dtype)
            self.begin(strategy, self.task)
        hooks = self.hooked
        model.head.register_forward_hook(
            lambda _m, inputs, out: hooks.update(features=inputs[0], logits=out)
        )
        vit = model.backbone
        vit.blocks[0].register_forward_pre_hook(lambda _m, i: hooks.update(tokens=i[0]))
        vit.norm.register_forward_hook(lambda _m, _i, out: hooks.update(tokens_out=out))
        for i, block in enumerate(vit.blocks):
            block.attn.register_forward_hook(
                lambda _m, _i, out, i=i: hooks.update({f"attention_out/block{i}": out})
            )

    def put(self, where, values):
        for name, value in values.items():
            if value is not None:
                self.seen[f"task{self.task}/{where}/{name}"] = value.detach().clone()

    def before_training_epoch(self, strategy, **kwargs):
        self.put("start", self.of(strategy))

    def of(self, strategy, gradient=False):
        head = strategy.model.head.classifier
        found = {**self.parameters(strategy.prompts, gradient)}
        for name in ("weight", "bias"):
            found[f"head/{name}"] = value_of(getattr(head, name), gradient)
        return found

    def after_backward(self, strategy, **kwargs):
        output = strategy.model.output
        where = f"step{self.step}"
        self.put(where, {**self.hooked, **self.record(strategy, output)})
        x = strategy.mb_x
        self.put(
            where,
            {
                "query": strategy.model.query(x),
                "loss": strategy.loss[0],
                "loss_ce": strategy.loss[0] - output.loss,
                "lr": torch.tensor(strategy.optimizer.param_groups[0]["lr"], dtype=torch.float64),
            },
        )
        if self.step == 0:
            self.put("step0/grad", self.of(strategy, gradient=True))
        grads = [p.grad for g in strategy.optimizer.param_groups for p in g["params"]]
        self.norms.append(torch.stack([g.norm() for g in grads if g is not None]).norm())

    def after_training_iteration(self, strategy, **kwargs):
        self.step += 1
        if self.step == SETTINGS["run"]["steps_per_task"]:
            strategy.stop_training()

    def after_training_exp(self, strategy, **kwargs):
        self.put("end", self.of(strategy))
        self.seen[f"task{self.task}/gradient_norms"] = torch.stack(self.norms)
        model = strategy.model.eval()
        images = COMMON["eval/images"]
        with torch.no_grad():
            logits = model(pixels(images, self.hooked["features"].dtype))
        self.put(
            "eval",
            {
                **self.hooked,
                **self.record(strategy, model.output),
                "logits": logits,
                "top5": logits.topk(5).indices,
            },
        )
        model.train()


def run(strategy, recorder, dtype):
    for experience in experiences(dtype):
        strategy.train(experience, shuffle=False, eval_streams=[])
    return recorder.seen


COMMON_ARGUMENTS = {
    "train_mb_size": SETTINGS["run"]["batch"],
    "train_epochs": 1,
    "evaluator": EvaluationPlugin(loggers=[]),
}


def compare(published, seen, prefix, precision, skip=()):
    """Every array of a variant; where classes or experts have no room yet, those that have."""
    compared = 0
    for name, wanted in published.items():
        if not name.startswith(prefix) or name[len(prefix) :] in skip:
            continue
        name = name[len(prefix) :]
        got = seen[name]
        last = name.split("/")[-1]
        if last in ("ids", "top5"):
            if last == "ids":
                got, wanted = got.sort(dim=1).values, wanted.sort(dim=1).values
            assert torch.equal(got, wanted), name
        else:
            if "head/" in name and len(got) < len(wanted):
                new = wanted[len(got) :]
                assert "grad" not in name or not new.any()
                wanted = wanted[: len(got)]
            if last in ("logits", "similarity"):
                n = min(got.shape[1], wanted.shape[1])
                got, wanted = got[:, :n], wanted[:, :n]
            assert got.shape == wanted.shape, name
            torch.testing.assert_close(
                got.to(torch.float64),
                wanted.to(torch.float64),
                rtol=0,
                atol=TOLERANCE[precision],
                msg=lambda m, name=name: f"{name}: {m}",
            )
        compared += 1
    return compared


# ---- L2P --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant", ["f64/instance", "f32/instance", "f64/batchwise", "f64/clipped"]
)
def test_l2p(variant):
    published, s = arrays("l2p"), SETTINGS["l2p"]
    precision, kind = variant.split("/")
    dtype = DTYPES[precision]

    def begin(strategy, task):
        if task == 0:
            name = "init/prompts_f64" if precision == "f64" else "init/prompts"
            strategy.prompts.prompts.copy_(published[name])
            strategy.prompts.keys.copy_(published["init/keys"])

    def parameters(prompts, gradient):
        of = {"prompts": prompts.prompts, "keys": prompts.keys}
        return {k: value_of(p, gradient) for k, p in of.items()}

    def record(strategy, output):
        return {
            "similarity": output.similarity,
            "ids": output.ids,
            "reduce_sim": -output.loss / s["pull"],
        }

    recorder = Recorder(begin, parameters, record)
    strategy = L2P(
        model=vit(dtype),
        size=s["size"],
        length=s["length"],
        top_k=s["top_k"],
        key_loss_weight=s["pull"],
        lr=s["lr"],
        clip_grad_norm=1.0 if kind == "clipped" else None,
        batchwise=kind == "batchwise",
        plugins=[recorder],
        **COMMON_ARGUMENTS,
    )
    seen = run(strategy, recorder, dtype)
    voted = kind == "batchwise"  # evaluation never votes
    skip = {n for n in seen if "/eval/" in n} if voted else ()
    n = compare(published, seen, f"{variant}/", precision, skip)
    assert n > (8 if kind == "clipped" else MINIMUM[precision])


# ---- DualPrompt -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["f64/instance", "f32/instance", "f64/clipped"])
def test_dualprompt(variant):
    published, s = arrays("dualprompt"), SETTINGS["dualprompt"]
    precision, kind = variant.split("/")
    dtype = DTYPES[precision]

    def begin(strategy, task):
        own = strategy.prompts
        own.keys[task].copy_(published["init/keys"][task])
        if task == 0:
            own.general.copy_(published["init/g_prompts"].flatten(-2))
            own.experts[0].copy_(published["init/e_prompts"][:, :, 0].flatten(-2))

    def parameters(prompts, gradient):
        return {
            "g_prompts": value_of(prompts.general, gradient),
            "e_prompts": torch.stack([value_of(p, gradient) for p in prompts.experts], dim=2),
            "keys": torch.stack([value_of(p, gradient) for p in prompts.keys]),
        }

    def record(strategy, output):
        prefixes = torch.stack([torch.stack(output.prefixes[b], dim=1) for b in s["e_layers"]])
        return {
            "similarity": output.similarity,
            "ids": output.ids,
            "reduce_sim": -output.loss / s["pull"],
            "e_prefix": prefixes,
        }

    recorder = Recorder(begin, parameters, record)
    strategy = DualPrompt(
        model=vit(dtype),
        general_length=s["g_length"],
        expert_length=s["e_length"],
        general_blocks=s["g_layers"],
        expert_blocks=s["e_layers"],
        key_loss_weight=s["pull"],
        lr=s["lr"],
        clip_grad_norm=1.0 if kind == "clipped" else None,
        plugins=[recorder],
        **COMMON_ARGUMENTS,
    )
    seen = run(strategy, recorder, dtype)
    wanted = {}
    for name, value in published.items():  # of a pool of all experts, those that there are
        if not name.startswith(f"{variant}/"):
            continue
        name = name[len(variant) + 1 :]
        task, last = int(name[4]), name.split("/")[-1]
        if last in ("e_prompts", "g_prompts", "e_prefix"):
            value = value.flatten(-2)
        if last == "e_prompts":
            value = value[:, :, : task + 1]
        if last == "keys":
            value = value[: task + 1]
        wanted[name] = value
    # With one expert there is nothing to choose; the published pool lets an untrained key compete.
    skip = {n for n in wanted if n.startswith("task0/eval/")}
    seen |= {n.replace("eval/", "eval_seen/"): v for n, v in seen.items() if "/eval/" in n}
    n = compare(wanted, seen, "", precision, skip)
    assert n > (8 if kind == "clipped" else MINIMUM[precision])


# ---- CODA-Prompt ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["f64/mu0", "f64/mu0.1", "f32/mu0"])
def test_coda_prompt(variant, monkeypatch):
    published, s = arrays("coda"), SETTINGS["coda"]
    precision, kind = variant.split("/")
    dtype = DTYPES[precision]
    kinds = ("prompts", "keys", "attention")

    def drawing(self, experience, kind, block, width):
        layer = s["layers"][block]
        rows = iter(published[f"draws/task{experience}/layer{layer}/{kinds[kind]}"].flatten(1))
        return lambda: next(rows)

    monkeypatch.setattr(components.ComponentPrompts, "drawing", drawing)

    def begin(strategy, task):
        own = strategy.prompts
        if kind == "mu0.1" and task == 0:
            for name, part in zip(kinds, (own.components, own.keys, own.attention), strict=True):
                for b, layer in enumerate(s["layers"]):
                    part[0][b] += 0.1 * published[f"draws/task0/layer{layer}/{name}"].to(dtype)

    def parameters(prompts, gradient):
        found = {}
        parts = (prompts.components, prompts.keys, prompts.attention)
        for name, part in zip(kinds, parts, strict=True):
            for b, layer in enumerate(s["layers"]):
                rows = torch.cat([value_of(p, gradient)[b] for p in part])
                later = rows.new_zeros(s["components"] - len(rows), *rows.shape[1:])
                found[f"layer{layer}/{name}"] = torch.cat([rows, later])
        return found

    def record(strategy, output):
        found = {"loss_ortho": output.loss}
        for block, (keys, values) in output.prefixes.items():
            found |= {f"prefix_key/block{block}": keys, f"prefix_value/block{block}": values}
        return found

    recorder = Recorder(begin, parameters, record)
    strategy = CODAPrompt(
        model=vit(dtype),
        per_experience=s["per_task"],
        length=s["length"],
        blocks=s["layers"],
        orthogonality=float(kind[2:]),
        lr=s["lr"],
        plugins=[recorder],
        **COMMON_ARGUMENTS,
    )
    seen = run(strategy, recorder, dtype)
    n = compare(published, seen, f"{variant}/", precision)
    assert n > MINIMUM[precision]


def test_coda_prompt_learning_rates():
    published = {k: v for k, v in arrays("coda").items() if k.startswith("schedule/")}
    assert len(published) >= 3
    for wanted in published.values():
        rates = [1e-3 * coda_cosine(e, len(wanted)) for e in range(len(wanted))]
        torch.testing.assert_close(
            torch.tensor(rates, dtype=torch.float64), wanted, rtol=0, atol=1e-15
        )
    assert coda_cosine(0, 1) == 1.0
