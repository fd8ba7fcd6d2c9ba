"""Two devices, played by two copies of a model on the CPU, with a thread for each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hostile import patched, run, small_model


class Pool:
    """One thread for each device, as ComfyUI's MultiGPUThreadPool: a result queue each."""

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices
        self._work = {device: queue.Queue() for device in devices}
        self._results = {device: queue.Queue() for device in devices}
        self._threads = [
            threading.Thread(target=self._loop, args=(device,), daemon=True) for device in devices
        ]
        for thread in self._threads:
            thread.start()

    def _loop(self, device: str) -> None:
        while (item := self._work[device].get()) is not None:
            try:
                self._results[device].put((item(), None))
            except Exception as error:
                self._results[device].put((None, error))

    def submit(self, device: str, function: Callable[[], Any]) -> None:
        self._work[device].put(function)

    def get_result(self, device: str) -> tuple[Any, Exception | None]:
        return self._results[device].get()

    def close(self) -> None:
        for device in self.devices:
            self._work[device].put(None)
        for thread in self._threads:
            thread.join()


@contextmanager
def split_over_devices(model: Any, copy: Any) -> Iterator[Pool]:
    """The conds are evaluated in turn on the model and on its copy, in a thread for each."""
    import comfy.samplers

    original = comfy.samplers._calc_cond_batch
    pool = Pool(["first", "second"])
    models = {"first": None, "second": copy.model}

    def split(inner: Any, conds: Any, x: Any, timestep: Any, options: Any) -> list[Any]:
        options["multigpu_thread_pool"] = pool
        used = [pool.devices[index % len(pool.devices)] for index in range(len(conds))]
        for device, cond in zip(used, conds, strict=True):

            def evaluate(device: str = device, cond: Any = cond) -> Any:
                with torch.inference_mode():
                    return original(models[device] or inner, [cond], x, timestep, options)[0]

            pool.submit(device, evaluate)
        outputs = []
        for device in used:
            output, error = pool.get_result(device)
            if error is not None:
                raise error
            outputs.append(output)
        return outputs

    with patched(comfy.samplers, "_calc_cond_batch", lambda _: split):
        try:
            yield pool
        finally:
            pool.close()


def copy_of(model: Any) -> Any:
    """The same model once more; both have sampled, and hold what ComfyUI leaves on them."""
    copy = small_model()
    copy.model.load_state_dict(model.model.state_dict())
    for each in (model, copy):
        run(each, steps=2)
    copy.model.current_patcher = copy
    return copy
