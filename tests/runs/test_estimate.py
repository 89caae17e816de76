import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers import HybridEmbed
from tiny_runs import MIST, tiny, tiny_benchmark

from mist_avalanche._support.progress import BACKWARD
from mist_avalanche.runs import RunConfig, run
from mist_avalanche.runs import estimate as estimates
from mist_avalanche.runs.estimate import estimate, seconds_an_image
from mist_avalanche.runs.progress import Meter
from mist_avalanche.runs.work import PAPER_HOSTS

SCRIPT = Path(__file__).parents[2] / "examples" / "paper_table.py"
TRAINED = {"train_epochs": 1}
SETTINGS = {
    "simplecil": {},
    "ranpac": {"n_random_features": 20},
    "l2p": {"train_epochs": 2, "size": 4, "top_k": 2, "length": 2},
    "dualprompt": TRAINED,
    "ease": {**TRAINED, "bottleneck": 4},
    "slca": {**TRAINED, "align_epochs": 1, "samples_per_class": 8},
}
CONFIG = RunConfig(experiences=3, mist_args=MIST)


@pytest.fixture
def tiny_estimate(monkeypatch):
    monkeypatch.setattr(estimates, "BENCHMARKS", {"glyphs": tiny})
    with tiny_benchmark():
        yield


@pytest.mark.usefixtures("tiny_estimate")
@pytest.mark.parametrize("mist", [None, {}, {"tune_on": "every"}, {"projection_epochs": 1}])
@pytest.mark.parametrize("host", PAPER_HOSTS)
def test_images_are_those_that_a_run_passes_through_its_backbone(
    host, mist, tmp_path, monkeypatch, recwarn
):
    if host in ("l2p", "dualprompt") and mist == {"tune_on": "every"}:
        pytest.skip("it refuses that")
    config = replace(CONFIG, strategy=host, strategy_args=SETTINGS[host], mist=mist is not None)
    config = replace(config, mist_args={**MIST, **mist} if mist is not None else {})
    passed, embed = {False: 0, True: 0}, HybridEmbed.forward

    def counted(self, x, *args, **kwargs):
        passed[torch.is_grad_enabled()] += len(x) if len(x) > 1 else 0  # one is a look at shapes
        return embed(self, x, *args, **kwargs)

    monkeypatch.setattr(HybridEmbed, "forward", counted)
    work, heard = estimate(config), []
    monkeypatch.setattr(Meter, "passed", lambda _self, images: heard.append(images))
    run(config, tmp_path, progress=False)
    assert (work.forward, work.backward) == (passed[False], passed[True])
    assert sum(images for images in heard if images not in (1, BACKWARD)) == work.images
    assert work.mist_epochs == (0 if mist is None else 2)
    assert work.epochs == SETTINGS[host].get("train_epochs", 0)


def test_other_hosts_have_no_estimate():
    for config in (
        RunConfig(strategy="ewc"),
        RunConfig(strategy="ranpac", strategy_args={"first_session": "adapter"}),
    ):
        with pytest.raises(ValueError, match="There is an estimate for simplecil, ranpac"):
            estimate(config)


def test_seconds_are_of_an_image_and_more_with_a_gradient():
    forward, both = seconds_an_image(CONFIG)
    assert 0 < forward < both < 1


# ---- examples/paper_table.py --------------------------------------------------------------------


def paper_table(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "settings.json"
    own = {host: {"strategy_args": args} for host, args in SETTINGS.items()}
    own["slca"]["mist_args"] = {"tune_epochs": 1}
    file.write_text(json.dumps(own))
    return file


COMMON = ("--experiences", 3, "--jobs", 1, "--quiet", "--tune-epochs", 2)
OF_MIST = ("--mist-arg", "projection_epochs=0", "--batch-size", 8)


@pytest.mark.usefixtures("tiny_estimate")
def test_the_plan_has_a_line_a_run(settings, tmp_path, monkeypatch, capsys):
    options = "--seeds", 2, "--settings", settings, "--output", tmp_path / "out", "--dry-run"
    paper_table(monkeypatch, *COMMON, *OF_MIST, *options)
    printed = capsys.readouterr().out
    lines = printed.partition("\nhost ")[2].partition("\n\n")[0].splitlines()[2:]
    of_slca = [line.split() for line in lines if line.startswith("slca ")]
    assert [line[:4] for line in of_slca] == [
        ["slca", "-", "0", "1"],
        ["slca", "-", "1", "1"],
        ["slca", "1", "epochs", "0"],
        ["slca", "1", "epochs", "1"],
    ]
    assert len(lines) == 24
    assert re.search(r"An estimate: .* ms an image forward and .* for 24 runs", printed)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("tiny_estimate")
def test_the_table_has_every_host_without_and_with_mist(settings, tmp_path, monkeypatch, capsys):
    options = "--settings", settings, "--output", tmp_path / "out"
    paper_table(monkeypatch, *COMMON, *OF_MIST, *options)
    table = json.loads((tmp_path / "out" / "comparison.json").read_text())
    text = json.dumps(table)
    for host in PAPER_HOSTS:
        for label in (host, f"{host}+mist"):
            assert f'"{label}"' in text
            found = json.loads((tmp_path / "out" / label / "results.json").read_text())
            expected = {**SETTINGS[host], **found["config"]["strategy_args"]}
            assert found["config"]["strategy_args"] == expected
            assert ("mist" in found) == label.endswith("+mist")
    assert found["config"]["mist_args"]["tune_epochs"] == 1
    assert "SLCA + MIST" in capsys.readouterr().out
    paper_table(monkeypatch, *COMMON, *OF_MIST, *options, "--resume")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"ewc": {}}', "has 'ewc'. The hosts are simplecil"),
        ('{"slca": {"lr": 1}}', r"has slca\.lr\. Use strategy_args or mist_args"),
        ('{"slca": {"strategy_args": {"bottleneck": 4}}}', "'slca' has no argument 'bottleneck'"),
        ('{"slca": {"mist_args": {"epochs": 4}}}', "MISTPlugin has no argument 'epochs'"),
        ("{", "is not JSON"),
    ],
)
def test_settings_that_nobody_knows_are_refused(content, message, tmp_path, monkeypatch):
    file = tmp_path / "settings.json"
    file.write_text(content)
    with pytest.raises(SystemExit, match=message):
        paper_table(monkeypatch, "--settings", file, "--dry-run", "--quiet")


def test_the_hosts_are_fixed(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        paper_table(monkeypatch, "--strategies", "ewc", "--dry-run")
    assert "mist-avalanche compare --strategies" in capsys.readouterr().err
