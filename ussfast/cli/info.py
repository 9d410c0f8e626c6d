"""`ussfast info`: which kernels are in use."""

import json

import torch

import ussfast
from ussfast import _ext
from ussfast.engine import graphs


def show(as_json: bool) -> None:
    """Prints versions and kernels; those of CUDA as lines only where there is a CUDA device."""
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows, without = _ext.kernels(), graphs.why_not()
    if as_json:
        facts = {"version": ussfast.__version__, "torch": torch.__version__, "cuda": cuda, "isa": _ext.cpu_isa()}
        found = {"graphs": {"used": without is None, "why": without or ""}, "kernels": rows}
        print(json.dumps(facts | found, indent=1))
        return
    print(f"ussfast {ussfast.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if cuda:
        print(f"CUDA devices: {', '.join(cuda)}")
        print(f"CUDA graphs: {'used' if without is None else f'not used ({without})'}")
    else:
        print(f"CUDA: {'no device' if torch.version.cuda else 'this torch is built without it'}")
        rows = [row for row in rows if row["device"] != "cuda"]
    op, device, kernel = (max(len(row[key]) for row in rows) for key in ("op", "device", "kernel"))
    for row in rows:
        why = f"  ({row['why']})" if row["why"] else ""
        print(f"{row['op']:{op}}  {row['device']:{device}}  {row['kernel']:{kernel}}{why}".rstrip())
