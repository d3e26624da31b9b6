"""The camera's and the encoder's marks on a finished picture."""

from __future__ import annotations

import cv2
import numpy as np

from bot.vision.scene.canvas import Image
from bot.vision.scene.styles import Style


def finish(rng: np.random.Generator, style: Style, image: Image, mild: bool = False) -> Image:
    """Tint, gamma, vignette, blur, grain, pixels, JPEG; ``mild`` keeps to tint and vignette."""
    h, w = image.shape[:2]
    out = image
    if style.pixel:
        p = max(2, round(style.pixel * h / 720))
        small = cv2.resize(out, (max(8, w // p), max(8, h // p)), interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST)
        out = cv2.addWeighted(pixels, 0.75, out, 0.25, 0) if rng.random() < 0.6 else out
    gamma = 1.0 if mild else float(np.exp(rng.normal(0, 0.15)))
    gain = np.asarray(style.tint) * (1.0 if mild else float(rng.uniform(0.85, 1.12)))
    levels = (np.arange(256) / 255) ** gamma
    table = np.clip(levels[:, None] * gain[None] * 255, 0, 255).astype(np.uint8)[None]
    out = cv2.LUT(np.ascontiguousarray(out), table)
    if rng.random() < 0.3:
        y, x = np.ogrid[-1:1:36j, -1:1:64j]
        edge = 1 - float(rng.uniform(0.1, 0.4)) * np.clip(x * x + y * y - 0.4, 0, 1)
        shade = cv2.resize((edge * 255).astype(np.uint8), (w, h))
        out = cv2.multiply(out, cv2.merge([shade, shade, shade]), scale=1 / 255)
    if mild:
        return np.asarray(out, np.uint8)
    if rng.random() < style.blur:
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.4, 1.3)) * h / 720 + 0.05)
    grain = float(rng.uniform(*style.grain)) if rng.random() < 0.6 else 0.0
    if grain > 0.5:
        tile = rng.normal(0, grain, (h // 2 + 1, w // 2 + 1)).astype(np.float32)
        tile = cv2.resize(tile, (w, h), interpolation=cv2.INTER_LINEAR)
        out = np.clip(out.astype(np.float32) + tile[..., None], 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(45, 92))
        done, data = cv2.imencode(".jpg", np.asarray(out), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done:
            out = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.asarray(out, np.uint8)
