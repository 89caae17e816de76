"""The classifier of a finished run: saved beside its results, and loaded again to be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from avalanche.models import IncrementalClassifier
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .._support.disk import replacing
from .._support.safetensors import strict_json
from .._support.states import Model
from ..benchmarks.omniglot import as_ink, whole_drawing
from ..benchmarks.storage.images import read_image
from ..benchmarks.transforms import IMAGENET, Statistics, center_crop
from ..deltas.delta import apply_delta, save_delta
from ..method.losses import TEMPERATURE
from ..models.adapters import ADAPTERS, AdaptedBackbone
from ..models.backbones import create_backbone
from ..models.defaults import backbone_defaults
from ..models.features import in_mode
from ..models.backbone_with_head import BackboneWithHead
from ..models.heads import PrototypeHead, RidgeHead
from ..models.prompts import PROMPTS, PromptedViT
from ..models.subspace_head import SubspaceHead
from ..models.subspaces import SubspaceViT
from ..reports.report import run_folder

_PROMPTS, _ADAPTER = "prompts.", "adapter."  # how names of their tensors begin
DELTA, HEAD = "backbone.delta.safetensors", "classifier.safetensors"


class Prediction(NamedTuple):
    """A class's name, and the softmax of its logit; see :class:`Classifier`."""

    label: str
    probability: float


class Classifier:
    """A backbone with its head, as a run left them.

    Probabilities are the softmax of the logits, of cosines divided by the objective's temperature.
    They rank the classes; they are not calibrated.

    Args:
        model: images (B, 3, H, H) to logits (B, C), in evaluation mode.
        class_names: by label.
        prepare: an image file as a tensor (3, H, H), as the run's test images were.
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
        """The k likeliest classes of each image file, the likeliest first.

        Raises:
            ValueError: a file is no image; k is below 1.
            OSError: a file is not there.
        """
        if k < 1:
            raise ValueError(f"Expected k of at least 1, got {k}.")
        head = getattr(self.model, "head", None)
        temperature = TEMPERATURE if isinstance(head, PrototypeHead | SubspaceHead) else 1.0
        predictions = []
        for start in range(0, len(files), batch_size):
            batch = [self.prepare(file) for file in files[start : start + batch_size]]
            device = next(self.model.parameters()).device
            probabilities = (self.logits(torch.stack(batch).to(device)) / temperature).softmax(1)
            top = probabilities.topk(min(k, len(self.class_names)))
            for values, labels in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                predictions.append(
                    [
                        Prediction(self.class_names[y], p)
                        for y, p in zip(labels, values, strict=True)
                    ]
                )
        return predictions


def save_classifier(
    model: nn.Module,
    base: Model,
    folder: str | Path,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
) -> bool:
    """Write the backbone's delta and the head beside a run's results.

    Args:
        model: the strategy's; one that is not a backbone with a head is not saved.
        base: the backbone's tensors before the run.
        folder: of the run.
        class_names: by label.
        settings: of the run.

    Returns:
        Whether it was saved: False for models that classify in another way, as SCR's do.
    """
    head: Any = model.head if isinstance(model, BackboneWithHead) else None
    kind = _kind(head)
    if kind is None:
        return False
    about: dict[str, Any]
    folder, backbone = Path(folder), model.get_submodule("backbone")
    save_delta(backbone, base, folder / DELTA, settings=settings, source=str(settings["backbone"]))
    if isinstance(model, SubspaceViT):
        subspaces, state = model.exported()
        about = {"kind": kind, "class_names": list(class_names), "subspaces": subspaces}
        _write_head(folder / HEAD, about, state)
        return True
    if isinstance(head, IncrementalClassifier):
        head = head.classifier
    unused = ("gram", "cross", "memory.")  # what the ridge was solved from
    state = {
        name: tensor for name, tensor in head.state_dict().items() if not name.startswith(unused)
    }
    about = {"kind": kind, "class_names": list(class_names)}
    if isinstance(model, PromptedViT):
        prompts = model.prompts
        about["prompts"] = {"kind": type(prompts).__name__, "settings": prompts.settings}
        for name, tensor in prompts.state_dict().items():
            state[_PROMPTS + name] = tensor
    if isinstance(model, AdaptedBackbone) and model.adapter is not None:
        adapter = model.adapter
        kept = {"kind": type(adapter).__name__, "settings": adapter.settings}
        about["adapter"] = {**kept, "both": model.both}
        for name, tensor in adapter.state_dict().items():
            state[_ADAPTER + name] = tensor
    _write_head(folder / HEAD, about, state)
    return True


def _write_head(path: Path, about: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as file:
        file.write_bytes(save(kept, metadata={"mist_avalanche": json.dumps(about)}))


def _kind(head: Any) -> str | None:
    """What a head is called in the file."""
    if isinstance(head, PrototypeHead):
        return "prototypes"
    if isinstance(head, RidgeHead):
        return "ridge"
    if isinstance(head, SubspaceHead):
        return "subspaces"
    return "linear" if isinstance(head, nn.Linear | IncrementalClassifier) else None


def load_run(
    folder: str | Path, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """The classifier of a finished run.

    Args:
        folder: with ``results.json``, and what ``save_classifier`` wrote.
        weights: a file with the base's weights, where the run's is no longer there.
        device: where it is to compute.

    Raises:
        FileNotFoundError: the run is not finished, or keeps no classifier.
        ValueError: a file is damaged, or the base's weights are not those of the run.
    """
    folder = run_folder(folder)
    for name in (DELTA, HEAD):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: its strategy leaves no classifier, as streaming_lda and "
                "scr, or an earlier version wrote it."
            )
    try:
        content = strict_json((folder / "results.json").read_text())
        config, inputs = content["config"], _inputs_of(content)
        name, benchmark = str(config["backbone"]), str(config["benchmark"])
        about, state = _read_head(folder / HEAD)
        kind, class_names = str(about["kind"]), [str(c) for c in about["class_names"]]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds no run that can be read: {error}.") from error
    weights, size = weights or config.get("weights"), config.get("image_size")
    backbone = create_backbone(name, weights, image_size=size)
    apply_delta(backbone, folder / DELTA)
    try:
        model = _model(backbone, kind, about, state)
    except (KeyError, RuntimeError, IndexError, TypeError) as error:
        raise ValueError(f"{folder / HEAD} holds no {kind} head: {error}.") from error
    model = model.to(device).eval()
    return Classifier(model, class_names, preparation(benchmark, *inputs))


def _read_head(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(file, "pt") as opened:
        about = strict_json((opened.metadata() or {})["mist_avalanche"])
        state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    return about, state


def _model(
    backbone: nn.Module, kind: str, about: Mapping[str, Any], state: Mapping[str, Tensor]
) -> BackboneWithHead:
    """A backbone with a saved head, and with prompts or an adapter where the file has some."""
    if kind == "subspaces":
        return SubspaceViT.imported(backbone, about["subspaces"], state)
    parts: dict[str, dict[str, Tensor]] = {_PROMPTS: {}, _ADAPTER: {}, "": {}}
    for name, tensor in state.items():
        first = next(part for part in parts if name.startswith(part))
        parts[first][name.removeprefix(first)] = tensor
    head = _head(kind, parts[""])
    if prompts := about.get("prompts"):
        module = PROMPTS[prompts["kind"]](**prompts["settings"])
        module.load_state_dict(parts[_PROMPTS])
        return PromptedViT(backbone, module, head)
    if saved := about.get("adapter"):
        adapted = AdaptedBackbone(backbone, head, both=bool(saved["both"]))
        adapted.adapter = ADAPTERS[saved["kind"]](backbone, **saved["settings"])
        adapted.adapter.load_state_dict(parts[_ADAPTER])
        return adapted
    return BackboneWithHead(backbone, head)


def _head(kind: str, state: Mapping[str, Tensor]) -> nn.Module:
    """The head of a saved state."""
    if kind == "linear":
        classes, width = state["weight"].shape
        linear = nn.Linear(width, classes, bias="bias" in state)
        linear.load_state_dict(state)
        return linear
    head: nn.Module = PrototypeHead()
    if kind == "ridge":
        projection, weight = state["projection"], state["weight"]
        m = projection.shape[1] if projection.numel() else 0
        head = RidgeHead(m, dtype=weight.dtype)
    elif kind != "prototypes":
        raise KeyError(f"the unknown kind {kind[:40]!r}")
    head.load_state_dict(state, strict=False)
    return head


def preparation(
    benchmark: str, image_size: int, statistics: Statistics | None = None
) -> Callable[[str | Path], Tensor]:
    """What makes a benchmark's test image of an image file."""
    if benchmark == "omniglot":
        return lambda file: whole_drawing(image_size, statistics)(as_ink(read_image(file)))
    if benchmark == "glyphs":
        return lambda file: whole_drawing(image_size)(read_image(file))
    return lambda file: center_crop(image_size, statistics)(read_image(file))


def _inputs_of(content: Mapping[str, Any]) -> tuple[int, Statistics | None]:
    """Size and normalisation of a run's images; earlier versions had the published ones."""
    config = content["config"]
    found = content.get("inputs")
    if found is None:
        size = backbone_defaults(str(config["backbone"])).image_size
        return size, IMAGENET if config["benchmark"] == "cars196" else None
    mean, std = found["mean"], found["std"]
    return int(found["image_size"]), None if mean is None else (mean, std)
