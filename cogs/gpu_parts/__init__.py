"""The parts of ``!gpu``: one job each. The commands themselves are in ``cogs/gpu.py``."""
