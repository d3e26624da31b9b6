"""Memory as squares: a card's shares at a glance, on a phone, too."""

from __future__ import annotations

from cogs import texts
from danzar_gpu.holders import Shares
from danzar_gpu.memory import gib

CELLS = 12
LLM, PROMISED, OURS, OTHER, FREE = "🟦", "🟪", "🟩", "🟧", "⬛"
LEGEND = texts.BAR_LEGEND.format(llm=LLM, promised=PROMISED, ours=OURS, other=OTHER, free=FREE)
NOTABLE = 0.01
"""A share of the card below which a part gets no square of its own."""


def parts(shares: Shares) -> tuple[tuple[str, str, int], ...]:
    """(square, name, bytes), in the order of the bar."""
    names = texts.BAR_PARTS
    return (
        (LLM, names["llm"], shares.llm),
        (PROMISED, names["promised"], shares.promised),
        (OURS, names["ours"], shares.ours),
        (OTHER, names["other"], shares.other),
        (FREE, names["free"], shares.free),
    )


def bar(shares: Shares, cells: int = CELLS) -> str:
    """``cells`` squares, shared out by largest remainders; what is notable has one at least."""
    if shares.total <= 0:
        return FREE * cells
    sizes = [max(0, size) for _, _, size in parts(shares)]
    exact = [size * cells / shares.total for size in sizes]
    counts = [int(share) for share in exact]
    for i, size in enumerate(sizes):
        if counts[i] == 0 and size >= NOTABLE * shares.total:
            counts[i] = 1
    while sum(counts) < cells:
        i = max(range(len(counts)), key=lambda n: exact[n] - counts[n])
        counts[i] += 1
    while sum(counts) > cells:
        i = max(range(len(counts)), key=lambda n: (counts[n] > 1, counts[n] - exact[n]))
        counts[i] -= 1
    squares = (square for square, _, _ in parts(shares))
    return "".join(square * count for square, count in zip(squares, counts, strict=True))


def figures(shares: Shares) -> str:
    """The parts that are there, in GB: ``🟦 LLM 6.2 · ⬛ free 4.9 GB``."""
    named = [
        texts.BAR_PART.format(square=square, name=name, size=gib(size))
        for square, name, size in parts(shares)
        if size >= NOTABLE * shares.total or square == FREE
    ]
    return texts.BAR_FIGURES.format(parts=" · ".join(named))
