"""Results that runs could have written, made up."""


def results(*, seed=0, a_t=75.0, mist=False, n=4, **changes):
    """The results.json of a run of n experiences."""
    rows = [[90.0 - 10 * (t - i) for i in range(t + 1)] for t in range(n)]
    found = {
        "schema": 1,
        "config": {
            **{"strategy": "simplecil", "seed": seed, "order_seed": 1993, "experiences": n},
            **{"benchmark": "glyphs", "backbone": "embedded", "mist": mist},
        },
        "metrics": {"A_T": a_t, "A_bar": 80.0, "A_new": 90.0, "forgetting": 15.0},
        "accuracy": rows,
        "test_images": [10] * n,
        "classes_seen": [5 * (t + 1) for t in range(n)],
        "class_names": [f"class {i}" for i in range(5 * n)],
        "inputs": {"image_size": 32},
        "timing": {"total": 3.0, "cpu": 5.0},
        "memory": 3 * 2**20,
        "parameters": {"backbone": 400, "updated": 7, "trained": 9000, "added": 2e3, "stored": 0},
        "environment": {"torch": "2"},
    }
    if mist:
        layers = [["blocks.0.attn.qkv.weight", 5, 100, False], ["norm.bias", 10, 10, True]]
        found["mist"] = {"selected_fraction": 15 / 110, "layers": layers}
    return {**found, **changes}


def comparison(a_t_by_label):
    """Methods by label, from the A_T of each seed."""
    return {
        label: [results(seed=seed, a_t=a_t, mist="+" in label) for seed, a_t in enumerate(values)]
        for label, values in a_t_by_label.items()
    }
