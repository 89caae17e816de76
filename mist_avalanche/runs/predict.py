"""The classifier of a finished run, saved as its last checkpoint and loaded for prediction."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from avalanche.models import IncrementalClassifier
from torch import Tensor, nn

from ..benchmarks.transforms import prepare
from ..method.objective import TEMPERATURE
from ..models.backbone_with_head import BackboneWithHead
from ..models.heads import PrototypeHead
from ..models.linear_head import GrowingCosine
from ..models.subspaces import SubspaceHead
from ..utils import check_integer, in_mode
from . import checkpoint
from .build import make_backbone, make_strategy
from .config import RunConfig
from .results import read_results

log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """A class and its score; see :class:`Classifier`."""

    label: str
    score: float


class Classifier:
    """A trained model with the names of its classes.

    Scores are the softmax of the logits; cosines are first divided by the temperature of MIST's
    objective. They rank the classes of an image, but are not calibrated probabilities.

    Args:
        model: images (B, 3, H, H) to logits (B, C).
        class_names: class names by label.
        prepare: reads an image file as a tensor (3, H, H), transformed like the run's test images.
    """

    def __init__(
        self, model: nn.Module, class_names: Sequence[str], prepare: Callable[[str | Path], Tensor]
    ) -> None:
        self.model, self.class_names, self.prepare = model, list(class_names), prepare

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, C) of prepared images (B, 3, H, H)."""
        with in_mode(self.model, training=False):
            return self.model(images)[:, : len(self.class_names)]

    def predict(
        self, files: Sequence[str | Path], k: int = 5, batch_size: int = 64
    ) -> list[list[Prediction]]:
        """Predict the k most likely classes of each image file, the most likely first.

        Raises:
            ValueError: a file is not an image, or k is below 1.
            OSError: a file does not exist.
        """
        check_integer("k", k, 1)
        of_cosines = (PrototypeHead, SubspaceHead, GrowingCosine)  # and not subclasses of them
        cosines = type(getattr(self.model, "head", None)) in of_cosines
        device = next(self.model.parameters()).device
        predictions = []
        for start in range(0, len(files), batch_size):
            images = [self.prepare(file) for file in files[start : start + batch_size]]
            logits = self.logits(torch.stack(images).to(device))
            logits = logits / TEMPERATURE if cosines else logits
            top = logits.softmax(1).topk(min(k, logits.shape[1]))
            for scores, labels in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                pairs = zip(labels, scores, strict=True)
                predictions.append([Prediction(self.class_names[y], s) for y, s in pairs])
        return predictions


def save_classifier(strategy: Any, folder: Path, settings: Mapping[str, Any]) -> None:
    """Replace the last checkpoint of a finished run with what prediction needs.

    Models with their own way of classifying, such as SCR's, are not saved.
    """
    file = folder / checkpoint.NAME
    file.unlink(missing_ok=True)
    if isinstance(strategy.model, BackboneWithHead):
        model = {
            name: value.new_empty((0,) * value.ndim)
            if name.startswith(checkpoint.FOR_TRAINING)
            else value
            for name, value in strategy.model.state_dict().items()
        }
        checkpoint.write(file, settings=settings, strategy={"model": model})


def load_run(
    folder: str | Path, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """Load the classifier of a finished run.

    For a benchmark of your own, whose transform is unknown, ``predict`` resizes and crops images as
    the package's benchmarks do, with a warning.

    Args:
        folder: folder with ``results.json`` and ``checkpoint.pt``, of a single seed.
        weights: file with the weights of the backbone, if the run's file no longer exists.
        device: device of the model.

    Raises:
        FileNotFoundError: the run is not finished, or has no saved classifier.
        ValueError: a file cannot be read.
    """
    results, saved = read_results(folder), Path(folder) / checkpoint.NAME
    config = RunConfig.from_results(results)
    if not saved.is_file():
        raise FileNotFoundError(
            f"There is no {saved}: {config.strategy} saves no classifier, or it was removed."
        )
    if weights is not None:
        config = replace(config, weights=str(weights))
    backbone = make_backbone(config)
    names, inputs = results["class_names"], results["inputs"]
    strategy = make_strategy(config, backbone, len(names), device=torch.device(device))
    content = checkpoint.read(saved)
    own = {name: value for name, value in results["config"].items() if name != "split"}
    checkpoint.refuse_other_settings(Path(folder), content["settings"], own)
    state = content["strategy"]["model"]
    for name, module in strategy.model.named_modules():
        if isinstance(module, IncrementalClassifier):  # it has grown with the classes
            weight = state[f"{name}.classifier.weight"]
            module.classifier = nn.Linear(weight.shape[1], len(weight))
            module.active_units = torch.zeros(len(weight), dtype=torch.int8)
    strategy.model.load_state_dict(state)
    if ":" in config.benchmark:
        log.warning("Images are resized and cropped, whatever %s does.", config.benchmark)
    statistics = None if inputs["mean"] is None else (inputs["mean"], inputs["std"])
    prepared = prepare(config.benchmark, inputs["image_size"], statistics)
    return Classifier(strategy.model.to(device).eval(), names, prepared)
