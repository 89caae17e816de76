"""Every row of docs/compatibility.md, proven; tests/compatibility.py says what is run."""

import sys

import kinds
import pytest
from avalanche.training import plugins, supervised
from avalanche.training.templates import SupervisedTemplate
from compatibility import ABSENT, CASES, DOCUMENT, STRATEGIES, document, line, outcome

REFUSED = ("ICaRL", "SCR", "PackNet", "ExpertGateStrategy", "PNNStrategy", "AETraining")
FAILING = ("GSS_greedy", "BiC", "LearningToPrompt", "LaMAML")


@pytest.mark.parametrize(("table", "name"), CASES)
def test_runs_or_says_why_not(table, name):
    refused = name in (*REFUSED, "VAETraining")
    expected = "refused" if refused else "fails in Avalanche" if name in FAILING else "runs"
    result, reason = outcome(table, name)
    assert (result, bool(reason) or result == "runs") == (expected, True), reason
    row, rows = line(table, name), DOCUMENT.read_text().splitlines()
    if name == "GSS_greedy" and sys.version_info >= (3, 12):  # whose max() has other words
        row, rows = row.partition(":")[0], [text.partition(":")[0] for text in rows]
    assert row in rows, "run: python tests/compatibility.py"


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


def test_document_has_a_row_for_every_case_and_nothing_else():
    """What a row says is compared where its case runs; every kind of benchmark runs."""
    written = {
        text.split(" | ")[0].removeprefix("| "): text for text in DOCUMENT.read_text().splitlines()
    }
    rows = document(
        line=lambda _table, name: written[name],
        kinds_table=lambda: kinds.table(outcome=lambda *_: "runs"),
    )
    assert DOCUMENT.read_text() == rows, "run: python tests/compatibility.py"
