"""DualPrompt with MIST: the ViT is tuned before the first experience, then prompts are trained."""

from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitGlyphs
from mist_avalanche.models import backbone_defaults, create_backbone
from mist_avalanche.strategies import DualPrompt  # or L2P, CODAPrompt

benchmark = SplitGlyphs(n_experiences=10)
strategy = DualPrompt(
    model=create_backbone("embedded"),
    plugins=[MISTPlugin.for_backbone("embedded")],
    evaluator=EvaluationPlugin(accuracy_metrics(stream=True)),
    **backbone_defaults("embedded").strategy_for("dualprompt"),
)
for t, experience in enumerate(benchmark.train_stream[:3]):
    strategy.train(experience)
    metrics = strategy.eval(benchmark.test_stream[: t + 1])
    accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    print(f"after {t + 1} experiences: {accuracy:.1%}")

prompts = sum(p.numel() for p in strategy.prompts.parameters())
print(f"experts: {len(strategy.prompts.experts)}; {prompts} numbers in prompts and keys")
