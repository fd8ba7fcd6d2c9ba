"""Runs of a compiled model with the cache, for `test_hostile_compile.py`.

They need a new process, so that no graph was compiled before. Prints a JSON object for each case.

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
# The default attention depends on the free memory, and is recompiled when that changes.
comfy.cli_args.args.use_pytorch_cross_attention = True
import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from hostile import SKIP_HALF, distance, patched, run, skip_pattern, small_model  # noqa: E402
from sampling import cached, report_of  # noqa: E402

from teacache.engine.run import Run  # noqa: E402

STEPS = (7, 7, 10, 10) if "--lengths" in sys.argv else (7, 7)
graphs: list[Any] = []
"""The graphs compiled so far."""
calls: list[int] = [0]
"""Calls of compiled graphs, by evaluation."""


def counting(graph: Any, inputs: Any) -> Any:
    """A backend of torch.compile that runs graphs as they are and counts them and their calls."""
    graphs.append(graph)

    def forward(*arguments: Any) -> Any:
        calls[-1] += 1
        return graph.forward(*arguments)

    return forward


def compiled(model: Any, part: str, backend: Any) -> Any:
    """Compiles the whole model by ComfyUI's own node, or each block with the node's function."""
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
    """Runs one case, several runs in a row, and returns what was compiled, called and skipped."""
    torch._dynamo.reset()
    graphs.clear()
    model = small_model(depth=1)
    patched_model, handle = model, None
    if mode == "off":
        patched_model = compiled(model, part, backend)
    elif order == "compile-first":
        patched_model, handle = cached(compiled(model, part, backend), SKIP_HALF[mode], mode=mode)
    else:
        clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
        patched_model = compiled(clone, part, backend)
    plain = model if mode == "off" else cached(model, SKIP_HALF[mode], mode=mode)[0]
    runs = []

    def count_next(end: Any) -> Any:
        return lambda self, *args: (end(self, *args), calls.append(0))[0]

    for steps in STEPS:
        calls[:] = [0]
        with patched(Run, "end_evaluation", count_next):
            result = run(patched_model, steps=steps, cfg=1.0)
        runs.append(
            {
                "graphs": len(graphs),
                "ran": calls[:-1],
                "pattern": "" if handle is None else skip_pattern(report_of(handle)),
                "apart": distance(result, run(plain, steps=steps, cfg=1.0)),
            }
        )
    return {"case": f"{part}/{mode}/{order}", "runs": runs}


if __name__ == "__main__":
    assert Path(sys.argv[1], "main.py").is_file()
    chosen = counting if sys.argv[2] == "count" else sys.argv[2]
    for text in sys.argv[3:]:
        if not text.startswith("--"):
            print("RUNS " + json.dumps(case(*text.split("/"), chosen)), flush=True)
