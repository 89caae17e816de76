"""The card of a delta: a README.md in the form that model hubs display."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import timm
from tabulate import tabulate

from ..method.options import MISTOptions
from ..models.backbones import check_backbone
from ..runs.config import RunConfig
from .labels import display_name
from .summary import described

_DEFAULTS = {field.name: field.default for field in fields(MISTOptions)}
_CARD = """---
library_name: mist_avalanche
license: {license}{base_model}
tags: [continual-learning, class-incremental-learning, sparse-tuning, mist]
---

# {file}

What tuning changed in `{base}`: a delta of mist_avalanche (MIST, Mutual Information-guided Sparse
Tuning, arXiv 2505.19943).

{table}

```python
from mist_avalanche.deltas import apply_delta
from mist_avalanche.models import create_backbone

backbone = create_backbone({arguments})  # images to features
apply_delta(backbone, "{file}")
```

The delta is derived from the weights of `{base}`. Their licence applies, and the terms of the
training images may.
"""


def delta_card(delta: Path, base: str, image_size: int | None, results: Any = None) -> str:
    """The card of a delta to a named base; ``results`` are those of the run behind it."""
    timm_name, _ = check_backbone(base, image_size=image_size)
    of_base = timm.get_pretrained_cfg(timm_name) if timm_name else None
    facts = {"size": f"{delta.stat().st_size / 1e6:.2f} MB"}
    if results:
        config, label = results["config"], RunConfig.from_results(results).label
        facts |= {
            "method": f"{display_name(label)}, seed {config['seed']}",
            "accuracies": described({label: [results]}),
            "images": ", ".join(f"{k}: {v}" for k, v in results["inputs"].items()),
            "settings of MIST": ", ".join(
                f"{k}: {v}" for k, v in config["mist_args"].items() if v != _DEFAULTS.get(k)
            ),
            **{name: f"{value:.2f} %" for name, value in results["metrics"].items()},
        }
    return _CARD.format(
        file=delta.name,
        base=base,
        base_model=f"\nbase_model: {of_base.hf_hub_id}" if of_base and of_base.hf_hub_id else "",
        license=(of_base.license if of_base else "mit") or "other",
        table=tabulate(facts.items(), ("", ""), tablefmt="github", disable_numparse=True),
        arguments=f'"{base}"' + (f", image_size={image_size}" if image_size else ""),
    )
