"""The ablations of the paper's Table 2: MIST with one part replaced at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Ablation:
    """MIST with one part replaced.

    Args:
        title: its name in tables.
        changes: a sentence that describes the change.
        mist_args: arguments of MISTPlugin that differ from the full method.
    """

    title: str
    changes: str
    mist_args: Mapping[str, Any]


# The keys follow a strategy's name in the command, in tables and in folders: "ranpac+no_drop".
ABLATIONS: Mapping[str, Ablation] = MappingProxyType(
    {
        "random": Ablation(
            "random scores",
            "Entries are selected at random; their number stays the same.",
            {"select_by": "random"},
        ),
        "magnitude": Ablation(
            "magnitude scores",
            "The largest weights are selected, regardless of the objective.",
            {"select_by": "magnitude"},
        ),
        "gradient": Ablation(
            "gradient scores",
            "Scores are mean gradients of the objective instead of its Fisher information.",
            {"select_by": "gradient"},
        ),
        "global": Ablation(
            "global ranking",
            "Scores are ranked over the whole backbone, not within each tensor.",
            {"ranking": "global"},
        ),
        "cross_entropy": Ablation(
            "cross-entropy",
            "Scores and tuning follow the cross-entropy of a classifier instead of mutual "
            "information.",
            {"objective": "cross_entropy"},
        ),
        "no_drop": Ablation(
            "no dropping",
            "Every selected entry is updated in every step; no gradient is dropped.",
            {"drop_rate": 0.0},
        ),
        "dense": Ablation(
            "dense",
            "Every entry of the backbone is selected, and no gradient is dropped.",
            {"select_rate": 1.0, "drop_rate": 0.0},
        ),
    }
)
