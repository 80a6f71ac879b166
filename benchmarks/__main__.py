"""Run every benchmark: ``python -m benchmarks [--scale 0.1] [name ...]``.  Each row is a ratio from one run."""

import argparse
from importlib import import_module

from benchmarks.table import print_table

NAMES = ("training", "history", "comparison", "rollback", "drift", "features", "gateway", "shadow")


def main() -> None:
    """Run the named benchmarks, or all of them, and print one table each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=(*NAMES, []), help="which benchmarks; all without a name")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of rows")
    arguments = parser.parse_args()
    for name in arguments.names or NAMES:
        print_table(name, import_module(f"benchmarks.{name}").run(arguments.scale))


if __name__ == "__main__":
    main()
