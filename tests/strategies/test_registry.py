import importlib

import pytest

from mist_avalanche.models import create_backbone
from mist_avalanche.strategies import RanPAC
from mist_avalanche.strategies.registry import (
    COMPARED,
    STRATEGIES,
    StrategyInfo,
    arguments_of,
    find,
    load,
)

OWN = """
from mist_avalanche.models import BackboneWithHead, PrototypeHead
from mist_avalanche.strategies import FeatureStrategy

class Mine(FeatureStrategy):
    def __init__(self, *, model, momentum: float = 0.5, **common):
        super().__init__(model=BackboneWithHead(model, PrototypeHead()), **common)

    def fit(self, features, labels):
        self.head.update(features, labels)
"""


def test_what_is_registered():
    assert find("ranpac") is STRATEGIES["ranpac"] is find("mist_avalanche.strategies:RanPAC")
    assert find("ranpac").build is RanPAC
    assert {label.partition("+")[0] for label in COMPARED} <= {*STRATEGIES}
    assert len({info.title for info in STRATEGIES.values()}) == len(STRATEGIES)
    bounds = [name for name, info in STRATEGIES.items() if info.upper_bound]
    assert bounds == ["cumulative", "joint"]
    assert [STRATEGIES[name].has_drift for name in ("simplecil", "ranpac", "naive")] == [1, 1, 0]


def test_settings_of_the_command():
    common = {"train_mb_size", "eval_mb_size", "eval_every", "cache", "joined"}
    assert {*arguments_of(find("simplecil"))} == common
    assert {"n_random_features", "first_session", "seed"} <= arguments_of(find("ranpac")).keys()
    assert "train_epochs" not in arguments_of(find("streaming_lda"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("simplcil", r"Unknown strategy 'simplcil'. Use one of simplecil, "),
        ("nowhere.module:Class", "Cannot load 'nowhere.module:Class'"),
        ("./nowhere.py:Class", "Cannot load './nowhere.py:Class'"),
        ("mist_avalanche:Nothing", "Cannot load 'mist_avalanche:Nothing'"),
        ("avalanche.training.supervised:Replay", "A strategy 'replay' already exists. Rename"),
    ],
)
def test_unknown_names_are_explained(name, message):
    with pytest.raises(ValueError, match=message):
        find(name)


@pytest.mark.parametrize("name", ["./of_a_user.py:Mine", "of_a_user:Mine"])
def test_a_strategy_in_the_working_directory(name, tmp_path, monkeypatch, benchmark_of):
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mist_avalanche.strategies.registry.STRATEGIES", {**STRATEGIES})
    (tmp_path / "of_a_user.py").write_text(OWN)
    info = find(name)
    assert (info.name, info.title, info.tune_on, info.has_drift) == ("mine", "Mine", "every", True)
    assert find("mine") is find(name) is info
    assert {"momentum", "train_mb_size", "cache"} <= arguments_of(info).keys()
    strategy = info.build(model=create_backbone(), plugins=[], evaluator=None)
    strategy.train(benchmark_of().train_stream)
    assert strategy.head.seen.all()
    with pytest.raises(TypeError, match="momentm"):
        info.build(model=create_backbone(), momentm=0.1)


@pytest.mark.parametrize("postponed", ["", "from __future__ import annotations"])
@pytest.mark.parametrize("module", ["typing", "typing_extensions"])
def test_typed_arguments_of_ones_own(tmp_path, module, postponed):
    if not hasattr(importlib.import_module(module), "Unpack"):
        pytest.skip("typing has no Unpack yet")
    (tmp_path / "own.py").write_text(f"""{postponed}
from {module} import Unpack
from mist_avalanche.strategies import SimpleCIL
from mist_avalanche.strategies.feature_based import FeatureCommon

class Own(SimpleCIL):
    def __init__(self, *, model, width: int = 3, **common: Unpack[FeatureCommon]) -> None:
        super().__init__(model=model, **common)
""")
    known = arguments_of(StrategyInfo("own", "Own", load(f"{tmp_path / 'own.py'}:Own")))
    assert known == {"width": 3, **arguments_of(find("simplecil"))}
