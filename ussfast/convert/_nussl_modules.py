"""The modules of a network of nussl's, of which its configuration is a list: those of a ChimeraNet and no others."""

from dataclasses import dataclass
from typing import Any, Literal

from ussfast.convert._yaml import Table
from ussfast.errors import CheckpointError, InputError
from ussfast.plain import parse_json, shown

# What modules are called, by class, and what each is made of.
CALLED = {
    "AmplitudeToDB": ("log_spectrogram",),
    "BatchNorm": ("normalization",),
    "InstanceNorm": ("normalization",),
    "RecurrentStack": ("recurrent_stack",),
    "Embedding": ("embedding", "mask"),
    "Mask": ("estimates",),
}
INPUT = "mix_magnitude"
MADE_OF = {
    "log_spectrogram": [INPUT],
    "normalization": ["log_spectrogram"],
    "recurrent_stack": ["normalization"],
    "embedding": ["recurrent_stack"],
    "mask": ["recurrent_stack"],
    "estimates": ["mask", INPUT],
}
STACK = ("num_features", "hidden_size", "num_layers", "bidirectional", "dropout", "rnn_type", "batch_first")
HEAD = ("num_features", "hidden_size", "embedding_size", "activation", "num_audio_channels", "dim_to_embed", "bias")
# Arguments of the other modules that change nothing.
USUAL = {"num_features": 1, "feature_dim": -1, "ref": 1.0, "amin": 1e-4}


@dataclass(frozen=True)
class Modules:
    """Arguments of the modules that vary; None for a head that is not there."""

    norm: Literal["batch", "instance"]
    stack: Table
    embedding: Table | None
    mask: Table | None


def read_modules(given: Any) -> Modules:
    """The modules of a configuration, JSON or a table, if they are those of a ChimeraNet and connected so.

    Raises:
        CheckpointError: what is not supported.
    """
    try:
        config = Table(parse_json(given) if isinstance(given, str) else given, "config")
    except InputError as error:
        raise CheckpointError(f"config: {error}") from None
    found = _found(config.table("modules"))
    heads = [name for name in CALLED["Embedding"] if name in found]
    needed = ["log_spectrogram", "normalization", "recurrent_stack", *(heads or ["embedding"])]
    if missing := [name for name in needed if name not in found]:
        raise CheckpointError(f"config.modules has no {' and no '.join(missing)}")
    edges = config.list_of("connections", list)
    for i, edge in enumerate(edges):
        if len(edge) != 2 or not isinstance(edge[1], list):
            raise CheckpointError(f"config.connections[{i}] must be a module and a list of what it is made of")
        name, inputs = edge
        if name not in list(found) or inputs != MADE_OF[name]:
            raise CheckpointError(f"config.connections[{i}]: {shown(name)} is not connected as in a ChimeraNet")
    if loose := [name for name in needed if name not in [edge[0] for edge in edges]]:
        raise CheckpointError(f"config.connections has none of {loose[0]}")
    stack = found["recurrent_stack"][1]
    stack.choice("batch_first", {True: True}, True)
    return Modules(
        "batch" if found["normalization"][0] == "BatchNorm" else "instance",
        _known(stack, STACK),
        *(_head(found[name][1]) if name in found else None for name in CALLED["Embedding"]),
    )


def activations(head: Table) -> tuple[Any, ...]:
    """As they are listed, checked by the configuration that they go to."""
    given = head.data.get("activation", [])
    return tuple(given) if isinstance(given, list) else (given,)


def _found(modules: Table) -> dict[str, tuple[str, Table]]:
    """Class and arguments of each module by name, without inputs."""
    found: dict[str, tuple[str, Table]] = {}
    for name in modules.data:
        row = modules.table(name)
        kind = row.data.get("class")
        if kind is None:
            continue
        if kind not in list(CALLED):
            raise CheckpointError(f"module {shown(name)} is a {shown(kind)}, which is not supported: {_those()}")
        if name not in CALLED[kind]:
            raise CheckpointError(f"module {shown(name)} is a {kind}, which is not supported: {_those()}")
        args = row.table("args", optional=True)
        if kind not in ("RecurrentStack", "Embedding"):
            for key, value in args.data.items():
                if key not in USUAL or not isinstance(value, int | float) or value != USUAL[key]:
                    raise CheckpointError(f"{args.where}.{key} = {shown(value)} is not supported")
        found[name] = kind, args
    return found


def _those() -> str:
    return "a ChimeraNet has " + ", ".join(f"{kind} as {' or '.join(names)}" for kind, names in CALLED.items())


def _known(args: Table, names: tuple[str, ...]) -> Table:
    if unknown := sorted(map(str, args.data.keys() - set(names))):
        raise CheckpointError(f"{args.where}.{unknown[0]} is not supported; {', '.join(names)} are")
    return args


def _head(args: Table) -> Table:
    args.choice("num_audio_channels", {1: 1}, 1)
    args.choice("bias", {True: True}, True)
    if (dims := args.data.get("dim_to_embed", -1)) not in (-1, [-1]):
        raise CheckpointError(f"{args.where}.dim_to_embed must be -1, got {shown(dims)}")
    return _known(args, HEAD)
