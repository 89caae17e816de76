"""How many images a run passes through its backbone, and about how long that takes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

import timm
import torch

from ..method.options import MISTOptions
from ..models.backbones import check_backbone, tiny_vit
from ..models.forward import Forward
from ..strategies.registry import OWN_STRATEGIES
from .config import BENCHMARKS, RunConfig
from .experiments import default_jobs
from .runner import choose_device
from .settings_check import only_used

PAPER_HOSTS = ("simplecil", "ranpac", "l2p", "dualprompt", "ease", "slca")
_BATCH = {"cpu": 8}  # images measured at a time, by kind of device; else 64
_PASSES = 3


@dataclass(frozen=True)
class Work:
    """What a run has to do.

    Args:
        epochs: of the strategy in an experience; 0 where it trains nothing.
        mist_epochs: of MIST before the first experience; 0 without MIST.
        forward: images that pass through the backbone without a gradient.
        backward: images, MIST's views counted singly, that pass through it with one.
    """

    epochs: int
    mist_epochs: int
    forward: int
    backward: int

    def seconds(self, forward: float, backward: float) -> float:
        """Of an image forward, and forward and backward."""
        return self.forward * forward + self.backward * backward


def work_of(config: RunConfig) -> Work:
    """The work on one of the paper's hosts, from the numbers of its images.

    Evaluation after each experience is part of it. What else a strategy computes is not: RanPAC's
    ridge, SLCA's alignment.

    Raises:
        ValueError: the strategy is another one, or RanPAC has a first session.
    """
    host = config.strategy
    args = config.settings()["strategy_args"]
    if host not in PAPER_HOSTS or args.get("first_session"):
        raise ValueError(
            f"There is an estimate for {', '.join(PAPER_HOSTS)}, without first session, not for "
            f"{config.label}."
        )
    benchmark = BENCHMARKS[config.benchmark](config)
    train, test = (
        [len(experience.dataset) for experience in stream[: config.first]]
        for stream in (benchmark.train_stream, benchmark.test_stream)
    )
    seen = sum(accumulate(test))  # images evaluated, over the run
    tuned = _mist_epochs(config, len(train))
    forward, backward = _of_mist(config, train, tuned)
    default = inspect.signature(OWN_STRATEGIES[host]).parameters.get("train_epochs")
    epochs = 0 if default is None else int(args.get("train_epochs", default.default))
    n = sum(train)
    backward += epochs * n
    if host in ("simplecil", "ranpac"):  # a test image again where the backbone has moved
        forward += n + (seen if any(tuned[1:]) else sum(test))
    elif host == "slca":
        forward += n + seen
    elif host == "ease":  # each image in each subspace, those of training in those that there are
        more = args.get("beta") is not None
        forward += sum(k * (t + 1 + more) for t, k in enumerate(train))
        forward += sum(test) * (len(train) + more)
    else:  # prompts: a query for each image, those of tests once
        forward += epochs * n + sum(test) + seen
    return Work(epochs, tuned[0], forward, backward)


def _mist_epochs(config: RunConfig, experiences: int) -> list[int]:
    """MIST's epochs before each experience."""
    if not config.mist:
        return [0] * experiences
    options = _options(config)
    own = getattr(OWN_STRATEGIES[config.strategy], "tune_on", "every")
    again = options.tune_epochs if options.later_epochs is None else options.later_epochs
    later = again if (options.tune_on or own) == "every" else 0
    return [options.tune_epochs] + [later] * (experiences - 1)


def _of_mist(config: RunConfig, train: Sequence[int], tuned: Sequence[int]) -> tuple[int, int]:
    """Images that MIST passes forward, and with a gradient: two views of each."""
    if not config.mist:
        return 0, 0
    options = _options(config)
    scored = train if options.score_on == "every" else train[:1]
    steps = sum(epochs * n for epochs, n in zip(tuned, train, strict=True))
    return 2 * options.projection_epochs * train[0], 2 * (steps + sum(scored))


def _options(config: RunConfig) -> MISTOptions:
    return MISTOptions(**only_used(config).settings()["mist_args"])


def seconds_an_image(config: RunConfig) -> tuple[float, float]:
    """Measured on random images: one forward, and one forward and backward.

    The backbone has random weights, which take as long as those of the pretraining; nothing is
    fetched. It has the threads that a run has beside others, one a core.
    """
    name, size = check_backbone(config.backbone, config.weights, config.image_size)
    model = tiny_vit() if name is None else timm.create_model(name, num_classes=0, **size)
    device = choose_device(config.device)
    model, run = model.to(device), Forward(config.precision)
    side = config.inputs["image_size"]
    x = torch.rand(_BATCH.get(device.type, 64), 3, side, side, device=device)

    def forward() -> None:
        with torch.no_grad():
            run(model, x)

    def both() -> None:
        run(model, x).sum().backward()  # type: ignore[no-untyped-call]

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // default_jobs(config.device)))
    try:
        return _seconds(forward, device) / len(x), _seconds(both, device) / len(x)
    finally:
        torch.set_num_threads(threads)


def _seconds(passes: Callable[[], None], device: torch.device) -> float:
    """The median of a few, after one that does not count."""
    found = []
    for _ in range(_PASSES + 1):
        began = time.perf_counter()
        passes()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return median(found[1:])
