"""The values that a node of a graph would be executed with, and a calibration of them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from ....workflows.edits import CALIBRATION
from ....workflows.graph import Graph

if TYPE_CHECKING:
    from ..backend import ModelCalibrationBackend
    from .session import Session


def inputs_of(session: Session, graph: Graph, node: str) -> dict[str, Any]:
    """Executes what `node` needs, and gives its inputs: models, conditioning and other values.

    Raises:
        UserError, ExecutionError: as `Session.run`.
    """
    classes = session.comfy.nodes.NODE_CLASS_MAPPINGS
    wanted = classes[graph[node]["class_type"]].INPUT_TYPES()
    inputs: dict[str, Any] = {}

    class Receiver:
        RETURN_TYPES = ()
        OUTPUT_NODE = True
        FUNCTION = "receive"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {group: wanted[group] for group in ("required", "optional") if group in wanted}

        def receive(self, **values: Any) -> tuple[()]:
            inputs.update(values)
            return ()

    name = f"{Receiver.__name__} {uuid.uuid4()}"  # the executor keeps objects by class and id
    classes[name] = Receiver
    try:
        session.run({**graph, node: {**graph[node], "class_type": name}})
    finally:
        del classes[name]
    return inputs


def calibration_backend(session: Session, graph: Graph) -> ModelCalibrationBackend:
    """What a graph of `calibration_graph` would calibrate; nothing is sampled yet.

    Raises:
        UserError, ExecutionError: as `Session.run`.
        ConfigError: the model or the sampler cannot be calibrated.
    """
    from ..backend import ModelCalibrationBackend, SamplerSettings, calibration_prompts

    inputs = inputs_of(session, graph, CALIBRATION)
    positive = inputs.pop("positive")
    further = {key: value for key, value in inputs.items() if key.startswith("positive_")}
    prompts = calibration_prompts(
        positive, inputs["negative"], further, inputs["seed"], inputs["seeds"]
    )
    settings = SamplerSettings(
        inputs["steps"], inputs["cfg"], inputs["sampler_name"], inputs["scheduler"]
    )
    return ModelCalibrationBackend(inputs["model"], inputs["latent_image"], settings, prompts)
