"""RanPAC: ridge regression on random features (McDonnell et al., arXiv 2307.02251)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import Tensor, nn

from .._support.checks import check_choice, check_integer
from .._support.randomness import derive_seed
from ..models.heads import RidgeHead
from ..models.memory import FeatureMemory, GaussianMemory, Memory
from ..models.triangle import pack, unpack
from ._first_session import FirstSessionStrategy
from ._session import FirstSession

_MADE_AGAIN = ("projection", "gram", "weight")  # buffers of the head


class RanPAC(FirstSessionStrategy):
    """Class-incremental learning without gradients: random features and ridge regression.

    h = relu(f W) of the features f (D,) of a training image under the eval transform, W (D, M)
    fixed and standard normal. G = Σ h hᵀ and Q = Σ h yᵀ are summed over all experiences, and logits
    are h (G + λI)⁻¹ Q. λ is the candidate of 10⁻⁸ … 10⁸ with the least squared error on a shuffled
    20 % of the current experience; where that leaves fewer than two images a class, a fifth of the
    mean squared length of h (``docs/ridge.md``). The backbone stays as it is unless a
    :class:`~mist_avalanche.MISTPlugin` tunes it before an experience; G and Q of earlier
    classes follow with ``drift_compensation`` alone, and there is a warning where they do not. No
    optimizer, no number of classes, no task labels.

    Args:
        model: the backbone, images (B, C, H, W) to features (B, D). The classifier that a timm,
            torchvision or Avalanche model still has is taken off, with a warning. A last layer that
            is meant to stay goes behind such a model in a ``torch.nn.Sequential``.
        n_random_features: M; 0 leaves the projection out (h = f, decorrelation only).
        first_session: what is trained on the first experience, as published, before anything is
            computed: ``"adapter"``, ``"ssf"``, ``"vpt_deep"``, ``"vpt_shallow"`` or ``"finetune"``,
            see :class:`~mist_avalanche.strategies.APER`. f are then the adapted features. A
            MISTPlugin tunes before it, and before the first experience only unless told otherwise.
            None: nothing.
        first_session_args: ``lr``, ``train_epochs``, ``train_mb_size``, ``weight_decay``,
            ``min_lr``, ``bottleneck``, ``dropout`` and ``n_prompts`` of it, as for APER.
        seed: of W, of the shuffling, of drawn features, and of the first session.
        dtype: of G and Q. G takes 8 M² or 4 M² bytes (M = 10000: 800 or 400
            MB), and as much again while it is factorised.
        criterion: of the reported loss only.
        train_mb_size: images in a batch while features are computed; changes no result.
        eval_mb_size: images in a batch of evaluation.
        device: of backbone and statistics.
        plugins: Avalanche plugins. In training iterations ``mb_x`` are the features (B, D).
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche.
        drift_compensation: where the backbone was tuned after the first experience, move what is
            stored by the affine map, fitted on the current training images turned and mirrored,
            from features before to features after, and make G and Q again from it. Costs two
            passes over eight views of them. Where nothing was, it has no effect, and says so.
        memory: what drift compensation stores. ``"features"``: the backbone's features of every
            past training image, in float16, 2 D bytes each, no pixels. ``"gaussians"``: the mean of
            each class and one covariance, 8 (C D + D²) bytes. ``"none"``: nothing; G and Q can then
            be moved only without projection (M = 0).
        precision: of the backbone: ``"32"`` or ``"bf16"`` (autocast; features and all that follows
            in float32 or better).
        compile: use ``torch.compile`` for the backbone.
        cache_mb: megabytes of features of test images that stay in memory, more in a temporary
            file, until the backbone changes. ``mb_x`` are then features in evaluation too. 0 keeps
            none, and every evaluation computes all, from images; needed where features change in a
            way that :func:`~mist_avalanche.strategies.feature_cache.fingerprint` and
            :func:`~mist_avalanche.strategies.feature_cache.look` do not see. Images of a random
            eval transform are never kept.

    Raises:
        ValueError: an argument out of its range, a multi-task model, or a memory of ``"none"`` that
            drift compensation cannot work with.
        RuntimeError: evaluation before any training.
        FloatingPointError: the backbone gives NaN or Inf.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded")  # tunes before the first experience
        >>> strategy = RanPAC(model=create_backbone(), plugins=[mist])
        >>> for t, experience in enumerate(benchmark.train_stream):
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream[: t + 1])
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        n_random_features: int = 10000,
        first_session: Literal["adapter", "ssf", "vpt_deep", "vpt_shallow", "finetune"]
        | None = None,
        first_session_args: Mapping[str, Any] | None = None,
        seed: int = 0,
        dtype: Literal["float64", "float32"] = "float64",
        criterion: nn.Module | None = None,
        train_mb_size: int = 64,
        eval_mb_size: int = 64,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        drift_compensation: bool = False,
        memory: Literal["features", "gaussians", "none"] = "features",
        precision: Literal["32", "bf16"] = "32",
        compile: bool = False,
        cache_mb: int = 2000,
        **kwargs: Any,
    ) -> None:
        n_random_features = check_integer("n_random_features", n_random_features, 0)
        self.seed = check_integer("seed", seed, 0)
        check_choice("memory", memory, ("features", "gaussians", "none"))
        check_choice("dtype", dtype, ("float64", "float32"))
        if memory != "features" and not drift_compensation:
            raise ValueError(
                f"memory={memory!r} has no effect without drift compensation, which is what needs "
                "one. Give drift_compensation=True (--drift-compensation), or leave it away."
            )
        if drift_compensation and memory == "none" and n_random_features:
            raise ValueError(
                "Drift compensation has nothing to move with memory='none' and random features. "
                "Use memory='features' or 'gaussians', or n_random_features=0."
            )
        session = None
        if first_session is not None:
            session = FirstSession.of(first_session, self.seed, first_session_args or {})
            if not drift_compensation:
                self.tune_on = "first"  # what it learns belongs to the backbone of its time
        elif first_session_args:
            raise ValueError(
                "`first_session_args` have no effect without a first session. Give "
                "first_session='adapter', or leave them away."
            )
        kept: Memory | None = None
        if drift_compensation and memory != "none":
            kept = FeatureMemory() if memory == "features" else GaussianMemory(seed)
        super().__init__(
            model=model,
            head=RidgeHead(n_random_features, seed, getattr(torch, dtype), kept),
            session=session,
            both=False,
            criterion=criterion,
            train_mb_size=train_mb_size,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            drift_compensation=drift_compensation,
            precision=precision,
            compile=compile,
            cache_mb=cache_mb,
            **kwargs,
        )

    def state_dict(self) -> dict[str, Any]:
        """The sums, G as a triangle. W comes from the seed, the weights from solving again."""
        state = super().state_dict()
        width, gram, _ = (state["head"].pop(name) for name in _MADE_AGAIN)
        about = {"seed": self.seed, "n_random_features": self.head.n_random_features}
        return {**state, **about, "width": len(width), "gram": pack(gram)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a RanPAC with the same arguments.

        Raises:
            ValueError: M, the seed or the dtype is another one.
        """
        gram = unpack(state["gram"])
        there = (state["n_random_features"], state["seed"], gram.dtype)
        here = (self.head.n_random_features, self.seed, self.head.gram.dtype)
        if there != here:
            raise ValueError(f"n_random_features, seed and dtype were {there}, and are {here}")
        w = self.head.drawn(state["width"]) if state["width"] else self.head.projection[:0, :0]
        made_again = dict(zip(_MADE_AGAIN, (w, gram, state["head"]["cross"]), strict=True))
        super().load_state_dict({**state, "head": {**state["head"], **made_again}})
        if len(gram):
            self.head.solve()

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add features (n, D) of labels (n,) to the statistics, and solve."""
        self.head.update(features, labels)
        order = derive_seed(self.seed, int(self.head.counts.sum()))
        self.head.choose_ridge(features, labels, torch.Generator().manual_seed(order))
        self.head.solve()
