"""The classifier of a finished run: kept as its last checkpoint, loaded again to be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from avalanche.models import IncrementalClassifier
from torch import Tensor, nn

from ..benchmarks.transforms import prepare
from ..method.losses import TEMPERATURE
from ..models.heads import BackboneWithHead
from ..utils import check_integer, in_mode
from . import checkpoint
from .build import make_backbone, make_strategy
from .config import RunConfig
from .folder import read_results, run_folder

# RanPAC needs these to learn more classes, not to predict
_FOR_TRAINING = ("head.gram", "head.cross", "head.memory.")


class Prediction(NamedTuple):
    """A class and its probability; see :class:`Classifier`."""

    label: str
    probability: float


class Classifier:
    """A trained model with the names of its classes.

    Probabilities are the softmax of the logits; cosines are divided by the temperature of MIST's
    objective first. They rank the classes and are not calibrated.

    Args:
        model: images (B, 3, H, H) to logits (B, C).
        class_names: by label.
        prepare: reads an image file as a tensor (3, H, H), as the test images of the run were.
    """

    def __init__(
        self, model: nn.Module, class_names: Sequence[str], prepare: Callable[[str | Path], Tensor]
    ) -> None:
        self.model, self.class_names, self.prepare = model, list(class_names), prepare

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, C) of prepared images (B, 3, H, H)."""
        with in_mode(self.model, training=False):
            found: Tensor = self.model(images)
        return found[:, : len(self.class_names)]

    def predict(
        self, files: Sequence[str | Path], k: int = 5, batch_size: int = 64
    ) -> list[list[Prediction]]:
        """The k most likely classes of each image file, the most likely first.

        Raises:
            ValueError: a file is not an image, or k is below 1.
            OSError: a file does not exist.
        """
        check_integer("k", k, 1)
        temperature = TEMPERATURE if gives_cosines(self.model) else 1.0
        device = next(self.model.parameters()).device
        predictions = []
        for start in range(0, len(files), batch_size):
            batch = [self.prepare(file) for file in files[start : start + batch_size]]
            probabilities = (self.logits(torch.stack(batch).to(device)) / temperature).softmax(1)
            top = probabilities.topk(min(k, len(self.class_names)))
            for values, labels in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                pairs = zip(labels, values, strict=True)
                predictions.append([Prediction(self.class_names[y], p) for y, p in pairs])
        return predictions


def gives_cosines(model: nn.Module) -> bool:
    """Whether the logits of a model are cosine similarities."""
    return bool(getattr(getattr(model, "head", None), "gives_cosines", False))


def save_classifier(strategy: Any, folder: Path, settings: Mapping[str, Any]) -> None:
    """Replace the last checkpoint of a finished run with what predictions need.

    Nothing is saved for models that classify in their own way, such as SCR's.
    """
    if checkpoint.can_resume(strategy):
        state = strategy.state_dict()
    elif isinstance(strategy.model, BackboneWithHead):
        state = {"model": strategy.model.state_dict()}
    else:
        return
    kept = {k: v for k, v in state["model"].items() if not k.startswith(_FOR_TRAINING)}
    checkpoint.write(
        folder / checkpoint.NAME,
        settings=checkpoint.as_json(settings),
        strategy={**state, "model": kept},
    )


def load_run(
    folder: str | Path, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """The classifier of a finished run.

    Args:
        folder: with ``results.json`` and ``checkpoint.pt``; of several seeds, that of one.
        weights: file with the weights of the backbone, where the run's file is gone.
        device: of the model.

    Raises:
        FileNotFoundError: the run is not finished, or keeps no classifier.
        ValueError: a file cannot be read.
    """
    folder = run_folder(folder)
    results = read_results(folder / "results.json")
    file = folder / checkpoint.NAME
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has no {file.name}: an earlier version wrote it, or its strategy "
            f"({results['config']['strategy']}) keeps no classifier, as streaming_lda and scr."
        )
    config = replace(config_of(results), device=str(device))
    if weights is not None:
        config = replace(config, weights=str(weights))
    names = results["class_names"]
    strategy = make_strategy(config, make_backbone(config), len(names), device=torch.device(device))
    _load(strategy, checkpoint.read(file)["strategy"], file)
    inputs = results["inputs"]
    statistics = None if inputs["mean"] is None else (inputs["mean"], inputs["std"])
    prepared = prepare(config.benchmark, inputs["image_size"], statistics)
    return Classifier(strategy.model.to(device).eval(), names, prepared)


def config_of(results: Mapping[str, Any]) -> RunConfig:
    """The settings of a run, from its results.

    Raises:
        ValueError: there are settings that this version does not know.
    """
    config = {name: value for name, value in results["config"].items() if name != "split"}
    if unknown := config.keys() - {f.name for f in fields(RunConfig)}:
        raise ValueError(f"The results have the unknown setting {min(unknown)!r}.")
    return RunConfig(**config)


def _load(strategy: Any, state: Mapping[str, Any], file: Path) -> None:
    """Restore a strategy of ours, or the model of one of Avalanche's."""
    try:
        if checkpoint.can_resume(strategy):
            strategy.load_state_dict(state)
            return
        for name, module in strategy.model.named_modules():
            if isinstance(module, IncrementalClassifier):
                weight = state["model"][f"{name}.classifier.weight"]
                module.classifier = nn.Linear(weight.shape[1], weight.shape[0])
                module.active_units = torch.zeros(len(weight), dtype=torch.int8)
        strategy.model.load_state_dict(state["model"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not fit the run beside it: {error}") from error
