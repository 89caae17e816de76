"""The paper's setting: a ViT-B/16 tuned by MIST, then RanPAC or SimpleCIL, on split ImageNet-R."""

import argparse
import json
import sys
from pathlib import Path

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TensorboardLogger
from avalanche.training.plugins import EvaluationPlugin

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitImageNetR
from mist_avalanche.models import backbone_defaults, create_backbone
from mist_avalanche.runs import summarize
from mist_avalanche.strategies import RanPAC, SimpleCIL

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset-root", help="has imagenet-r as a folder, .tar or .zip")
parser.add_argument("--strategy", choices=["ranpac", "simplecil"], default="ranpac")
parser.add_argument("--backbone", default="vit_base_patch16_224", help="of timm, or 'embedded'")
parser.add_argument("--weights", help="a .npz, .pth or .safetensors file, without timm's hub")
parser.add_argument("--experiences", type=int, default=10, help="of 200 classes")
parser.add_argument("--num-workers", type=int, default=8, help="of the data loaders")
parser.add_argument("--output", type=Path, default=Path("results/imagenet-r"))
args = parser.parse_args()

defaults = backbone_defaults(args.backbone)
inputs = {"image_size": defaults.image_size, "normalize": defaults.normalize}
if defaults.normalize == "pretrained":
    inputs["backbone"] = args.backbone
try:
    benchmark = SplitImageNetR(args.experiences, dataset_root=args.dataset_root, **inputs)
    backbone = create_backbone(args.backbone, weights=args.weights)
except (OSError, ValueError) as error:
    sys.exit(f"{error}\nWithout data, this runs: mist-avalanche run --benchmark glyphs --mist")

torch.manual_seed(0)
board = TensorboardLogger(args.output / "tensorboard")
strategy = {"ranpac": RanPAC, "simplecil": SimpleCIL}[args.strategy](
    model=backbone,
    plugins=[MISTPlugin.for_backbone(args.backbone, seed=0)],
    evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[board]),
    device="cuda" if torch.cuda.is_available() else "cpu",
    **defaults.strategy_for(args.strategy),
)
counts = [len(experience.dataset) for experience in benchmark.test_stream]
correct = []
for t, experience in enumerate(benchmark.train_stream):
    strategy.train(experience, num_workers=args.num_workers)
    metrics = strategy.eval(benchmark.test_stream[: t + 1], num_workers=args.num_workers)
    name = "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp"
    correct.append([round(metrics[f"{name}{i:03}"] * counts[i]) for i in range(t + 1)])
    print(f"experience {t + 1}: {summarize(correct, counts)['A_T']:.2f} % of all classes seen")

found = {**summarize(correct, counts), "split": benchmark.split_name}
(args.output / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
print(f"A_T {found['A_T']:.2f} %, A_bar {found['A_bar']:.2f} %")
