"""Runs of a compiled model with the cache, in a process of their own: what was compiled before
would count otherwise. Prints what happened, a JSON object a line, for `test_hostile_compile.py`.

    python compile_runs.py COMFYUI BACKEND CASE ...

A case is PART/MODE/ORDER: `whole` or `block`; `off`, `forecast` or `faithful`; `compile-first` or
`cache-first`. BACKEND is `count`, which runs graphs as they are and counts them, or `inductor`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from paths import TESTS

sys.path[:0] = [sys.argv[1], str(TESTS)]
import comfy.cli_args  # noqa: E402
import conftest  # noqa: E402, F401  (makes `teacache` importable)

comfy.cli_args.args.cpu = True
# The other attention asks how much memory is free, and is compiled anew when that changes.
comfy.cli_args.args.use_pytorch_cross_attention = True
import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from hostile import MANY, distance, patched, pattern, run, small  # noqa: E402
from sampling import cached, report_of  # noqa: E402

from teacache.engine.run import Run  # noqa: E402

STEPS = (7, 7, 10, 10) if "--lengths" in sys.argv else (7, 7)
made: list[Any] = []
"""The graphs that were compiled."""
ran: list[int] = [0]
"""Calls of compiled graphs, by evaluation."""


def counting(graph: Any, inputs: Any) -> Any:
    made.append(graph)

    def called(*arguments: Any) -> Any:
        ran[-1] += 1
        return graph.forward(*arguments)

    return called


def compiled(model: Any, part: str, backend: Any) -> Any:
    """By ComfyUI's own node, or block by block with what that node is made of."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    if part == "whole":
        return TorchCompileModel.execute(model, backend).result[0]
    clone = model.clone()
    count = len(model.model.diffusion_model.joint_blocks)
    keys = [f"diffusion_model.joint_blocks.{index}" for index in range(count)]
    set_torch_compile_wrapper(clone, backend, keys=keys)
    return clone


def case(part: str, mode: str, order: str, backend: Any) -> dict[str, Any]:
    torch._dynamo.reset()
    made.clear()
    model = small(depth=1)
    patched_model, handle = model, None
    if mode == "off":
        patched_model = compiled(model, part, backend)
    elif order == "compile-first":
        patched_model, handle = cached(compiled(model, part, backend), MANY[mode], mode=mode)
    else:
        clone, handle = cached(model, MANY[mode], mode=mode)
        patched_model = compiled(clone, part, backend)
    plain = model if mode == "off" else cached(model, MANY[mode], mode=mode)[0]
    runs = []

    def ending(end: Any) -> Any:
        return lambda self, *args: (end(self, *args), ran.append(0))[0]

    for steps in STEPS:
        ran[:] = [0]
        with patched(Run, "end_evaluation", ending):
            got = run(patched_model, steps=steps, cfg=1.0)
        runs.append(
            {
                "graphs": len(made),
                "ran": ran[:-1],
                "pattern": "" if handle is None else pattern(report_of(handle)),
                "apart": distance(got, run(plain, steps=steps, cfg=1.0)),
            }
        )
    return {"case": f"{part}/{mode}/{order}", "runs": runs}


if __name__ == "__main__":
    assert Path(sys.argv[1], "main.py").is_file()
    chosen = counting if sys.argv[2] == "count" else sys.argv[2]
    for text in sys.argv[3:]:
        if not text.startswith("--"):
            print("RUNS " + json.dumps(case(*text.split("/"), chosen)), flush=True)
