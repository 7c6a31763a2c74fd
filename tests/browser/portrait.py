"""A picture for the fake camera: somebody before a wall, in place of Chromium's green test pattern."""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT = 320, 240
WALL, SHIRT, SKIN, HAIR = (168, 128, 120), (92, 118, 150), (150, 112, 150), (52, 126, 132)
"""Each a colour as luma and the two chroma parts."""


def _colour_at(x: int, y: int) -> tuple[int, int, int]:
    def inside(cx: int, cy: int, rx: int, ry: int) -> bool:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1

    if inside(160, 84, 47, 38) and y < 92:
        return HAIR
    if inside(160, 114, 41, 52) or (146 <= x <= 174 and 150 <= y <= 184):
        return SKIN
    if inside(160, 262, 104, 92):
        return SHIRT
    luma, u, v = WALL
    return luma + y // 8 - x // 16, u, v


def fake_camera(path: Path) -> Path:
    """A y4m file of one still picture, which Chromium plays again and again."""
    if not path.exists():
        pixels = [[_colour_at(x, y) for x in range(WIDTH)] for y in range(HEIGHT)]
        luma = bytes(pixel[0] for row in pixels for pixel in row)
        chroma = [bytes(row[x][part] for row in pixels[::2] for x in range(0, WIDTH, 2)) for part in (1, 2)]
        frame = b"FRAME\n" + luma + chroma[0] + chroma[1]
        path.write_bytes(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F1:1 Ip A1:1 C420jpeg\n".encode() + frame * 10)
    return path
