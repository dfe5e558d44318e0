"""A zoo of stamps: broken in every way we know of, each with the status that it must get."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lensscan.schema import Status

BANDS = ("G", "R", "I", "Z")
SIZE = 64
SCALE = 0.263
ZERO_POINT = 30.0
BLOCK = 2880


@dataclass(frozen=True)
class Specimen:
    """One stamp of the zoo; `status` PENDING means that it must be read, with the values of `pixels`."""

    name: str
    file: str
    status: Status


def pixels(seed: int = 7) -> np.ndarray:
    """Return the (4, 64, 64) counts that every readable specimen shows, multiples of 1/8 below 2^12."""
    rng = np.random.default_rng(seed)
    return (np.round(rng.normal(0.0, 40.0, (len(BANDS), SIZE, SIZE)) * 8) / 8).astype(np.float32)


def card(key: str, value: object) -> bytes:
    """Return one header card."""
    if isinstance(value, bool):
        text = f"{key:8}= {'T' if value else 'F':>20}"
    elif isinstance(value, str):
        text = f"{key:8}= '{value:8}'"
    else:
        text = f"{key:8}= {value!r:>20}"
    return text.ljust(80).encode()


def blocks(*cards: bytes) -> bytes:
    """Return cards and END, padded to whole blocks."""
    raw = b"".join(cards) + b"END".ljust(80)
    return raw + b" " * (-len(raw) % BLOCK)


def pad(data: bytes) -> bytes:
    """Pad data to whole blocks."""
    return data + b"\0" * (-len(data) % BLOCK)


def primary() -> bytes:
    """Return an empty primary HDU."""
    return blocks(card("SIMPLE", True), card("BITPIX", 8), card("NAXIS", 0), card("EXTEND", True))


def extension(name: str, image: np.ndarray, *more: bytes, shape: tuple[int, ...] | None = None) -> bytes:
    """Return an image extension; `shape` forges what the header claims."""
    codes = {"f4": -32, "f8": -64, "i2": 16, "i4": 32, "u1": 8}
    code = codes[image.dtype.str[1:]]
    claimed = shape or image.shape
    axes = [card(f"NAXIS{n}", int(side)) for n, side in enumerate(reversed(claimed), 1)]
    header = blocks(
        card("XTENSION", "IMAGE"), card("BITPIX", code), card("NAXIS", len(claimed)), *axes,
        card("PCOUNT", 0), card("GCOUNT", 1), card("EXTNAME", name), card("MAGZERO", ZERO_POINT),
        card("PIXSCALE", SCALE), *more,
    )  # fmt: skip
    return header + pad(image.astype(image.dtype.newbyteorder(">")).tobytes())


def stamp(images: np.ndarray, names: tuple[str, ...] = BANDS, *more: bytes) -> bytes:
    """Return a multi-extension stamp file."""
    return primary() + b"".join(extension(name, image, *more) for name, image in zip(names, images, strict=True))


def _scaled() -> bytes:
    counts = np.round(pixels() * 8).astype(np.int16)
    return stamp(counts, BANDS, card("BSCALE", 0.125), card("BZERO", 0.0))


def _holed(fraction: float, value: float) -> bytes:
    images = pixels()
    images[:, : round(SIZE * fraction)] = value
    return stamp(images)


def _flipped() -> bytes:
    raw = bytearray(stamp(pixels()))
    for place in (raw.index(b"NAXIS1") + 5, raw.index(b"BITPIX", BLOCK) + 2):
        raw[place] ^= 0x10
    return bytes(raw)


def _forged() -> bytes:
    huge = (226_000, 226_000)
    return primary() + b"".join(extension(n, i, shape=huge) for n, i in zip(BANDS, pixels(), strict=True))


HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>No such cut-out</body></html>\n"
FILES: dict[str, tuple[Callable[[], bytes], Status]] = {
    "good": (lambda: stamp(pixels()), Status.PENDING),
    "truncated": (lambda: stamp(pixels())[:-9000], Status.UNREADABLE),
    "truncated-header": (lambda: stamp(pixels())[: BLOCK + 900], Status.UNREADABLE),
    "nan": (lambda: _holed(1.0, np.nan), Status.NOT_FINITE),
    "mostly-nan": (lambda: _holed(0.6, np.nan), Status.MASKED),
    "too-small": (lambda: stamp(pixels()[:, :20, :20]), Status.WRONG_SHAPE),
    "one-dimensional": (lambda: stamp(pixels()[:, 0]), Status.WRONG_SHAPE),
    "wrong-bands": (lambda: stamp(pixels()[:2], ("U", "Y")), Status.WRONG_BANDS),
    "too-few-bands": (lambda: stamp(pixels()[:2], ("G", "R")), Status.WRONG_BANDS),
    "wrong-names": (lambda: stamp(pixels(), ("AA", "BB", "CC", "DD")), Status.WRONG_BANDS),
    "no-image": (primary, Status.WRONG_BANDS),
    "html": (lambda: HTML, Status.UNREADABLE),
    "forged-header": (_forged, Status.UNREADABLE),
    "zero-bytes": (lambda: b"", Status.UNREADABLE),
    "gzip": (lambda: gzip.compress(stamp(pixels())), Status.PENDING),
    "gzip-truncated": (lambda: gzip.compress(stamp(pixels()))[:-4000], Status.UNREADABLE),
    "gzip-of-html": (lambda: gzip.compress(HTML), Status.UNREADABLE),
    "int16-bscale": (_scaled, Status.PENDING),
    "missing-padding": (lambda: stamp(pixels())[: -(-4 * SIZE * SIZE % BLOCK)], Status.PENDING),
    "junk-at-end": (lambda: stamp(pixels()) + b"\0" * 5000, Status.PENDING),
    "blank": (lambda: stamp(np.zeros_like(pixels())), Status.BLANK),
    "constant": (lambda: stamp(np.full_like(pixels(), 3.5)), Status.BLANK),
    "bit-flips": (_flipped, Status.UNREADABLE),
    "noise": (lambda: np.random.default_rng(3).bytes(70_000), Status.UNREADABLE),
    "wrong-scale": (
        lambda: stamp(pixels()).replace(card("PIXSCALE", SCALE), card("PIXSCALE", 0.4)),
        Status.WRONG_SCALE,
    ),
}


def build(folder: Path) -> list[Specimen]:
    """Write the zoo into `folder` and return it; files are named ``<name>.fits``."""
    folder.mkdir(parents=True, exist_ok=True)
    zoo = []
    for name, (make, status) in FILES.items():
        (folder / f"{name}.fits").write_bytes(make())
        zoo.append(Specimen(name, f"{name}.fits", status))
    (folder / "directory.fits").mkdir()
    os.mkfifo(folder / "fifo.fits")
    os.symlink(folder / "nowhere.fits", folder / "dangling.fits")
    zoo += [
        Specimen("directory", "directory.fits", Status.UNREADABLE),
        Specimen("fifo", "fifo.fits", Status.UNREADABLE),
        Specimen("dangling", "dangling.fits", Status.MISSING_FILE),
        Specimen("missing", "missing.fits", Status.MISSING_FILE),
    ]
    return zoo
