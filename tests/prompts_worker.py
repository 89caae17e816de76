"""What tests/strategies/test_prompting_processes.py runs in one process and in several."""

import sys
import warnings
from pathlib import Path

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from conftest import make_benchmark
from timm.models.vision_transformer import VisionTransformer

from mist_avalanche import MISTPlugin
from mist_avalanche._support.distributed import processes, rank
from mist_avalanche.strategies import L2P, CODAPrompt, DualPrompt

CASES = {
    "l2p": lambda **common: L2P(size=4, length=2, top_k=2, **common),
    "dualprompt": lambda **common: DualPrompt(**common),
    "codaprompt": lambda **common: CODAPrompt(
        per_experience=2, length=4, orthogonality=0.1, **common
    ),
}


def outcome(case):
    """Weights, losses and metrics of two experiences, in batches of 5 and a last one of 1."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}
    strategy = CASES[case](
        model=VisionTransformer(**sizes, num_classes=0),
        lr=0.01,
        train_mb_size=5,
        train_epochs=2,
        eval_mb_size=4,
        plugins=[MISTPlugin(tune_epochs=1, batch_size=6, seed=0, verbose=False)],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )
    benchmark = make_benchmark(4, 2, per_class=3)
    seen, metrics = [], []
    strategy.model.backbone.register_forward_pre_hook(lambda _m, i: seen.append(len(i[0])))
    for t, experience in enumerate(benchmark.train_stream):
        torch.manual_seed(t)
        strategy.train(experience, eval_streams=[])
        found = strategy.eval(benchmark.test_stream[: t + 1])
        metrics.append([v for k, v in sorted(found.items()) if isinstance(v, float)])
    return {
        "weights": {k: v.clone() for k, v in strategy.model.state_dict().items()},
        "metrics": metrics,
        "images": sum(seen),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with processes("cpu"):
        found = {case: outcome(case) for case in CASES}
        torch.save(found, Path(sys.argv[1]) / f"{rank()}.pt")
