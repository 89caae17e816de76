import csv
import io
from collections import Counter

import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import CSVLogger, InteractiveLogger, TensorboardLogger, TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mist_avalanche import MISTPlugin

NAMES = {"selected_fraction", "tuning_loss", "updated_fraction"}


def test_every_logger_logs_what_mist_did_and_nothing_twice(
    tmp_path, benchmark_of, small_vit, capsys
):
    text, board = io.StringIO(), TensorboardLogger(tmp_path / "tensorboard")
    loggers = [InteractiveLogger(), TextLogger(text), board, CSVLogger(tmp_path / "csv")]
    metrics = [accuracy_metrics(epoch=True, experience=True), loss_metrics(epoch=True)]
    model, stream = small_vit(), benchmark_of()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        train_epochs=2,
        plugins=[MISTPlugin(tune_epochs=1, batch_size=8, score_on="every", verbose=False)],
        evaluator=EvaluationPlugin(*metrics, loggers=loggers),
    )
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream)
    board.writer.close()

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert {tag.removeprefix("MIST/") for tag in scalars if "MIST" in tag} == NAMES
    trained = strategy.clock.train_iterations
    assert [p.step for p in scalars["MIST/selected_fraction"]] == [0, trained // 2]
    assert len(scalars["MIST/tuning_loss"]) == 2
    for tag, points in scalars.items():
        if tag != "MIST/updated_fraction":  # of the tuning, then of each epoch of the strategy
            assert max(Counter((p.step, p.value) for p in points).values()) == 1, tag
    for written in (text.getvalue(), capsys.readouterr().out):
        lines = [line.split("MIST/")[1] for line in written.splitlines() if "MIST/" in line]
        assert {line.split(" = ")[0] for line in lines} == NAMES
    rows = [*csv.reader((tmp_path / "csv" / "training_results.csv").open())]
    assert len(rows) == 1 + 4  # two experiences of two epochs
