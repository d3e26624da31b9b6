"""What a card of the stand-in computes: torch's CPU kernels, on the card's memory.

The memory of the stand-in's cards is this machine's, so a tensor there can be looked at as one of
the CPU. Every kernel that torch has for CUDA is overridden by one that does so; what only makes,
views or copies tensors stays torch's own. While a graph is captured, what is computed is noted
for its replays, as the memory that it reads and writes.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

DEVICE_ASSERT = 710
KERNEL_BYTES = 2 << 20
"""What a kernel takes of its card, beside torch's allocator, for as long as the process lives."""
OWN = {
    # They make, view or name memory, or copy one value of it.
    "aten::empty.memory_format",
    "aten::empty_strided",
    "aten::as_strided",
    "aten::view",
    "aten::_reshape_alias",
    "aten::unfold",
    "aten::view_as_real",
    "aten::view_as_complex",
    "aten::resize_",
    "aten::set_",
    "aten::set_.source_Storage",
    "aten::set_.source_Storage_storage_offset",
    "aten::set_.source_Tensor",
    "aten::record_stream",
    "aten::_local_scalar_dense",
    "aten::is_pinned",
    "aten::_pin_memory",
    "aten::_copy_from",
    "aten::_copy_from_and_resize",
}
MORE = ("aten::convolution", "aten::copy_", "aten::equal", "aten::linear")
"""Of these torch has no kernel for CUDA: they choose between libraries."""
SINGLE = {
    # In half precision a card sums up in single; the CPU is slow there, too.
    "aten::convolution",
    "aten::mm",
    "aten::bmm",
    "aten::addmm",
    "aten::baddbmm",
    "aten::linear",
}

_runtime = ctypes.CDLL("libcudart.so.13")
_libraries: dict[str, torch.library.Library] = {}
"""What is overridden stays so as long as these do."""
_noted: dict[int, Callable[[], None]] = {}
_numbers = itertools.count()
_loaded: set[tuple[str, int]] = set()


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)
def _replay(number: int, forget: int) -> None:
    if forget:
        _noted.pop(number, None)
    else:
        _noted[number]()


def override(module: str) -> None:
    """Put kernels of ours in the place of those that torch or torchvision has for CUDA."""
    if module == "torch":
        _runtime.standin_on_compute(_replay)
        known = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
        names = {name for name in known if name.startswith("aten::")} - OWN | set(MORE)
    else:
        names = {"torchvision::nms"}
    for name in sorted(names):
        namespace = name.partition("::")[0]
        if namespace not in _libraries:
            _libraries[namespace] = torch.library.Library(namespace, "IMPL")
        _libraries[namespace].impl(name, _kernel(name), "CUDA", allow_override=True)


def _kernel(name: str) -> Callable[..., Any]:
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    operation = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
    operation = ATTENTION.get(packet, operation)
    single = name in SINGLE

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if _runtime.standin_broken():
            torch.cuda.synchronize()  # says so
        card: list[torch.device] = []
        mirrored: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        def on_host(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.device.type == "cuda":
                card.append(value.device)
                mirror = _mirror(value)
                mirrored[id(mirror)] = (mirror, value)
                return mirror
            if isinstance(value, torch.device) and value.type == "cuda":
                card.append(value)
                return torch.device("cpu")
            return value

        given, named = tree_map(on_host, (args, kwargs))
        if card:
            _load(name, card[0])

        def computed() -> Any:
            if not single:
                return operation(*given, **named)
            wide = tree_map(_wide, (given, named))
            return tree_map(lambda t: _narrow(t, args[0].dtype), operation(*wide[0], **wide[1]))

        try:
            result = computed()
        except IndexError:
            _runtime.standin_break(DEVICE_ASSERT)
            result = tree_map(_as_if, given[0])
        outputs: list[tuple[int, torch.Tensor]] = []
        where = itertools.count()

        def on_card(value: Any) -> Any:
            place = next(where)
            if not isinstance(value, torch.Tensor):
                return value
            if id(value) in mirrored:
                mirror, original = mirrored[id(value)]
                if mirror.shape == original.shape and mirror.data_ptr() == original.data_ptr():
                    return original
                original.resize_(mirror.shape)  # an output that was empty
                outputs.append((place, original))
                _mirror(original).copy_(mirror)
                return original
            made = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=card[0]
            )
            _mirror(made).copy_(value)
            outputs.append((place, made))
            return made

        shown = tree_map(on_card, result)
        if _runtime.standin_capturing():
            targets = [(place, _mirror(tensor)) for place, tensor in outputs]

            def again() -> None:
                leaves: list[Any] = []
                tree_map(leaves.append, computed())
                for place, target in targets:
                    target.copy_(leaves[place])

            number = next(_numbers)
            _noted[number] = again
            _runtime.standin_computes(number)
        return shown

    return kernel


def _flash(query: Any, key: Any, value: Any, *_: Any, scale: Any = None, **__: Any) -> Any:
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
    sums, seed = found.new_zeros(found.shape[:3], dtype=torch.float32), torch.zeros(2)
    return found, sums, None, None, found.shape[2], key.shape[2], seed, seed, found.new_zeros(0)


def _efficient(query: Any, key: Any, value: Any, bias: Any, *_: Any, **named: Any) -> Any:
    found = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, scale=named.get("scale")
    )
    sums, seed = found.new_zeros(found.shape[:3], dtype=torch.float32), torch.zeros(1)
    return found, sums, seed, seed


ATTENTION = {
    "_scaled_dot_product_flash_attention": _flash,
    "_scaled_dot_product_efficient_attention": _efficient,
}
"""A card's own algorithms; nothing here asks for more than their first result."""


def _load(name: str, card: torch.device) -> None:
    here = name, card.index or 0
    if here not in _loaded:
        with torch.cuda.device(card):
            if _runtime.standin_load(ctypes.c_uint64(KERNEL_BYTES)):
                raise torch.AcceleratorError("CUDA error: out of memory")
        _loaded.add(here)


def _mirror(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor of the CPU."""
    size = tensor.untyped_storage().nbytes()
    if not size:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * size).from_address(tensor.untyped_storage().data_ptr())
    flat = torch.frombuffer(memory, dtype=torch.uint8)
    storage = flat.untyped_storage()
    made = torch.empty(0, dtype=tensor.dtype)
    return made.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())


def _wide(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _narrow(value: Any, precision: torch.dtype) -> Any:
    return value.to(precision) if isinstance(value, torch.Tensor) else value


def _as_if(value: Any) -> Any:
    return torch.empty_like(value) if isinstance(value, torch.Tensor) else value
