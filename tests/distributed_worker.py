"""What test_distributed.py runs in one process and, started by torchrun, in several."""

import sys
import warnings
from pathlib import Path

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from conftest import make_benchmark

from mist_avalanche import MISTPlugin
from mist_avalanche.backbones import create_backbone
from mist_avalanche.distributed import processes, rank
from mist_avalanche.strategies import RanPAC, SimpleCIL

CASES = {
    "sparse": (SimpleCIL, {"score_on": "every", "chunk_size": 5}),
    "reference": (RanPAC, {"dynamics": "reference", "objective": "cross_entropy"}),
}


def outcome(case, spoil=None):
    """Weights, masks, metrics and what this process has passed through its backbone."""
    strategy, mist_arguments = CASES[case]
    backbone, seen = create_backbone(), []
    # 9 images an experience: batches of 7 and of 2, of which some processes have none
    benchmark = make_benchmark(n_classes=6, n_experiences=2, per_class=3)
    mist = MISTPlugin(
        tune_epochs=2,
        batch_size=7,
        lr=0.01,
        overlap_decay=0.5,
        verbose=False,
        seed=0,
        **mist_arguments,
    )
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
    case, output = sys.argv[1:]
    with processes("cpu"):
        if case == "fail":
            outcome("sparse", fail)
        results = {name: outcome(name) for name in CASES}
        torch.save(results, Path(output) / f"{rank()}.pt")
