"""results.json, the record of a finished run: content, writing, reading and protection.

``docs/results-json.md`` describes every key.
"""

import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from .._version import __version__
from ..models.experience_head import ExperienceLinear
from ..plugin import MISTPlugin
from ..strategies.registry import find
from ..utils import atomic_write
from .build import digests_now, names_of_classes
from .checkpoint import FOR_TRAINING, can_resume, refuse_other_settings
from .config import RunConfig
from .metrics import accuracy_rows, summarize

SCHEMA = 1
NOT_FINISHED = "is not finished"
Results: TypeAlias = dict[str, Any]
_PACKAGES = ("torch", "torchvision", "timm", "avalanche-lib", "numpy")
_FINISHED = ("results.json", "report.html")  # a run, a whole command


def results_of(
    config: RunConfig,
    benchmark: Any,
    strategy: Any,
    backbone: nn.Module,
    pretrained: nn.Module,
    record: Mapping[str, Any],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """The content of results.json.

    ``pretrained`` is a copy of the backbone before the run; ``record`` has the numbers of
    ``correct`` test images, and the seconds of ``train``, ``eval`` and ``cpu``.
    """
    correct, stream = record["correct"], benchmark.train_stream[: config.first]
    counts = [len(e.dataset) for e in benchmark.test_stream[: config.first]]
    on_gpu = strategy.device.type == "cuda"
    results = {
        "schema": SCHEMA,
        "config": {**config.settings(), "split": getattr(benchmark, "split_name", None)},
        "metrics": summarize(correct, counts),
        "accuracy": accuracy_rows(correct, counts),
        "classes_seen": np.cumsum([len(e.classes_in_this_experience) for e in stream]).tolist(),
        "training_images": [len(e.dataset) for e in stream],
        "test_images": counts,
        "class_names": names_of_classes(benchmark),
        "digests": dict(digests),
        "inputs": config.inputs,
        "timing": {
            "train": record["train"],
            "eval": record["eval"],
            "total": round(sum(record["train"] + record["eval"]), 3),
            "cpu": round(record["cpu"], 3),
        },
        "parameters": _parameters(config, strategy, backbone, pretrained),
        "memory": torch.cuda.max_memory_allocated(strategy.device) if on_gpu else None,
        "environment": {
            "python": platform.python_version(),
            "mist_avalanche": __version__,
            **{package: version(package) for package in _PACKAGES},
            "system": platform.system(),
            "device": torch.cuda.get_device_name(strategy.device) if on_gpu else "cpu",
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }
    for mist in strategy.plugins:
        if isinstance(mist, MISTPlugin) and mist.selection is not None:
            results["mist"] = {
                "selected_fraction": mist.selection.fraction,
                "updated_fraction": mist.updated_fraction,
                "overlaps": mist.overlaps,
                "losses": mist.losses,
                "layers": [list(row) for row in mist.selection.rows()],
            }
    return results


def _parameters(
    config: RunConfig, strategy: Any, backbone: nn.Module, pretrained: nn.Module
) -> dict[str, int]:
    """Numbers of parameter entries, see ``docs/results-json.md``."""
    model, now = strategy.model, dict(backbone.named_parameters())
    whole = {id(t) for t in (*backbone.parameters(), *backbone.buffers())}
    others = {
        name: t.numel()
        for name, t in (*model.named_parameters(), *model.named_buffers())
        if id(t) not in whole
    }
    gradients = {name for name, _ in model.named_parameters()}
    if isinstance(getattr(model, "head", None), ExperienceLinear):  # whose rows are buffers
        gradients |= {"head.weight", "head.bias"}
    for_later = sum(n for name, n in others.items() if name.startswith(FOR_TRAINING))
    of_lda = {"muK": getattr(strategy, "muK", None), "Sigma": getattr(strategy, "Sigma", None)}
    state = strategy.state_dict() if can_resume(strategy) else {}
    copies = find(config.strategy).copies * sum(p.numel() for p in model.parameters())
    changed = (now[name].cpu() != p for name, p in pretrained.named_parameters())
    updated = sum(int(entries.sum()) for entries in changed)
    own = {name for name in gradients if not name.startswith("pretrained.")}
    trained = sum(n for name, n in others.items() if name in own)
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "backbone": sum(p.numel() for p in now.values()),
        "updated": updated,
        "trained": updated + trained,
        "added": sum(others.values()) - for_later + _entries(of_lda),
        "stored": for_later + _entries({k: v for k, v in state.items() if k != "model"}) + copies,
    }


def _entries(content: Any) -> int:
    """Number of entries of all tensors in nested data."""
    if isinstance(content, Mapping):
        return sum(map(_entries, content.values()))
    return content.numel() if isinstance(content, Tensor) else 0


# ---- Files ---------------------------------------------------------------------------------------


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as temporary:
        text = json.dumps(content, indent=1, default=dict)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON file; None if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results.json, given its path or its folder.

    Raises:
        FileNotFoundError: there is none; the message names a seed's folder, if there is one.
        ValueError: the file is not a results.json of this version.
    """
    file = Path(path) if Path(path).suffix == ".json" else Path(path) / "results.json"
    if not file.is_file():
        seeds = sorted(found.parent for found in file.parent.glob("*/results.json"))
        hint = f", such as {seeds[0]}" if seeds else ""
        raise FileNotFoundError(f"There is no {file}. Give the folder of one finished run{hint}.")
    try:
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if results["schema"] == SCHEMA:
            return results
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{file} does not contain results of a run as this version writes them.")


def clear(folder: Path) -> None:
    """Remove the files of a run, and what TensorBoard would show with the next one."""
    for name in ("results.json", "checkpoint.pt", "error.txt"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def why_missing(folder: Path) -> str | None:
    """Why a run has no results; None if it has results."""
    if (folder / "results.json").exists():
        return None
    if not (error := folder / "error.txt").exists():
        return NOT_FINISHED
    return "failed: " + error.read_text(encoding="utf-8").partition("\n\n")[0]


def write_error(folder: Path, text: str) -> None:
    """Write to the folder of a run why it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.txt").write_text(text, encoding="utf-8", errors="replace")


def refuse_to_replace(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise a ValueError if runs or their tables would be replaced unintentionally."""
    if resume or overwrite:
        return
    finished = any((folder / name).exists() for name in _FINISHED)
    if finished or (folder / "checkpoint.pt").exists():
        raise ValueError(
            f"{folder} holds a {'finished' if finished else 'stopped'} run. --resume (resume=True) "
            "keeps finished runs with the same settings; --overwrite (overwrite=True) replaces "
            "them. Or choose another folder."
        )


def finished_results(
    config: RunConfig, folder: Path, known: dict[str, dict[str, str]]
) -> dict[str, Any] | None:
    """The results in a folder; None if there are none yet.

    Raises a ValueError if their settings, images or weights differ; ``known`` is as for
    :func:`~.build.digests_now`.
    """
    if not (folder / "results.json").exists():
        return None
    results, digests = read_results(folder), digests_now(config, known)
    saved = {name: value for name, value in results["config"].items() if name != "split"}
    saved |= {name: results.get("digests", {}).get(name) for name in digests}
    refuse_other_settings(folder, saved, {**config.settings(), **digests})
    return results
