"""The models that ship, and how they were made: ``python -m models.train --help``."""
