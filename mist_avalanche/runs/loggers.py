"""Where a run sends its metrics: Avalanche's loggers, by name."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from avalanche.logging import BaseLogger, TensorboardLogger, WandBLogger

from ..utils import check_choice
from .config import RunConfig

LOGGERS = ("tensorboard", "csv", "wandb", "none")


class _CSV(BaseLogger):
    """All metrics in one file. Avalanche's CSVLogger has only accuracy and loss, 0 if missing."""

    def __init__(self, file: Path, *, append: bool) -> None:
        super().__init__()
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file.open("a" if append else "w", buffering=1)
        if not self.file.tell():
            self.file.write("name,step,value\n")

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        if isinstance(value, int | float):
            self.file.write(f"{name},{x_plot},{value}\n")


class _WandB(WandBLogger):
    """Avoids ``wandb.viz``, which current versions lack, and steps that decrease."""

    step: int

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        if isinstance(value, int | float):
            self.step = max(self.step, x_plot)  # wandb ignores lower steps
            self.wandb.log({name: value}, step=self.step)


def check_loggers(names: Sequence[str]) -> None:
    """Raise an error if a logger is unknown or not installed."""
    for name in names:
        check_choice("logger", name, LOGGERS)
    if "wandb" in names and getattr(find_spec("wandb"), "origin", None) is None:
        raise ModuleNotFoundError("wandb is missing. Use pip install wandb.")


@contextmanager
def open_loggers(names: Sequence[str], folder: Path, config: RunConfig, done: int) -> Iterator[Any]:
    """Open the loggers of a run; after ``done`` experiences they append to existing logs."""
    with ExitStack() as closing:
        found: list[Any] = []
        if "tensorboard" in names:
            found.append(board := TensorboardLogger(folder / "tensorboard"))
            closing.callback(board.writer.close)
        if "csv" in names:
            found.append(table := _CSV(folder / "metrics.csv", append=done > 0))
            closing.enter_context(table.file)
        if "wandb" in names:
            folder.mkdir(parents=True, exist_ok=True)  # otherwise wandb uses another folder
            earlier = sorted((folder / "wandb").glob("*run-*-*")) if done else []
            run_id = earlier[-1].name.rpartition("-")[2] if earlier else uuid4().hex[:8]
            name = f"{config.label}, seed {config.seed}"
            about = {"config": config.settings(), "dir": folder, "save_code": False}
            more = {"id": run_id, "resume": "allow", "group": config.benchmark}
            online = _WandB("mist-avalanche", name, params=more, **about)
            found.append(online)
            closing.push(lambda error, *_: online.wandb.finish(exit_code=int(error is not None)))
        yield found
