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

NAMES = ("selected_fraction", "tuning_loss", "updated_fraction")


def test_every_logger_logs_what_mist_did_and_nothing_twice(
    tmp_path, benchmark_of, small_vit, capsys
):
    text = io.StringIO()
    loggers = [
        InteractiveLogger(),
        TextLogger(text),
        TensorboardLogger(tmp_path / "tensorboard"),
        CSVLogger(tmp_path / "csv"),
    ]
    metrics = [
        accuracy_metrics(epoch=True, experience=True, stream=True),
        loss_metrics(epoch=True, experience=True),
    ]
    model = small_vit()
    stream = benchmark_of()
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
    loggers[2].writer.close()

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in NAMES:
        assert f"MIST/{name}" in board.Tags()["scalars"]
    points = board.Scalars("MIST/selected_fraction")
    assert [p.step for p in points] == [0, 1]
    losses = board.Scalars("MIST/tuning_loss")
    assert len(losses) == 2
    for tag in board.Tags()["scalars"]:
        seen = Counter((p.step, p.value) for p in board.Scalars(tag))
        if not tag.endswith("updated_fraction"):
            assert max(seen.values()) == 1, tag

    for written in (text.getvalue(), capsys.readouterr().out):
        lines = [line.strip() for line in written.splitlines() if "MIST/" in line]
        assert {line.split(" = ")[0].split("/")[1] for line in lines} == {*NAMES}
        for block in written.split("-- >> Start of training phase << --")[1:]:
            metrics = [x.split(" = ")[0].strip() for x in block.splitlines() if " = " in x]
            ends = block.count("ended.") + block.count("End of")
            assert max(Counter(metrics).values()) <= ends
    (rows, header) = ([*csv.reader((tmp_path / "csv" / "training_results.csv").open())], 1)
    assert len(rows) == header + 4  # two experiences of two epochs
