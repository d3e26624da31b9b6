"""CLIP as a service: the pulled model or the shipped one, and what it is expected to need."""

from __future__ import annotations

from bot.vision.chosen_files import clip_file
from bot.vision.model_files import safetensors_parameters
from bot.vision.service import CONTEXT_BYTES, ModelService, Plan
from bot.vision.worker.protocol import ClipSpec
from danzar_gpu import Footprint

ACTIVATIONS_BYTES = 64 << 20
PICTURE_BYTES = 24 << 20


class ClipService(ModelService):
    """Names what goes on. The first to leave a card when YOLO needs it."""

    name = "clip"
    title = "CLIP"
    priority = 10
    concepts: tuple[str, ...] = ()
    """Phrases that were chosen since the start; empty: those of the configuration."""

    @property
    def enabled(self) -> bool:
        return self.settings.clip.enabled

    def plan(self) -> Plan:
        wish = self.settings.clip
        found = clip_file(wish)
        folder = found.path.parent
        model, note = wish.model_name, ""
        if not found.pulled:
            model = folder.name
            note = (
                f"{model} serves until {wish.model_name} was fetched with "
                f"`danzar models pull {wish.model_name}`"
            )
        spec = ClipSpec(
            folder=str(folder),
            sha256=found.pin.sha256 if found.pin else None,
            concepts=self.concepts or wish.concepts,
            confidence_threshold=wish.confidence_threshold,
            max_insights=wish.max_insights,
            batch_size=wish.batch_size,
        )
        numbers = safetensors_parameters(found.path)
        return Plan(spec, model, predict(numbers, wish.batch_size), note)


def predict(parameters: int, batch_size: int) -> Footprint:
    """What an open_clip model will take on a card, before it was ever measured.

    Weights: the file's header says how many numbers there are, and a card computes in half
    precision, whatever the file holds; those for the text are there while phrases are encoded.
    Activations: 64 MiB for the text and workspaces, 24 MiB for each picture of a batch.
    """
    return Footprint(
        weights_bytes=2 * parameters,
        activations_bytes=ACTIVATIONS_BYTES + batch_size * PICTURE_BYTES,
        context_bytes=CONTEXT_BYTES,
    )
