"""The vision worker: the only process that imports torch, captures frames and runs models.

``protocol`` is what both sides say, ``handle`` and ``inline`` are the bot's side,
everything else runs in the worker.
"""
