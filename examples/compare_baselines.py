"""What `mist-avalanche compare` does, from Python: methods, seeds, tables and the report.

`--slurm PARTITION` computes the runs as jobs on a cluster.
"""

import argparse
from pathlib import Path

from mist_avalanche.reports import table, write_figures, write_page, write_tables
from mist_avalanche.runs import RunConfig, Slurm, run_methods

OUTPUT = Path("results/my-comparison")
common = {"benchmark": "glyphs", "experiences": 10}
methods = {
    "simplecil": RunConfig(**common, strategy="simplecil"),
    "simplecil+mist": RunConfig(**common, strategy="simplecil", mist=True),
    "streaming_lda": RunConfig(**common, strategy="streaming_lda"),
}

if __name__ == "__main__":  # the runs are processes of their own, which read this file again
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slurm", metavar="PARTITION")
    partition = parser.parse_args().slurm
    runs = run_methods(
        [(config, OUTPUT / name) for name, config in methods.items()],
        n_seeds=2,
        jobs=2,
        resume=True,
        launcher=Slurm(OUTPUT / "slurm", {"partition": partition}) if partition else None,
    )
    finished = {name: found for name, found in zip(methods, runs, strict=True) if found}
    print(table(finished))
    write_tables(finished, OUTPUT, "comparison")
    write_figures(finished, OUTPUT)
    write_page(finished, OUTPUT / "report.html", "Glyphs")
