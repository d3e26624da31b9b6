"""OpenVINO on the CPU: compiled networks, and the way to the library without its telemetry."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np

Precision = Literal["f32", "bf16"]
MOST_SHAPES = 4
"""Shapes of input that stay compiled: a source has one, a second model or window another."""


def library() -> Any:
    """The module ``openvino``. Raises ``ImportError``.

    Its import would load ``openvino_telemetry`` and report to a server. With a ``None`` in its
    place openvino uses its own stub, which does nothing.
    """
    if sys.modules.get("openvino_telemetry") is None:
        sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType]
    import openvino

    return openvino


def precisions(core: Any) -> tuple[Precision, ...]:
    """What this processor computes fast, fastest first."""
    fast = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("bf16", "f32") if fast else ("f32",)


class Network:
    """A converted model, compiled for each shape of input when it first comes."""

    def __init__(
        self,
        path: Path,
        threads: int,
        precision: Precision,
        *,
        mean: tuple[float, ...] | None = None,
        scale: tuple[float, ...] | None = None,
    ) -> None:
        """With ``mean`` and ``scale`` it takes pictures, N x height x width x 3, BGR, uint8.

        They are those of RGB values from 0 to 255.

        Raises:
            RuntimeError: the file can't be read.
        """
        self._path = path
        self._core = library().Core()
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Without a word openvino takes bf16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": precision,
            # Half of the threads' share goes lost when each is tied to a core that a game uses.
            "ENABLE_CPU_PINNING": False,
        }
        self._mean, self._scale = mean, scale
        self._requests: OrderedDict[tuple[int, ...], tuple[Any, np.ndarray]] = OrderedDict()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """The first output; valid until the next call."""
        found = self._requests.get(batch.shape)
        if found is None:
            request = self._compiled(batch).create_infer_request()
            found = self._requests[batch.shape] = (request, request.get_input_tensor(0).data)
            if len(self._requests) > MOST_SHAPES:
                self._requests.popitem(last=False)
        self._requests.move_to_end(batch.shape)
        request, taken = found
        # Into its own memory: to hand it an array, openvino spends a fifth of a millisecond.
        np.copyto(taken, batch)
        request.infer(share_outputs=True)
        return request.get_output_tensor(0).data

    def _compiled(self, batch: np.ndarray) -> Any:
        model = self._core.read_model(self._path)
        if self._scale is not None:
            model = self._taking_pictures(model)
        model.reshape(list(batch.shape))
        return self._core.compile_model(model, "CPU", self._options)

    def _taking_pictures(self, model: Any) -> Any:
        from openvino import Layout, Type
        from openvino.preprocess import ColorFormat, PrePostProcessor

        steps = PrePostProcessor(model)
        tensor = steps.input().tensor()
        tensor.set_element_type(Type.u8).set_layout(Layout("NHWC"))
        tensor.set_color_format(ColorFormat.BGR)
        steps.input().model().set_layout(Layout("NCHW"))
        process = steps.input().preprocess()
        process.convert_element_type(Type.f32).convert_color(ColorFormat.RGB)
        if self._mean is not None:
            process.mean(list(self._mean))
        process.scale(list(self._scale or ()))
        return steps.build()
