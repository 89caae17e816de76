"""Methods and seeds: the same numbers side by side, and failures that leave the others."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_model
from tiny_runs import config, tiny

from mist_avalanche.models import create_backbone
from mist_avalanche.reports import table
from mist_avalanche.runs import RunConfig, launchers, load_run, run, run_methods
from mist_avalanche.runs.build import digests_of, make_benchmark
from mist_avalanche.runs.config_files import read_config
from mist_avalanche.runs.results import why_missing
from mist_avalanche.runs.run_methods import default_jobs
from mist_avalanche.strategies import SimpleCIL

OWN = """
from mist_avalanche.strategies import SimpleCIL

class Failing(SimpleCIL):
    def fit(self, features, labels):
        if labels.max() > 2:
            raise ValueError("no more\\nthan two classes")
        super().fit(features, labels)
"""


class Stop(Exception):
    """In place of Ctrl-C."""


def test_seeds_have_folders(tmp_path):
    methods = [(config(), tmp_path / "a"), (config(mist=True), tmp_path / "b")]
    found = run_methods(methods, 2, vary_order=True)
    for results, name in zip(found, "ab", strict=True):
        assert [r["config"]["seed"] for r in results] == [0, 1]
        assert [r["config"]["order_seed"] for r in results] == [1993, 1994]
        assert json.loads((tmp_path / name / "seed-1" / "results.json").read_text()) == results[1]
    again = run_methods(methods, 2, vary_order=True, resume=True)
    assert again == found


def test_side_by_side_with_a_strategy_of_ones_own_that_fails(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    settings = [config(mist=True), config("./mine.py:Failing")]
    methods = [(one, tmp_path / one.label) for one in settings]
    found = run_methods(methods, jobs=2, loggers=["csv"])
    assert [len(results) for results in found] == [1, 0]
    assert why_missing(tmp_path / "failing") == "failed: ValueError: no more\nthan two classes"
    assert (methods[0][1] / "metrics.csv").is_file()
    assert "Traceback" in (tmp_path / "failing" / "error.txt").read_text()
    alone = run(settings[0], tmp_path / "alone")
    assert found[0][0]["accuracy"] == alone["accuracy"]
    assert found[0][0]["mist"] == alone["mist"]


def test_where_all_fail_the_first_error_is_raised(tmp_path):
    failing = mock.patch.object(SimpleCIL, "fit", side_effect=ValueError("no images"))
    with failing, pytest.raises(RuntimeError, match="no images"):
        run_methods([(config(), tmp_path)], 2)
    assert len([*tmp_path.rglob("error.txt")]) == 2
    run_methods([(config(), tmp_path)], 2, resume=True)
    assert not [*tmp_path.rglob("error.txt")]


def test_nothing_starts_where_one_run_cannot(tmp_path, monkeypatch):
    methods = [(config(mist=mist), tmp_path / str(mist)) for mist in (False, True)]
    run(methods[1][0], methods[1][1])
    monkeypatch.setattr(launchers, "_attempt", None)
    with pytest.raises(ValueError, match="finished run"):
        run_methods(methods)
    changed = [methods[0], (config(mist=True, mist_args={"tune_epochs": 1}), methods[1][1])]
    with pytest.raises(ValueError, match=r"mist_args: .*tune_epochs"):
        run_methods(changed, resume=True)
    for n_seeds, jobs, named in ((0, 1, "n_seeds"), (1, 0, "jobs")):
        with pytest.raises(ValueError, match=named):
            run_methods(methods, n_seeds, jobs=jobs, overwrite=True)
    assert (methods[1][1] / "results.json").exists()  # nothing is removed before the checks
    assert 1 <= default_jobs("cpu") <= 8


def test_overwriting_removes_a_run_when_its_turn_comes(tmp_path):
    methods = [(config(), tmp_path / name) for name in "ab"]
    run_methods(methods)
    stopped = mock.patch.object(SimpleCIL, "fit", side_effect=KeyboardInterrupt)
    with stopped, pytest.raises(KeyboardInterrupt):
        run_methods(methods, overwrite=True)
    assert [why_missing(folder) for _, folder in methods] == ["is not finished", None]


def test_stopping_ends_the_workers(tmp_path, monkeypatch):
    pools = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            pools.append(self)

        def submit(self, *arguments, **options):
            super().submit(*arguments, **options)
            self.workers = list(self._processes.values())
            raise KeyboardInterrupt

    monkeypatch.setattr(launchers, "ProcessPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        run_methods([(config(), tmp_path / name) for name in "ab"], jobs=2)
    assert not any(worker.is_alive() for worker in pools[0].workers)


# ---- Data and weights that change under a result -------------------------------------------------


def photos(root, classes=("ant", "bee", "cat", "dog"), n=6):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            noise = np.random.default_rng([c, i]).normal([50 * c, 255 - 50 * c, 90], 9, (32, 32, 3))
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def on_photos(root, strategy="simplecil", **settings):
    settings = {"dataset_root": str(root), "normalize": "none", **settings}
    return RunConfig("folder", strategy, experiences=2, **settings)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda root: photos(root, n=7), "test_images.*training_images"),
        (lambda root: photos(root, ["elk", "fox"]), "class_names.*test_images"),
        (lambda root: (root / "bee").rename(root / "boa"), "class_names.*test_images"),
        (lambda root: (root / "ant/0.png").write_bytes(b""), "(test|training)_images"),
    ],
)
def test_results_of_other_images_are_refused(tmp_path, change, differs):
    root = photos(tmp_path / "photos")
    first, others = (on_photos(root), tmp_path / "a"), (on_photos(root, "ranpac"), tmp_path / "b")
    run_methods([first], 2)
    assert len(run_methods([first, others], 2, resume=True)) == 2
    change(root)
    with pytest.raises(ValueError, match=f"{differs}: .* there, .*--overwrite"):
        run_methods([first], 3, resume=True)


def test_checkpoints_of_other_images_are_refused(tmp_path):
    settings = on_photos(photos(tmp_path / "photos"))
    with (
        mock.patch.object(SimpleCIL, "eval", side_effect=[{}, Stop]),
        mock.patch.dict(run.__globals__, _correct=lambda *_: 0),
        pytest.raises(Stop),
    ):
        run(settings, tmp_path / "run")
    photos(tmp_path / "photos", n=7)
    with pytest.raises(ValueError, match=r"training_images: .* there, .* here"):
        run(settings, tmp_path / "run", resume=True)


def test_results_of_other_weights_are_refused(tmp_path):
    model, file = create_backbone(), tmp_path / "weights.safetensors"
    save_model(model, file)
    one = config(weights=str(file)), tmp_path / "run"
    run_methods([one])
    assert run_methods([one], resume=True)
    model.blocks[0].attn.qkv.weight.data.mul_(1.01)
    save_model(model, file)
    with pytest.raises(ValueError, match=r"backbone: \w{8} there, \w{8} here"):
        run_methods([one], resume=True)
    with pytest.raises(ValueError, match=r"backbone: \w{8} there, \w{8} here"):
        run(*one, resume=True)


def test_finished_runs_are_kept_where_the_data_are_gone(tmp_path, caplog):
    one = on_photos(photos(tmp_path / "photos")), tmp_path / "run"
    found = run_methods([one])
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert run_methods([one], resume=True) == found
    assert "Finished runs are accepted without a check" in caplog.text


def test_runs_of_other_images_do_not_stand_in_one_table(tmp_path):
    methods = {}
    for n in (6, 7):
        settings = on_photos(photos(tmp_path / "photos", n=n), seed=n)
        methods[f"photos {n}"] = [run(settings, tmp_path / f"{n}")]
    with pytest.raises(ValueError, match=r"seed 6 and photos 7, seed 7 .*training_images"):
        table(methods)
    with pytest.raises(ValueError, match="photos, seed 6 and photos, seed 7"):
        table({"photos": [*methods["photos 6"], *methods["photos 7"]]})


OWN_BENCHMARK = """
import torch
from avalanche.benchmarks import benchmark_from_datasets
from mist_avalanche.benchmarks import SplitFolder

def make(n_experiences, *, seed=0):
    found = SplitFolder(n_experiences, dataset_root="photos", normalize=None, image_size=32)
    del found.digests
    return found

def seedless(n_experiences):
    return make(n_experiences)
"""


def test_code_and_images_of_ones_own_that_change_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    for name, text in (("own", OWN), ("data", OWN_BENCHMARK)):
        (tmp_path / f"{name}.py").write_text(text)
    settings = RunConfig("./data.py:make", "./own.py:Failing", experiences=4, first=1)
    run(settings, "run")
    run(settings, "run", resume=True)
    (tmp_path / "own.py").write_text(f"{OWN}\n# changed\n")
    with pytest.raises(ValueError, match=r"code: \w+ there, \w+ here"):
        run(settings, "run", resume=True)
    (tmp_path / "own.py").write_text(OWN)
    for file in (tmp_path / "photos").rglob("0.png"):
        Image.new("RGB", (32, 32), "white").save(file)
    with pytest.raises(ValueError, match=r"(test|training)_images: .* there, .* here"):
        run(settings, "run", resume=True)
    with pytest.raises(ValueError, match=r"seedless' takes no 'seed'"):
        run(RunConfig("./data.py:seedless", experiences=4, order_seed=7), "other")


def test_images_of_ones_own_must_fit_the_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    (tmp_path / "data.py").write_text(OWN_BENCHMARK)
    settings = RunConfig("./data.py:make", experiences=4, backbone="resnet18", image_size=64)
    with pytest.raises(ValueError, match=r"no argument 'normalize'.*--normalize none"):
        run(settings, "run")
    with pytest.raises(ValueError, match=r"32 pixels per side, not the 64.*--image-size 32"):
        make_benchmark(replace(settings, normalize="none"))


def test_code_that_changes_under_a_stopped_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"own": "import first\n" + OWN, "first": "from second import N"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "second.py").write_text("N = 1")
    with pytest.raises(ValueError, match="no more"):  # in the second of three experiences
        run(config("./own.py:Failing"), "run")
    (tmp_path / "second.py").write_text("N = 2")
    with pytest.raises(ValueError, match=r"code: \w+ there, \w+ here"):
        run(config("./own.py:Failing"), "run", resume=True)
    (tmp_path / "second.py").write_text("N = 1")
    with pytest.raises(ValueError, match="no more"):
        run(config("./own.py:Failing"), "run", resume=True)
    (tmp_path / "own.py").write_text(OWN.replace("> 2", "> 9"))
    with pytest.raises(ValueError, match=r"code: \w+ there, \w+ here"):
        run(config("./own.py:Failing"), "run", resume=True)


def test_position_embeddings_count_as_weights():
    benchmark, model = tiny(), create_backbone()
    before = digests_of(benchmark, model)["backbone"]
    assert digests_of(benchmark, create_backbone())["backbone"] == before
    model.pos_embed.data.mul_(1.01)
    assert digests_of(benchmark, model)["backbone"] != before


def test_seeds_of_other_images_do_not_stand_in_one_mean(tmp_path):
    runs = []
    for n in (6, 7):
        settings = on_photos(photos(tmp_path / "photos", n=n), seed=n, order_seed=n)
        runs.append(run(settings, tmp_path / f"{n}"))
    with pytest.raises(ValueError, match="training_images differ"):
        table({"simplecil": runs})


def test_a_run_that_is_repeated_on_other_images_says_so(tmp_path, caplog):
    run(on_photos(photos(tmp_path / "photos")), tmp_path / "run")
    read_config(tmp_path / "run" / "results.json", {})
    assert "differ" not in caplog.text
    photos(tmp_path / "photos", n=7)
    read_config(tmp_path / "run" / "results.json", {})
    assert "test_images, training_images differ" in caplog.text


def test_the_classifier_of_another_run_is_refused(tmp_path):
    for seed in (0, 1):
        run(config(seed=seed), tmp_path / f"{seed}")
    (tmp_path / "0" / "checkpoint.pt").replace(tmp_path / "1" / "checkpoint.pt")
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        load_run(tmp_path / "1")
