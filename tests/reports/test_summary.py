import pytest
from made_up import comparison, old_results, results
from scipy import stats

from mist_avalanche.method.ablations import ABLATIONS
from mist_avalanche.reports.labels import display_name, host_of, is_upper_bound
from mist_avalanche.reports.summary import costs, gains, lead, mean_and_std, ranks

HOST = (70.0, 71.0, 69.0)
TUNED = (72.0, 74.0, 70.0)  # gains of 2, 3 and 1 points


def test_labels_have_names():
    assert display_name("simplecil+mist") == "SimpleCIL + MIST"
    assert display_name("ranpac+mist+drift") == "RanPAC + MIST + drift compensation"
    assert display_name("ranpac+no_drop") == "RanPAC + MIST (no dropping)"
    assert display_name("ranpac+mist-order-1993") == "RanPAC + MIST, order 1993"
    assert display_name("mymethod+mist") == "mymethod + MIST"
    assert display_name("my+method") == "my+method"


def test_host_is_the_method_without_mist():
    assert host_of("ranpac") is None
    assert host_of("simplecil+drift") is None
    for addition in ("mist", *ABLATIONS):
        assert host_of(f"ranpac+{addition}") == "ranpac"


def test_mean_and_sample_standard_deviation():
    runs = comparison({"a": HOST})["a"]
    assert mean_and_std(runs)["A_T"] == {"mean": 70.0, "std": 1.0}
    assert mean_and_std(runs[:1])["A_T"] == {"mean": 70.0, "std": 0.0}


def test_ranks_follow_the_mean_as_shown_and_leave_out_upper_bounds():
    found = {"a": (50.0, 52.0), "b": (60.0,), "c": (10.0,), "joint": (90.0,)}
    assert is_upper_bound("joint")
    assert not is_upper_bound("naive")
    assert ranks(comparison(found), "A_T") == {"b": 1, "a": 2}
    assert ranks(comparison({"a": (1.04,), "b": (1.0,), "c": (0.5,)}), "A_T") == {
        "a": 1,
        "b": 1,
        "c": 2,
    }
    assert ranks(comparison({"a": (1.0,), "b": (2.0,)}), "A_T") == {"b": 1}
    assert ranks(comparison({"a": (1.0,)}), "A_T") == {}
    forgets = {
        name: [results(metrics={**results()["metrics"], "forgetting": value})]
        for name, value in (("a", 3.0), ("b", 1.0))
    }
    assert ranks(forgets, "forgetting") == {"b": 1}


def test_gain_is_paired_by_seed_and_has_an_interval_of_student():
    methods = comparison({"ranpac": HOST, "ranpac+mist": TUNED})
    methods["ranpac+mist"].reverse()
    (gain,) = gains(methods)
    assert (gain.label, gain.host, gain.differences) == ("ranpac+mist", "ranpac", [1, 3, 2])
    low, high = stats.t.interval(0.95, 2, 2.0, stats.sem([1, 2, 3]))
    assert gain.half_width == pytest.approx((high - low) / 2)
    assert gain.interval == "95 % interval -0.5 to +4.5, 3 seeds"


def test_gain_needs_the_host_with_the_same_seed_and_order():
    methods = comparison({"ranpac": HOST[:2], "ranpac+mist": TUNED})
    (gain,) = gains(methods)
    assert gain.differences == [2, 3]
    assert gain.half_width is None
    assert gains({"ranpac+mist": methods["ranpac+mist"]}) == []
    other = results(a_t=50.0)
    other["config"]["order_seed"] = 1
    assert gains({**methods, "ranpac": [other]}) == []


def test_first_line_makes_the_point():
    methods = comparison({"ranpac": HOST, "ranpac+mist": TUNED, "ranpac+dense": (90.0, 90.0)})
    assert lead(methods).startswith("RanPAC + MIST (dense) has the highest A_T: 90.0 ± 0.0 %")
    assert lead(methods).count("With MIST") == 1  # ablations are not the point
    del methods["ranpac+dense"]
    assert lead(methods) == (
        "RanPAC + MIST has the highest A_T: 72.0 ± 2.0 % over 3 seeds. With MIST, RanPAC gains 2.0 "
        "points (95 % interval -0.5 to +4.5, 3 seeds)."
    )
    assert "below the upper bound: 72.0" in lead({**methods, "joint": [results(a_t=90.0)]})


def test_first_line_is_honest():
    assert "RanPAC loses 2.0 points (1 seed, no" in lead(
        comparison({"ranpac": (72.0,), "ranpac+mist": (70.0,)})
    )
    assert "level with others" in lead(comparison({"a": (2.0,), "b": (2.0,), "c": (1.0,)}))
    run = results(a_t=70.0)
    assert lead({"naive": [run]}) == "Naive has an A_T: 70.0 % over 1 seed."
    run["config"] |= {"first": 2, "experiences": 10}
    assert lead({"naive": [run]}).endswith("over 1 seed after 2 of 10 experiences.")


def test_costs_are_means_and_missing_where_not_measured():
    runs = [results(timing={"total": total}) for total in (2.0, 4.0)]
    assert costs(runs) == {
        "seconds": 3.0,
        "memory": 3 * 2**20,
        "updated": 7,
        "updated_share": pytest.approx(7 / 400),
    }
    old = costs([*runs, old_results()])
    assert old["memory"] is None
    assert old["updated_share"] == pytest.approx((2 * 7 / 400 + 7 / 500) / 3)
