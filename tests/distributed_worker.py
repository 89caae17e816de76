"""What test_distributed.py runs in one process and, started by torchrun, in several."""

import sys
import warnings
from pathlib import Path

import torch
from avalanche.benchmarks.scenarios.deprecated.generators import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from conftest import Images, make_benchmark

from mist_avalanche import MISTPlugin
from mist_avalanche._support.distributed import processes, rank
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.strategies import RanPAC, SimpleCIL


def few():
    """9 images an experience: batches of 7 and of 2, of which some processes have none."""
    return make_benchmark(n_classes=6, n_experiences=2, per_class=3)


def uneven():
    """199 images, of which the last two, of a class of their own, come to the last process."""
    x, y = few().train_stream[0].dataset.eval()[0][0], torch.tensor([0] * 197 + [1] * 2)
    generator = torch.Generator().manual_seed(0)
    images = Images(x * torch.rand(199, *x.shape, generator=generator), y)
    return nc_benchmark(images, images, 1, task_labels=False, shuffle=False)


CASES = {
    "sparse": (few, SimpleCIL, {"score_on": "every", "chunk_size": 5}),
    "reference": (few, RanPAC, {"dynamics": "reference", "objective": "cross_entropy"}),
    "uneven": (uneven, SimpleCIL, {"tune_epochs": 1, "batch_size": 40}),
}


def outcome(case, spoil=None):
    """Weights, masks, metrics and what this process has passed through its backbone."""
    stream, strategy, mist_arguments = CASES[case]
    benchmark, backbone, seen = stream(), create_backbone(), []
    settings = {"tune_epochs": 2, "batch_size": 7, "lr": 0.01, "seed": 0}
    if mist_arguments.get("score_on") == "every":
        settings["overlap_decay"] = 0.5
    mist = MISTPlugin(**{**settings, **mist_arguments}, verbose=False)
    changes = {"n_random_features": 60} if strategy is RanPAC else {}
    host = strategy(
        model=backbone,
        train_mb_size=4,
        eval_mb_size=4,
        plugins=[mist],
        drift_compensation=True,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[]),
        **changes,
    )
    backbone.register_forward_pre_hook(
        lambda module, inputs: None if module.training else seen.extend(inputs[0][:, 0, 0, 0])
    )
    metrics = []
    for t, experience in enumerate(benchmark.train_stream):
        if spoil is not None and t:
            spoil()
        host.train(experience)
        del seen[:]
        found = host.eval(benchmark.test_stream[: t + 1])
        metrics.append({k: v for k, v in found.items() if "eval_phase" in k})
    return {
        "weights": dict(host.model.state_dict()),
        "masks": mist.selection.masks,
        "losses": torch.tensor(mist.tuning_losses),
        "metrics": metrics,
        "evaluated": torch.stack(seen),
    }


def fail():
    """An error in one process only."""
    if rank() == 1:
        raise RuntimeError("this process has had an accident")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cases, output = sys.argv[1:]
    with processes("cpu"):
        if cases == "fail":
            outcome("sparse", fail)
        results = {case: outcome(case) for case in cases.split(",")}
        torch.save(results, Path(output) / f"{rank()}.pt")
