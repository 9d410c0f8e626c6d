"""Sound devices, through sounddevice (the `live` extra), which is imported only here."""

from typing import Any

from ussfast.errors import DeviceError


def load() -> Any:
    """The module sounddevice; DeviceError if it or its PortAudio library is not installed."""
    try:
        import sounddevice
    except ImportError:
        raise DeviceError("live audio needs sounddevice: pip install 'ussfast[live]'") from None
    except OSError as error:
        raise DeviceError(f"live audio needs PortAudio (package libportaudio2 or portaudio): {error}") from None
    return sounddevice


def table(sounddevice: Any) -> str:
    """All devices, a line each, and which are the defaults; DeviceError if there are none."""
    devices = list(sounddevice.query_devices())
    if not devices:
        raise DeviceError("this machine has no sound devices")
    hosts = [host["name"] for host in sounddevice.query_hostapis()]
    default_input, default_output = sounddevice.default.device
    lines = [f"{'':2}{'index':>5}  {'in':>3} {'out':>3}  {'Hz':>6}  name"]
    for index, device in enumerate(devices):
        mark = (">" if index == default_input else " ") + ("<" if index == default_output else " ")
        channels = f"{device['max_input_channels']:3} {device['max_output_channels']:3}"
        rate = f"{device['default_samplerate']:6.0f}"
        lines.append(f"{mark}{index:5}  {channels}  {rate}  {device['name']} ({hosts[device['hostapi']]})")
    return "\n".join([*lines, "> default input, < default output"])


def find(sounddevice: Any, wanted: str | None, kind: str) -> tuple[int, dict[str, Any]]:
    """(index, properties) of a device that has inputs or outputs.

    Args:
        wanted: its index, its name, or a part of its name that no other has; None for the default.
        kind: "input" or "output".
    Raises:
        DeviceError: no such device, several, or no default.
    """
    devices = list(sounddevice.query_devices())
    able = {i: d for i, d in enumerate(devices) if d[f"max_{kind}_channels"] > 0}
    if not able:
        raise DeviceError(f"this machine has no sound device with {kind}s")
    if wanted is None:
        index = sounddevice.default.device[0 if kind == "input" else 1]
        found = [index] if index in able else []
        what = f"no default {kind} device"
    elif wanted.isdecimal():
        found = [int(wanted)] if int(wanted) in able else []
        what = f"no {kind} device {wanted}"
    else:
        low = wanted.lower()
        found = [i for i, d in able.items() if low in d["name"].lower()]
        exact = [i for i in found if able[i]["name"].lower() == low]
        found = exact if len(exact) == 1 else found
        what = f"{len(found) or 'no'} {kind} devices match {wanted!r}"
    if len(found) != 1:
        names = ", ".join(f"{i} {able[i]['name']!r}" for i in (found or able))
        raise DeviceError(f"{what}; choose one of: {names}")
    return found[0], able[found[0]]
