import pytest
from made_up import comparison, results
from scipy import stats

from mist_avalanche.method.ablations import ABLATIONS
from mist_avalanche.reports.labels import display_name, host_of, is_upper_bound
from mist_avalanche.reports.summary import best, costs, gains, lead, mean_and_std

HOST = (70.0, 71.0, 69.0)
TUNED = (72.0, 74.0, 70.0)  # gains of 2, 3 and 1 points


def test_labels_have_names():
    assert display_name("ranpac+mist+drift") == "RanPAC + MIST + drift compensation"
    assert display_name("ranpac+no_drop") == "RanPAC + MIST (no dropping)"
    assert display_name("mymethod+mist") == "mymethod + MIST"
    assert display_name("my+method") == "my+method"
    on_grid = "ranpac@n_random_features=50,seed=1+mist@lr=0.001+drift"
    assert display_name(on_grid) == (
        "RanPAC (n_random_features=50, seed=1) + MIST (lr=0.001) + drift compensation"
    )


def test_host_is_the_method_without_mist():
    assert host_of("ranpac") is None
    assert host_of("simplecil+drift") is None
    for addition in ("mist", *ABLATIONS):
        assert host_of(f"ranpac+{addition}") == "ranpac"
    assert host_of("ranpac@seed=1+mist@lr=0.001") == "ranpac@seed=1"


def test_mean_and_sample_standard_deviation():
    runs = comparison({"a": HOST})["a"]
    assert mean_and_std(runs)["A_T"] == {"mean": 70.0, "std": 1.0}
    assert mean_and_std(runs[:1])["A_T"] == {"mean": 70.0, "std": None}


def test_best_follows_the_mean_as_shown_and_leaves_out_upper_bounds():
    assert is_upper_bound("joint")
    assert is_upper_bound("joint@lr=0.1")
    methods = comparison({"a": (50.0, 52.0), "naive": (60.0,), "joint": (90.0,)})
    assert best(methods, "A_T") == ["naive"]
    assert best(comparison({"a": (1.04,), "b": (1.0,), "c": (0.5,)}), "A_T") == ["a", "b"]
    assert best(comparison({"a": (1.0,), "b": (1.0,)}), "A_T") == []
    for label, value in (("a", 3.0), ("naive", 1.0)):
        methods[label][0]["metrics"]["forgetting"] = value
    assert best(methods, "forgetting") == []  # what has learned nothing forgets nothing


def test_gain_is_paired_by_seed_and_has_an_interval_of_student():
    methods = comparison({"ranpac": HOST, "ranpac+mist": TUNED})
    methods["ranpac+mist"].reverse()
    (gain,) = gains(methods)
    assert (gain.label, gain.host, gain.differences) == ("ranpac+mist", "ranpac", [1, 3, 2])
    low, high = stats.t.interval(0.95, 2, 2.0, stats.sem([1, 2, 3]))
    assert gain.half_width == pytest.approx((high - low) / 2)


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
        "points (95 % interval -0.5 to +4.5, 3 seeds; 1 of 40 test images per seed)."
    )
    assert "below the upper bound: 72.0" in lead({**methods, "joint": [results(a_t=90.0)]})


def test_upper_bounds_store_all_images():
    found = {}
    for name in ("joint", "replay", "simplecil"):
        one = results(a_t=1.0)
        memory = {"mem_size": 4} if name == "replay" else {}
        one["config"] |= {"strategy": name, "strategy_args": memory}
        found[name] = costs([{**one, "training_images": [5, 5]}])["stored_images"]
    assert found == {"joint": 10, "replay": 4, "simplecil": 0}


def test_first_line_is_honest():
    methods = comparison({"ranpac": (72.0,), "ranpac+mist": (70.0,)})
    assert "RanPAC loses 2.0 points (no interval, 1 seed; 1 of 40 test images)" in lead(methods)
    for run in (*methods["ranpac"], *methods["ranpac+mist"]):
        run["test_images"] = [1000] * 4
    assert lead(methods).endswith("RanPAC loses 2.0 points (no interval, 1 seed).")
    level = comparison({"ranpac": (72.0,), "ranpac+mist": (72.0,)})
    assert "RanPAC neither gains nor loses (no interval, 1 seed; 0 of" in lead(level)
    grid = comparison({"ranpac": (70.0,), "ranpac+mist@lr=1": (72.0,), "ranpac+mist@lr=2": (71.0,)})
    assert lead(grid).startswith("RanPAC + MIST (lr=1) has the highest A_T: 72.0 %")
    assert "With MIST (lr=2), RanPAC gains 1.0 points" in lead(grid)
    assert "compared on test images, so the best of them is favoured" in lead(grid)
    level = comparison({"a": (2.0,), "b": (2.0,), "c": (1.0,)})
    assert lead(level).startswith("a and b share the highest A_T: 2.0 %")
    run = results(a_t=70.0)
    assert lead({"naive": [run]}) == "Naive has an A_T of 70.0 % over 1 seed."
    run["config"] |= {"first": 2, "experiences": 10}
    assert lead({"naive": [run]}).endswith("over 1 seed after 2 of 10 experiences.")
