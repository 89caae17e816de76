"""Defaults of backbones, by name or family; they are defined only here."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

EMBEDDED = "embedded"
PRECISIONS = ("32", "bf16")  # of the computation


@dataclass(frozen=True)
class BackboneDefaults:
    """Settings that suit a backbone.

    Args:
        timm_name: timm's name with the pinned pretraining tag; None for the name itself.
        image_size: pixels per side of the inputs; 0 for timm's.
        normalize: normalisation of the inputs: ``"pretrained"`` for that of the pretraining, or
            ``"published"`` for that of the published runs.
        mist: arguments of :class:`~mist_avalanche.MISTPlugin`.
        mist_with_drift: those that differ if the strategy compensates drift, besides ``tune_on``.
        mist_joined: those that differ if it classifies by joined features.
        joined: strategies that do so by default, in the command, if MIST tunes once and images have
            that size.
        n_random_features: M of :class:`~mist_avalanche.strategies.RanPAC`.
        strategies: other arguments of strategies, by the strategy's name.
    """

    timm_name: str | None = None
    image_size: int = 0
    normalize: str = "pretrained"
    mist: Mapping[str, Any] = field(default_factory=dict)
    mist_with_drift: Mapping[str, Any] = field(default_factory=dict)
    mist_joined: Mapping[str, Any] = field(default_factory=dict)
    joined: Collection[str] = ()
    n_random_features: int = 10000
    strategies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def strategy_for(self, name: str) -> dict[str, Any]:
        """Arguments of one of our strategies."""
        ranpac = {"n_random_features": self.n_random_features}
        return {**(ranpac if name == "ranpac" else {}), **self.strategies.get(name, {})}

    def mist_for(self, *, drift_compensation: bool = False, joined: bool = False) -> dict[str, Any]:
        """Arguments of MISTPlugin, for a strategy with these options."""
        with_drift = {"tune_on": "every", **self.mist_with_drift} if drift_compensation else {}
        return {**self.mist, **with_drift, **(self.mist_joined if joined else {})}


# The paper's values, for ViT-B/16, are MISTPlugin's defaults. Those of the embedded backbone are
# the best of a few learning rates and numbers of epochs on glyphs of its pretraining, which are in
# no benchmark (studies/performance/kinds_of_shift.py). Those of its strategies come from held-out
# training images of SplitGlyphs, with an earlier embedded backbone. RanPAC's M is not close to the
# number of training images: if both are equal, a small ridge fits the images exactly and
# generalises badly. CODA-Prompt has at most D components over all experiences.
DEFAULTS: Mapping[str, BackboneDefaults] = {
    EMBEDDED: BackboneDefaults(
        image_size=32,
        mist={
            "tune_on": "first",
            "lr": 1e-2,
            "tune_epochs": 60,
            "batch_size": 64,
            "view": {"flip": 0.0},  # mirrored letters are other letters
        },
        n_random_features=5000,
        strategies={
            "l2p": {"lr": 5e-3},
            "dualprompt": {"lr": 5e-3},
            "codaprompt": {"lr": 1e-2, "train_mb_size": 16, "train_epochs": 5, "per_experience": 4},
            "aper": {"adapter": "vpt_deep"},
        },
    ),
    "vit_base_patch16_224": BackboneDefaults(
        "vit_base_patch16_224.augreg_in21k", normalize="published"
    ),
}
# Pretrainings of the published runs, with images in [0, 1]; others use timm's normalisation.
_PUBLISHED_TAGS = ("augreg_in21k", "augreg_in21k_ft_in1k", "augreg2_in21k_ft_in1k")
# By the prefix of a name. Learning rate, epochs and `tune_on` of DeiT-Tiny are the highest values
# that lose accuracy on none of four image sets, on held-out images of the first experience.
# `mist_joined` has the rate with the best mean on these (docs/evidence.md). `later_epochs` comes
# from held-out training images of Stanford Cars. Strategy arguments are the best of a few on
# held-out training images of CUB-200 at 128 pixels, except those that lost on held-out images of
# Stanford Cars (docs/tuned.md).
FAMILIES: Mapping[str, BackboneDefaults] = {
    "deit_tiny": BackboneDefaults(
        mist={"tune_on": "first", "lr": 3e-3, "tune_epochs": 10},
        mist_with_drift={"later_epochs": 3},
        mist_joined={"lr": 1e-2},
        joined=("simplecil", "ranpac"),
        n_random_features=5000,
        strategies={
            "l2p": {"lr": 2e-2, "train_epochs": 20},
            "dualprompt": {"lr": 5e-3, "train_epochs": 20},
            "codaprompt": {"lr": 5e-3, "train_mb_size": 32, "per_experience": 8},
            "aper": {"adapter": "ssf"},
            "ease": {"lr": 0.1},
            "fecam": {"diagonal_shrinkage": 10.0},
        },
    )
}


def backbone_defaults(name: str) -> BackboneDefaults:
    """Defaults for a backbone's name.

    If neither the name nor its family has an entry, the paper's values and timm's image size are
    used.
    """
    base, _, tag = name.partition(".")
    entry = DEFAULTS.get(base if tag in _PUBLISHED_TAGS else name)
    families = (family for prefix, family in FAMILIES.items() if name.startswith(prefix))
    found = entry or next(families, BackboneDefaults())
    if found.image_size:
        return found
    import timm  # not at the top: the command's options import this file

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return replace(found, image_size=int(config.input_size[-1]) if config else 224)
