"""RanPAC with MIST on your own images: one folder per class."""

import argparse
import sys

from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitFolder
from mist_avalanche.models import backbone_defaults, create_backbone
from mist_avalanche.strategies import RanPAC

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("root", help="folder of class folders, or of train and test folders of them")
parser.add_argument("--experiences", type=int, default=5)
parser.add_argument("--backbone", default="deit_tiny_patch16_224", help="of timm, or 'embedded'")
parser.add_argument("--weights", help="a .safetensors, .pth or .npz file, without timm's hub")
args = parser.parse_args()

defaults = backbone_defaults(args.backbone)
inputs = {"normalize": None} if args.backbone == "embedded" else {"backbone": args.backbone}
try:
    benchmark = SplitFolder(
        args.experiences, dataset_root=args.root, image_size=defaults.image_size, **inputs
    )
    backbone = create_backbone(args.backbone, weights=args.weights)
except (OSError, ValueError) as error:
    sys.exit(str(error))

joined = "ranpac" in defaults.joined  # features before and after tuning
strategy = RanPAC(
    model=backbone,
    joined=joined,
    plugins=[MISTPlugin.for_backbone(args.backbone, joined=joined, seed=0)],
    evaluator=EvaluationPlugin(accuracy_metrics(stream=True)),
    **defaults.strategy_for("ranpac"),
)
for t, experience in enumerate(benchmark.train_stream):
    strategy.train(experience)
    metrics = strategy.eval(benchmark.test_stream[: t + 1])
    accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    names = [benchmark.class_names[c] for c in experience.classes_in_this_experience]
    print(f"after {', '.join(names)}: {accuracy:.1%} of all classes so far")
