"""One module per target, each with:

SECONDS, MIB: bounds of one input: time, and memory beyond what the process had before it.
prepare(folder) -> context: once per process; `folder` is its own, and stays.
one(context, rng, folder): makes one input from `rng` alone (a `random.Random`) and gives it to the package. `folder`
    is empty and goes afterwards. What it may raise is a UssfastError of one line; whatever else comes out of it, a
    crash, more time or more memory is a finding. Results are checked here, by plain assertions.
"""
