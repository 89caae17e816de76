"""How many images a run passes through its backbone, experience by experience."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from .._support.progress import BACKWARD
from ..strategies.baselines import EPOCHS
from ..strategies.names import COMPUTED_STRATEGIES
from ..strategies.registry import OWN_STRATEGIES, first_session_epochs
from .config import RunConfig
from .settings_check import mist_options

PAPER_HOSTS = ("simplecil", "ranpac", "l2p", "dualprompt", "ease", "slca")
_ALL_SO_FAR = ("cumulative", "joint")  # of Avalanche's, with all images that they have seen
# Of each image in a batch, how many pass: in the first experience, and with stored ones later.
_IN_A_BATCH = {"replay": (1, 2), "er_ace": (1, 2), "der": (1, 2), "scr": (2, 8)}
_VIEWS = 16  # drift compensation: eight of each image, before a tuning and after it


@dataclass(frozen=True)
class Work:
    """What a run has to do, in an experience or altogether.

    Args:
        epochs: of the strategy in an experience; 0 where it trains nothing.
        mist_epochs: of MIST before an experience; 0 without MIST.
        forward: images that pass through the backbone without a gradient.
        backward: images, MIST's views counted singly, that pass through it with one.
    """

    epochs: int
    mist_epochs: int
    forward: int
    backward: int

    @property
    def images(self) -> int:
        """All of them, one with a gradient counted as often as it takes longer."""
        return self.forward + BACKWARD * self.backward

    def seconds(self, forward: float, backward: float) -> float:
        """Of an image forward, and forward and backward."""
        return self.forward * forward + self.backward * backward


def work_of(config: RunConfig, train: Sequence[int], test: Sequence[int]) -> list[Work]:
    """The work in each experience, with the evaluation after it.

    Numbers are exact for :data:`PAPER_HOSTS` without a first session, and near for the rest. What a
    strategy computes besides is not part of it: RanPAC's ridge, SLCA's alignment.

    Args:
        config: settings of the run.
        train: images of each experience.
        test: those of its test stream.
    """
    tuned, scored = _mist_epochs(config, len(train))
    epochs = [_epochs(config, t) for t in range(len(train))]
    found = []
    for t, n in enumerate(train):
        moved = t > 0 and tuned[t] > 0
        forward = _forward(config, train, test, t, epochs[t], moved)
        if t == 0 and config.mist:
            forward += 2 * mist_options(config).projection_epochs * n
        backward = epochs[t] * _batches_of(config, train, t) + 2 * (tuned[t] + scored[t]) * n
        found.append(Work(epochs[t], tuned[t], forward, backward))
    return found


def _forward(
    config: RunConfig,
    train: Sequence[int],
    test: Sequence[int],
    t: int,
    epochs: int,
    moved: bool,
) -> int:
    """Images without a gradient, but for MIST's."""
    host, n, new, seen = config.strategy, train[t], test[t], sum(test[: t + 1])
    if host in COMPUTED_STRATEGIES:  # a test image again where the backbone has moved
        views = _VIEWS if moved and config.drift_compensation else 1
        return views * n + (seen if moved else new)
    if host == "aper":  # of the plain and of the adapted backbone
        return 2 * (n + new)
    if host == "slca":
        return n + seen
    if host == "ease":  # each image in each subspace, those of training in those that there are
        plain = config.settings()["strategy_args"].get("beta") is not None
        return n * (t + 1 + plain) + seen + new * (t + plain)
    if host in OWN_STRATEGIES:  # prompts: a query for each image, those of tests once
        return epochs * n + new + seen
    return seen + (n if host == "streaming_lda" else 0)


def _epochs(config: RunConfig, t: int) -> int:
    """The strategy's epochs in an experience."""
    host, args = config.strategy, config.settings()["strategy_args"]
    if host in COMPUTED_STRATEGIES or host == "aper":
        kind = args.get("first_session") if host != "aper" else args.get("adapter", "adapter")
        if t or kind is None:
            return 0
        own = args.get("first_session_args", {}) if host != "aper" else args
        return int(own.get("train_epochs") or first_session_epochs(kind))
    if host in OWN_STRATEGIES:
        default = inspect.signature(OWN_STRATEGIES[host]).parameters["train_epochs"].default
        return int(args.get("train_epochs", default))
    return 0 if host == "streaming_lda" else int(args.get("train_epochs", EPOCHS))


def _batches_of(config: RunConfig, train: Sequence[int], t: int) -> int:
    """Images in an epoch of an experience."""
    if config.strategy in _ALL_SO_FAR:
        return sum(train[: t + 1])
    return train[t] * _IN_A_BATCH.get(config.strategy, (1, 1))[t > 0]


def _mist_epochs(config: RunConfig, experiences: int) -> tuple[list[int], list[int]]:
    """MIST's epochs before each experience, of tuning and of scoring."""
    if not config.mist:
        return [0] * experiences, [0] * experiences
    options = mist_options(config)
    again = options.tune_epochs if options.later_epochs is None else options.later_epochs
    tuned = again if options.tune_on == "every" else 0
    scored = int(options.score_on == "every")
    later = experiences - 1
    return [options.tune_epochs] + [tuned] * later, [1] + [scored] * later
