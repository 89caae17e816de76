"""Where a run sends its metrics: Avalanche's loggers, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from avalanche.logging import CSVLogger, TensorboardLogger, WandBLogger

from ..utils import check_choice
from .config import RunConfig

LOGGERS = ("tensorboard", "csv", "wandb", "none")


class _CSV(CSVLogger):
    """Also writes ``metrics.csv`` with all numbers. What is not measured is empty, not 0."""

    def __init__(self, folder: Path, *, append: bool) -> None:
        earlier = {str(f): f.read_text() for f in folder.glob("*_results.csv") if append}
        super().__init__(str(folder))  # empties its files
        for file in (self.training_file, self.eval_file):
            if file.name in earlier:
                file.seek(0)
                file.write(earlier[file.name])
        self.metrics_file = (folder / "metrics.csv").open("a" if append else "w", buffering=1)
        if not self.metrics_file.tell():
            self.metrics_file.write("name,step,value\n")

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        if isinstance(value, int | float):
            self.metrics_file.write(f"{name},{x_plot},{value}\n")

    def _val_to_str(self, m_val: Any) -> str:
        return "" if type(m_val) is int else str(m_val)

    def close(self) -> None:
        super().close()
        self.metrics_file.close()


class _WandB(WandBLogger):
    """Without ``wandb.viz``, which current versions lack, and with steps that never fall."""

    step: int

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        if isinstance(value, int | float):
            self.step = max(self.step, x_plot)  # wandb ignores lower ones
            self.wandb.log({name: value}, step=self.step)


def check_loggers(names: Sequence[str]) -> None:
    """An error where a logger is unknown or not installed."""
    for name in names:
        check_choice("logger", name, LOGGERS)
    if "wandb" in names and getattr(find_spec("wandb"), "origin", None) is None:
        raise ModuleNotFoundError("There is no wandb. Use pip install mist-avalanche[wandb].")


@contextmanager
def open_loggers(
    names: Sequence[str], folder: Path, config: RunConfig, done: int
) -> Iterator[list[Any]]:
    """Loggers of a run; after ``done`` experiences they go on with what is there."""
    with ExitStack() as closing:
        found: list[Any] = []
        if "tensorboard" in names:
            found.append(board := TensorboardLogger(folder / "tensorboard"))
            closing.callback(board.writer.close)
        if "csv" in names:
            found.append(table := _CSV(folder / "csv", append=done > 0))
            closing.callback(table.close)
        if "wandb" in names:
            folder.mkdir(parents=True, exist_ok=True)  # wandb takes another place otherwise
            earlier = sorted((folder / "wandb").glob("*run-*-*")) if done else []
            run_id = earlier[-1].name.rpartition("-")[2] if earlier else uuid4().hex[:8]
            params = {"project": "mist-avalanche", "group": config.benchmark, "dir": folder}
            params |= {"name": f"{config.label}, seed {config.seed}", "config": config.settings()}
            params |= {"id": run_id, "resume": "allow", "save_code": False}
            found.append(online := _WandB(params=params))
            closing.push(lambda error, *_: online.wandb.finish(exit_code=int(error is not None)))
        yield found
