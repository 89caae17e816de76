"""What can go wrong, and what a user then sees.

``python tests/reliability.py`` tries everything and writes ``docs/reliability.md``.
"""

import errno
import io
import json
import os
import re
import signal
import tempfile
import warnings
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import cache
from itertools import count
from pathlib import Path
from unittest import mock

import torch
from avalanche.benchmarks.scenarios.deprecated.generators import nc_benchmark
from avalanche.training.plugins import ReplayPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from conftest import Images
from full_disk import FullDisk
from PIL import Image
from safetensors.torch import save_file
from tiny_runs import MIST as TINY
from tiny_runs import results, tiny_benchmark
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche._support.checksummed import read_checksummed, write_checksummed
from mist_avalanche._support.disk import only_one
from mist_avalanche.benchmarks import SplitImageNetR
from mist_avalanche.cli import command as cli
from mist_avalanche.deltas.delta import apply_delta, save_delta
from mist_avalanche.models.backbones import create_backbone, tiny_vit
from mist_avalanche.reports import report
from mist_avalanche.reports.page import write_page
from mist_avalanche.runs import runner
from mist_avalanche.runs.checkpoint import Checkpoint
from mist_avalanche.runs.prediction import HEAD
from mist_avalanche.strategies import RanPAC, SimpleCIL

DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"
QUICK = {"tune_epochs": 1, "batch_size": 8, "lr": 0.01, "verbose": False, "seed": 0}
N_CLASSES = 4


def stream(x=None, y=None, n_experiences=2, n_classes=N_CLASSES):
    """A training and test stream of images x and labels y; by default eight of each class."""
    if x is None:
        y = torch.arange(n_classes).repeat_interleave(8)
        x = torch.rand(len(y), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return nc_benchmark(Images(x, y), Images(x, y), n_experiences, task_labels=False, shuffle=False)


def tune(made=None, model=None, strategy=SimpleCIL, plugins=(), **changes):
    """MIST before the first experience of a stream."""
    mist = MISTPlugin(**{**QUICK, **changes})
    host = strategy(model=model or create_backbone(), plugins=[mist, *plugins], evaluator=None)
    host.train((made or stream()).train_stream[0])


def spoilt_images(value):
    made = torch.rand(32, 3, 32, 32)
    made[3, 1, 5, 5] = value
    return stream(made, torch.arange(N_CLASSES).repeat_interleave(8))


def nan_image(folder):
    tune(spoilt_images(float("nan")))


def inf_image(folder):
    tune(spoilt_images(float("inf")))


def nan_weight(folder):
    backbone = create_backbone()
    backbone.blocks[1].mlp.fc1.weight.data[0, 0] = float("nan")
    tune(model=backbone)


def nan_features_without_mist(folder):
    backbone = create_backbone()
    backbone.fc_norm.bias.data[0] = float("inf")
    SimpleCIL(model=backbone, evaluator=None).train(stream().train_stream[0])


def loss_explodes(folder):
    tune(lr=1e30, tune_epochs=5)


def host_loss_explodes(folder):
    class Spoil(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            strategy.loss = strategy.loss * float("inf")

    model = tiny_vit(num_classes=N_CLASSES)
    mist = MISTPlugin(**{**QUICK, "tune_epochs": 0, "lr": MISTPlugin().options.lr})
    host = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        plugins=[Spoil(), mist],
        evaluator=None,
    )
    host.train(stream().train_stream[0])


def one_image(folder):
    x, y = torch.rand(2, 3, 32, 32), torch.arange(2)
    tune(stream(x, y, n_experiences=2))


def no_images(folder):
    empty = stream().train_stream[0]
    empty.dataset = empty.dataset.subset([])
    SimpleCIL(model=create_backbone(), evaluator=None).train(empty)


def no_images_for_mist(folder):
    empty, model = stream().train_stream[0], tiny_vit(num_classes=N_CLASSES)
    empty.dataset = empty.dataset.subset([])
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    Naive(model=model, optimizer=sgd, plugins=[MISTPlugin(**QUICK)], evaluator=None).train(empty)


def one_class(folder):
    tune(stream(n_experiences=4))


def label_below_zero(folder):
    head = SimpleCIL(model=create_backbone(), evaluator=None).head
    head.update(torch.rand(2, 96), torch.tensor([-1, 0]))


def label_beyond_the_classifier(folder):
    model = tiny_vit(num_classes=2)
    host = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        plugins=[MISTPlugin(**QUICK)],
        evaluator=None,
    )
    host.train(stream().train_stream[1])


def images_of_one_channel(folder):
    y = torch.arange(N_CLASSES).repeat_interleave(8)
    tune(stream(torch.rand(32, 1, 32, 32), y))


def images_of_another_size(folder):
    y = torch.arange(N_CLASSES).repeat_interleave(8)
    tune(stream(torch.rand(32, 3, 40, 40), y))


def frozen_backbone(folder):
    tune(model=create_backbone().requires_grad_(False))


def evaluation_before_training(folder):
    RanPAC(model=create_backbone(), evaluator=None).eval(stream().test_stream)


def no_such_classifier(folder):
    tune(classifier="fc")


def memory_runs_out_while_tuning(folder):
    class Full(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = create_backbone()

        def forward(self, x):
            if len(x) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self.backbone(x)

    tune(model=Full())


def memory_runs_out_while_evaluating(folder):
    backbone = create_backbone()

    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    host = SimpleCIL(model=backbone, evaluator=None)
    backbone.register_forward_pre_hook(full)
    host.train(stream().train_stream[0])


def command(*arguments):
    """What the command says to a user."""
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        code = cli.main([*arguments])
    raise _Said(f"exit {code}: {errors.getvalue().strip()}")


class _Said(Exception):
    pass


def run_command(folder, *arguments, output="out"):
    with tiny_benchmark():
        command("run", "--quiet", "--output", str(folder / output), *arguments)


def no_gpu(folder):
    run_command(folder, "--device", "cuda")


def no_such_option(folder):
    run_command(folder, "--mist", "--mist-arg", "select_rate=7")


def no_weights_file(folder):
    run_command(folder, "--weights", str(folder / "vit.npz"))


def weights_of_another_model(folder):
    save_file({"a": torch.zeros(2)}, folder / "other.safetensors")
    run_command(folder, "--weights", str(folder / "other.safetensors"))


def weights_that_run_code(folder):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch /tmp/should-not-be",)

    torch.save({"w": Evil()}, folder / "evil.pth")
    create_backbone("vit_tiny_patch16_224", folder / "evil.pth")


def no_network(folder):
    with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
        create_backbone("vit_base_patch16_224")


def output_is_a_file(folder):
    (folder / "out").write_text("")
    run_command(folder)


def output_cannot_be_written(folder):
    refused = PermissionError(errno.EACCES, "Permission denied", "out")
    with mock.patch.object(Path, "mkdir", side_effect=refused):
        run_command(folder)


def disk_is_read_only(folder):
    refused = OSError(errno.EROFS, "Read-only file system")
    with mock.patch("os.open", side_effect=refused):
        run_command(folder)


def checkpoints_are_a_file(folder):
    (folder / "out").mkdir()
    (folder / "out" / "checkpoints").write_text("")
    run_command(folder)


def disk_is_full(folder):
    with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        report.write_json({"a": 1}, folder / "results.json")


def damaged_results(folder):
    (folder / "out").mkdir()
    (folder / "out" / "results.json").write_text('{"schema": 1, "config": {')
    run_command(folder, "--resume")


def results_of_other_settings(folder):
    (folder / "out").mkdir()
    earlier = {
        **results(),
        "schema": 1,
        "config": {"seed": 3},
        "environment": {"mist_avalanche": "0"},
    }
    (folder / "out" / "results.json").write_text(json.dumps(earlier))
    run_command(folder, "--resume")


def settings_file_that_is_none(folder):
    (folder / "settings.json").write_text("[1, 2]")
    command("run", "--quiet", "--config", str(folder / "settings.json"))


def photographs(folder):
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            inner = folder / "imagenet-r" / split / name
            inner.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (40, 40), (i, 0, 0)).save(inner / f"{i}.png")
    return folder


def broken_image(folder):
    photographs(folder)
    (folder / "imagenet-r" / "train" / "ant" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    list(SplitImageNetR(1, dataset_root=folder).train_stream[0].dataset)


def missing_dataset(folder):
    SplitImageNetR(dataset_root=folder)


def small_run(folder, *arguments):
    """The command ``run`` on three experiences, to its end."""
    errors = io.StringIO()
    with tiny_benchmark(), redirect_stderr(errors), redirect_stdout(io.StringIO()):
        fixed = ("--jobs", "1", "--quiet", "--output", str(folder))
        code = cli.main(["run", *fixed, *arguments])
    if code:
        raise _Said(f"exit {code}: {errors.getvalue().strip()}")


MIST = ("--mist", "--checkpoint-every", "0")
MIST += tuple(part for k, v in TINY.items() for part in ("--mist-arg", f"{k}={v}"))


def numbers(folder):
    """What a run computed, and the bytes of its classifier."""
    results = json.loads((folder / "results.json").read_text())
    assert not (folder / "checkpoints").exists()
    return results["metrics"], results["accuracy"], (folder / HEAD).read_bytes()


@cache
def whole(*arguments):
    """The numbers of a run that was not interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        small_run(Path(folder), *arguments)
        return numbers(Path(folder))


def what_is_said(act, *arguments):
    """What is said of something that does not work, or is warned of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            act(*arguments)
        except _Said as said:
            return str(said)
    return "; ".join(f"warning: {w.message}" for w in seen if "mist_avalanche" in w.filename)


def stopped(folder, at=1, *arguments):
    """A run whose disk is full when it saves an experience; what is said."""
    with FullDisk("replace", at + 1):
        return what_is_said(small_run, folder, *arguments)


def resumed(folder, *arguments):
    """Resume a run in a folder; whether its numbers are as they would have been."""
    small_run(folder, "--resume", *arguments)
    assert numbers(folder) == whole(*arguments)
    return "the numbers of a run that was not interrupted"


def disk_is_full_then_room_is_made(folder):
    return f"{stopped(folder)} Then, with --resume: {resumed(folder)}"


def disk_is_full_at_the_end(folder):
    with FullDisk() as disk:
        small_run(folder / "whole")
    said = stopped(folder / "run", disk.calls["replace"] - 1)
    return f"{said} Then, with --resume: {resumed(folder / 'run')}"


def resume_without_a_run(folder):
    return f"it starts: {resumed(folder)}"


def anew_where_one_is_finished(folder):
    small_run(folder, "--seed", "1")
    stopped(folder, 1, "--overwrite")
    return f"the later one goes on: {resumed(folder)}"


def spaces_and_unicode(folder):
    odd = folder / "Läufe, mit Leerzeichen 結果"
    stopped(odd)
    return f"it works, with --resume too: {resumed(odd)}"


def clock_goes_backwards(folder):
    whole()
    ticks = count(0.0, -1.0)
    names = ("time", "monotonic", "perf_counter")
    with ExitStack() as patches:
        for name in names:
            patches.enter_context(mock.patch(f"time.{name}", side_effect=ticks))
        small_run(folder)
    assert numbers(folder) == whole()
    return "the numbers of any other clock, except the seconds"


def newest_checkpoint_is_damaged(folder):
    stopped(folder, at=2)
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    said = what_is_said(resumed, folder)
    assert numbers(folder) == whole()
    return f"{said} Then the numbers of a run that was not interrupted"


def checkpoints_of_a_tuning_are_damaged(folder):
    told_to_stop_while_tuning(folder, signal.SIGINT)
    for file in (folder / "checkpoints").glob("tuning-*"):
        file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    said = what_is_said(resumed, folder, *MIST)
    assert numbers(folder) == whole(*MIST)
    return f"{said} Then the numbers of a run that was not interrupted"


def all_checkpoints_are_damaged(folder):
    stopped(folder)
    for file in (folder / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[1:])
    small_run(folder, "--resume")


def rewritten(folder, change):
    """A run that was stopped, and its checkpoint with other contents and a right checksum."""
    stopped(folder)
    (file,) = (folder / "checkpoints").iterdir()
    content = read_checksummed(file)
    change(content)
    write_checksummed(content, file)
    small_run(folder, "--resume")


def checkpoint_of_another_version(folder):
    rewritten(folder, lambda content: content.update(format=99))


def checkpoint_that_names_a_function(folder):
    rewritten(folder, lambda content: content.update(strategy=os.system))


def checkpoint_of_other_settings(folder):
    stopped(folder)
    small_run(folder, "--resume", "--seed", "3", "--strategy", "ranpac")


def checkpoint_of_another_backbone(folder):
    other = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    Checkpoint(folder, SimpleCIL(model=create_backbone(), evaluator=None), stream()).load()
    Checkpoint(folder, SimpleCIL(model=other, evaluator=None), stream()).load()


def checkpoint_of_another_strategy(folder):
    made, model = stream(), tiny_vit(num_classes=N_CLASSES)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    Checkpoint(folder, SimpleCIL(model=create_backbone(), evaluator=None), made).load()
    Checkpoint(folder, Naive(model=model, optimizer=sgd, evaluator=None), made).load()


def something_that_cannot_be_saved(folder):
    host = SimpleCIL(model=create_backbone(), plugins=[ReplayPlugin(4)], evaluator=None)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Checkpoint(folder, host, stream())
    return f"warning: {seen[-1].message}"


def resumed_without_a_checkpoint(folder):
    replay = "--strategy", "replay", "--strategy-arg", "train_epochs=1"
    stopped(folder, 0, *replay)
    with mock.patch.object(runner.log, "warning") as said:
        resumed(folder, *replay)
    return said.call_args.args[0] % said.call_args.args[1:]


def values_that_are_not_json(folder):
    host = SimpleCIL(model=create_backbone(), evaluator=None)
    Checkpoint(folder, host, stream()).load([torch.ones(2)])


def second_run_in_a_folder(folder):
    with only_one(folder, "run"):
        small_run(folder)


def told_to_stop(folder, number):
    def save(checkpoint, values):
        original(checkpoint, values)
        os.kill(os.getpid(), number)

    original = Checkpoint._save
    with mock.patch.object(Checkpoint, "_save", save):
        small_run(folder)


def sigterm(folder):
    told_to_stop(folder, signal.SIGTERM)


def ctrl_c(folder):
    told_to_stop(folder, signal.SIGINT)


def told_to_stop_while_tuning(folder, number):
    """What is said of a signal in a step of tuning, by its handler and at the end."""

    def after_step(*arguments):
        os.kill(os.getpid(), number)
        original(*arguments)

    original, stderr = Checkpoint.after_step, os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with mock.patch.object(Checkpoint, "after_step", after_step):
                said = what_is_said(small_run, folder, *MIST)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        return f"{file.read().decode()} {said}"


def sigterm_while_tuning(folder):
    said = told_to_stop_while_tuning(folder, signal.SIGTERM)
    return f"{said}. Then, with --resume: {resumed(folder, *MIST)}"


def names_with_formulas(folder):
    write_page({r"$\nothing$ & $": [results(mist=True)]}, folder / "report.html", "a")
    assert r"$\nothing$ &amp; $" in (folder / "report.html").read_text()
    return "shown as they are, and not read as formulas"


def names_with_tags(folder):
    quoted = folder / "<b>&'\""
    small_run(quoted)
    whole = json.loads((quoted / "results.json").read_text())
    whole["config"]["strategy"] = "<script>alert(1)</script>"
    write_page({"<img src=x>": [whole]}, folder / "report.html", "</title><script>")
    page = (folder / "report.html").read_text()
    assert "<img src=x>" not in page
    assert "alert(1)</script>" not in page
    assert "&lt;img src=x&gt;" in page
    return "shown as they are, never run"


def worker_killed(folder):
    photographs(folder)

    def transform(image):
        if torch.utils.data.get_worker_info():
            os._exit(9)
        return torch.zeros(3, 32, 32)

    made = SplitImageNetR(1, dataset_root=folder, image_size=32, train_transform=transform)
    mist = MISTPlugin(**QUICK)
    host = SimpleCIL(model=create_backbone(), plugins=[mist], evaluator=None)
    host.train(made.train_stream[0], num_workers=1)


def delta_of_another_base(folder):
    base, tuned, other = (create_backbone() for _ in range(3))
    tuned.fc_norm.bias.data[0] += 1
    other.fc_norm.bias.data[1] += 1
    save_delta(tuned, base, folder / "tuned.safetensors")
    apply_delta(other, folder / "tuned.safetensors")


def settings_with_a_key_twice(folder):
    (folder / "settings.json").write_text('{"seed": 1, "seed": 2}')
    command("run", "--quiet", "--config", str(folder / "settings.json"))


def settings_nested_too_deeply(folder):
    (folder / "settings.json").write_text("[" * 100_000 + "]" * 100_000)
    command("run", "--quiet", "--config", str(folder / "settings.json"))


def delta_with_header(folder, header):
    text = json.dumps(header) if isinstance(header, dict) else header
    file = folder / "made-up.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(16))
    command("delta", "info", str(file))


def delta_of_a_huge_shape(folder):
    entry = {"dtype": "U8", "shape": [2**50], "data_offsets": [0, 2**50]}
    delta_with_header(folder, {"values": entry})


def delta_nested_too_deeply(folder):
    delta_with_header(folder, "[" * 100_000 + "]" * 100_000)


def delta_with_nan_in_its_settings(folder):
    base, tuned = create_backbone(), create_backbone()
    save_delta(tuned, base, folder / "tuned.safetensors", settings={"lr": 0.5})
    file = folder / "tuned.safetensors"
    file.write_bytes(file.read_bytes().replace(b"0.5", b"NaN"))
    command("delta", "info", str(file))


def delta_with_wrong_offsets(folder):
    entry = {"dtype": "U8", "shape": [8], "data_offsets": [4, 12]}
    delta_with_header(folder, {"values": entry})


def delta_with_a_key_twice(folder):
    delta_with_header(folder, '{"__metadata__": {}, "__metadata__": {}}')


def delta_with_nan(folder):
    delta_with_header(folder, '{"values": NaN}')


def delta_cut_short(folder):
    base, tuned = create_backbone(), create_backbone()
    tuned.fc_norm.bias.data[0] += 1
    file = folder / "tuned.safetensors"
    save_delta(tuned, base, file)
    file.write_bytes(file.read_bytes()[:-1])
    apply_delta(base, file)


CASES = {
    "Images, labels, experiences": {
        "a NaN in an image": nan_image,
        "an Inf in an image": inf_image,
        "an experience without images": no_images,
        "one for another strategy with MIST": no_images_for_mist,
        "an experience with one image": one_image,
        "an experience with one class": one_class,
        "a label below 0": label_below_zero,
        "a label beyond the classifier": label_beyond_the_classifier,
        "images of one channel": images_of_one_channel,
        "images of another size": images_of_another_size,
        "an image file that is broken": broken_image,
        "no copy of a dataset": missing_dataset,
    },
    "Models and training": {
        "a NaN weight": nan_weight,
        "Inf features without MIST": nan_features_without_mist,
        "a learning rate that is too large": loss_explodes,
        "a strategy's own loss that is not finite": host_loss_explodes,
        "a backbone that is frozen": frozen_backbone,
        "no classifier of that name": no_such_classifier,
        "evaluation before training": evaluation_before_training,
    },
    "The machine": {
        "memory runs out while tuning": memory_runs_out_while_tuning,
        "memory runs out in a pass": memory_runs_out_while_evaluating,
        "a GPU was asked for and there is none": no_gpu,
        "a worker of a data loader is killed": worker_killed,
        "the output folder is a file": output_is_a_file,
        "the output folder may not be written": output_cannot_be_written,
        "the output folder is on a disk that is read only": disk_is_read_only,
        "a file where the checkpoints should be": checkpoints_are_a_file,
        "the disk is full": disk_is_full,
        "the hub is out of reach": no_network,
    },
    "Settings and files": {
        "a rate that is none": no_such_option,
        "results.json is damaged": damaged_results,
        "results of other settings": results_of_other_settings,
        "a settings file that is none": settings_file_that_is_none,
        "no weights file": no_weights_file,
        "weights of another model": weights_of_another_model,
        "weights that would run code": weights_that_run_code,
        "a delta of another base": delta_of_another_base,
        "settings with a key twice": settings_with_a_key_twice,
        "settings nested 100 000 deep": settings_nested_too_deeply,
        "a delta that was cut short": delta_cut_short,
        "a delta with a tensor of a petabyte": delta_of_a_huge_shape,
        "a delta with wrong offsets": delta_with_wrong_offsets,
        "a delta with a key twice": delta_with_a_key_twice,
        "a delta with NaN in its header": delta_with_nan,
        "a delta with NaN in its settings": delta_with_nan_in_its_settings,
        "a delta nested 100 000 deep": delta_nested_too_deeply,
        "names with formulas in them, in pictures": names_with_formulas,
        "names with HTML in them, in the report": names_with_tags,
    },
    "Stopped and resumed": {
        "SIGTERM": sigterm,
        "Ctrl-C": ctrl_c,
        "SIGTERM in a step of tuning": sigterm_while_tuning,
        "the disk is full in a run, then room is made": disk_is_full_then_room_is_made,
        "the disk is full at the end of a run": disk_is_full_at_the_end,
        "--resume where nothing was started": resume_without_a_run,
        "--resume after a finished run and a later, stopped one": anew_where_one_is_finished,
        "an output folder with spaces and unicode": spaces_and_unicode,
        "a clock that goes backwards": clock_goes_backwards,
        "the newest checkpoint is damaged": newest_checkpoint_is_damaged,
        "the checkpoints of a tuning are damaged": checkpoints_of_a_tuning_are_damaged,
        "all checkpoints are damaged": all_checkpoints_are_damaged,
        "a checkpoint of another version": checkpoint_of_another_version,
        "a checkpoint that names a function to run": checkpoint_that_names_a_function,
        "a checkpoint of other settings": checkpoint_of_other_settings,
        "a checkpoint of another strategy": checkpoint_of_another_strategy,
        "a checkpoint of another backbone": checkpoint_of_another_backbone,
        "a plugin that keeps state and cannot save it": something_that_cannot_be_saved,
        "--resume of a strategy that cannot save its state": resumed_without_a_checkpoint,
        "values that are not JSON": values_that_are_not_json,
        "a second run in the same folder": second_run_in_a_folder,
    },
}
ALL = [(table, name) for table, cases in CASES.items() for name in cases]


@cache
def message(table, name):
    """What the user sees: the error's kind and text, without the folder's name."""
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            text = CASES[table][name](Path(made))
        except _Said as said:
            text = str(said)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        if text is None:
            return None
        text = re.sub(r"pid\(s\) \d+", "pid(s) N", text.replace(made, "DIR"))
        return " ".join(text.split())


def document():
    """docs/reliability.md."""
    lines = [
        "# What goes wrong, and what is said",
        "",
        "Written by `python tests/reliability.py` and compared with every run of the tests. Each "
        "row was tried. Where a step or a write fails, weights and files are as they were before.",
    ]
    for table, cases in CASES.items():
        lines += ["", f"## {table}", "", "| what | what is said |", "| --- | --- |"]
        lines += [f"| {name} | {message(table, name).replace('|', '/')} |" for name in cases]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with redirect_stdout(io.StringIO()):
        text = document()
    DOCUMENT.write_text(text)
