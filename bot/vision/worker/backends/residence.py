"""Where a torch model's weights are: on a card, with a copy kept in host memory to return to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class Residence:
    """The weights of a torch module, and their host copy in page-locked memory.

    Weights don't change: to leave a card is to forget the copy there, to return is one copy for
    each tensor, which page-locked memory lets the card fetch by itself. The host copy is made
    when the model first goes to a card, in the precision that it has there.

    What lies outside of ``at_work``, a part of the module, comes along for a moment only
    (``whole``).
    """

    def __init__(self, module: Any, at_work: Any = None) -> None:
        self._module = module
        self._host: list[Any] = []
        self._on_card = False
        needed = {id(table[key]) for table, key in _places(at_work or module)}
        self._stays = [id(tensor) in needed for tensor in self._tensors()]
        """Of each tensor whether it is on the card as long as the model is."""

    @property
    def on_card(self) -> bool:
        return self._on_card

    @property
    def weights_bytes(self) -> int:
        """Of those weights that are where the model is."""
        there = zip(self._tensors(), self._stays, strict=True)
        return sum(t.numel() * t.element_size() for t, stays in there if stays or not self._on_card)

    def to_card(self, device: Any, *, half: bool) -> None:
        """Copy the weights there; returns when they have arrived.

        Raises:
            torch.OutOfMemoryError: there is no room; the weights are in host memory as before.
        """
        import torch

        wanted = torch.float16 if half else torch.float32
        if not self._host or self._precision() != wanted:
            self.to_host()
            self._host = [pinned(_as(tensor, wanted), device) for tensor in self._tensors()]
        self._replace(self._sent(device, staying=True))
        self._on_card = True
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    def to_host(self) -> None:
        """Forget the copy on the card."""
        if self._on_card:
            here = iter(self._host)
            self._replace(lambda _: next(here))
            self._on_card = False

    @contextlib.contextmanager
    def whole(self, device: Any) -> Iterator[None]:
        """All of the model on its card for a while; what is there already stays where it is.

        Raises:
            torch.OutOfMemoryError: there is no room; all is as before.
        """
        if not self._on_card or all(self._stays):
            yield
            return
        self._replace(self._sent(device, staying=False))
        try:
            yield
        finally:
            here = iter(zip(self._host, self._stays, strict=True))

            def back(tensor: Any) -> Any:
                copy, stays = next(here)
                return tensor if stays else copy

            self._replace(back)

    def _sent(self, device: Any, *, staying: bool) -> Callable[[Any], Any]:
        """What ``_replace`` asks for: copies on a card of those that stay there, or of those that
        don't; the others as they are."""
        there = [
            tensor.to(device, non_blocking=True) if stays is staying else None
            for tensor, stays in zip(self._host, self._stays, strict=True)
        ]
        # Who is not sent has to be in the host copy's precision, or on the card already.
        copies = iter(zip(there, self._host, self._stays, strict=True))

        def copy(old: Any) -> Any:
            sent, host, stays = next(copies)
            return sent if sent is not None else (old if stays else host)

        return copy

    def for_cpu(self) -> None:
        """Leave the card and get ready to compute on the CPU, in single precision."""
        import torch

        self.to_host()
        self._replace(lambda tensor: _as(tensor, torch.float32))

    def _precision(self) -> Any:
        return next((t.dtype for t in self._host if t.is_floating_point()), None)

    def _tensors(self) -> list[Any]:
        every = {id(table[key]): table[key] for table, key in _places(self._module)}
        return list(every.values())

    def _replace(self, other: Callable[[Any], Any]) -> None:
        """A new tensor for each; a parameter can't change its device, so it is made anew."""
        import torch

        done: dict[int, Any] = {}
        for table, key in _places(self._module):
            old = table[key]
            if id(old) not in done:
                new = other(old)
                if isinstance(old, torch.nn.Parameter) and new is not old:
                    new = torch.nn.Parameter(new, requires_grad=False)
                # The old one is kept with it: a freed object's id may be given again.
                done[id(old)] = (old, new)
            table[key] = done[id(old)][1]


def _places(module: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Where a module and its parts keep their tensors."""
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    yield table, key


def pinned(tensor: Any, device: Any) -> Any:
    """The tensor in page-locked memory, where the system gives some."""
    import torch

    tensor = tensor.detach()
    flat = torch.contiguous_format if tensor.dim() != 4 else torch.channels_last
    tensor = tensor.contiguous(memory_format=flat)
    if torch.device(device).type != "cuda":
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError:
        return tensor  # the limit of locked memory is reached: slower, but right


def _as(tensor: Any, precision: Any) -> Any:
    return tensor.detach().to(precision) if tensor.is_floating_point() else tensor.detach()
