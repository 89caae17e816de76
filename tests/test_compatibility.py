"""Every row of docs/compatibility.md, proven; tests/compatibility.py says what is run."""

import pytest
from avalanche.training import plugins, supervised
from avalanche.training.templates import SupervisedTemplate
from compatibility import ABSENT, CASES, DOCUMENT, STRATEGIES, document, outcome

REFUSED = ("ICaRL", "SCR", "PackNet", "ExpertGateStrategy", "PNNStrategy", "AETraining")
FAILING = ("GSS_greedy", "BiC", "LearningToPrompt", "LaMAML")


@pytest.mark.parametrize(("table", "name"), CASES)
def test_runs_or_says_why_not(table, name):
    refused = name in (*REFUSED, "VAETraining")
    expected = "refused" if refused else "fails in Avalanche" if name in FAILING else "runs"
    result, reason = outcome(table, name)
    assert (result, bool(reason) or result == "runs") == (expected, True), reason


def test_nothing_that_avalanche_exports_is_left_out():
    exported = {
        name
        for name, strategy in vars(supervised).items()
        if isinstance(strategy, type)
        and issubclass(strategy, SupervisedTemplate)
        and strategy.__module__.startswith("avalanche.training.supervised")
    }
    listed = {name.split(" ")[0] for name in STRATEGIES}
    assert len(exported) > 25
    assert exported <= listed, sorted(exported - listed)
    assert not any(ABSENT in name for module in (supervised, plugins) for name in vars(module))


def test_document_is_what_was_seen():
    assert DOCUMENT.read_text() == document(), "run: python tests/compatibility.py"
