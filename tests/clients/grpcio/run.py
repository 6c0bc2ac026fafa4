"""Runs one case against the server that the environment describes: `run.py CASE`, or `run.py --list` for the names."""

import sys

import case_action_cache
import case_batches
import case_callers
import case_calls
import case_streams

MODULES = [case_action_cache, case_batches, case_callers, case_calls, case_streams]


def cases():
    """Every public function that its module defines itself and that takes nothing."""
    found = {}
    for module in MODULES:
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and callable(value) and not name.startswith("_"):
                assert name not in found, f"two cases are called {name}"
                found[name] = value
    return found


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print("\n".join(sorted(cases())))
    else:
        cases()[sys.argv[1]]()
