"""Where the bands lie in a stamp file: extensions by name, the planes of a cube, or a single image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lensscan.errors import StampError
from lensscan.schema import Status
from lensscan.survey.fits import Hdu
from lensscan.survey.planes import IMAGE_NAMES, plane_kind

__all__ = ["Layout", "find_layout", "single_image"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of the wanted bands in one kind of file.

    Attributes
    ----------
    image : tuple of int
        HDU of each band, -1 if absent.
    plane : tuple of int
        Plane of a cube, -1 for two-dimensional images.
    extra : tuple of tuple of (str, int)
        (kind, HDU) of the planes beside each band.
    """

    image: tuple[int, ...]
    plane: tuple[int, ...]
    extra: tuple[tuple[tuple[str, int], ...], ...]


def _has_pixels(hdu: Hdu) -> bool:
    return hdu.kind in ("image", "compressed") and hdu.size > 0


def single_image(hdus: Sequence[Hdu]) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Return the image HDU of a one-band file and the planes beside it.

    Raises
    ------
    StampError
        WRONG_BANDS if no HDU holds an image, WRONG_SHAPE if the image is not two-dimensional.
    """
    named = {hdu.header.name: hdu.index for hdu in hdus if _has_pixels(hdu)}
    plain = [index for name, index in named.items() if plane_kind(name) is None]
    image = next((named[name] for name in IMAGE_NAMES if name in named), plain[0] if plain else -1)
    if image < 0:
        raise StampError(Status.WRONG_BANDS, "no image in the file")
    if len(hdus[image].shape) != 2:
        raise StampError(Status.WRONG_SHAPE, f"HDU {image} has shape {hdus[image].shape}")
    extra = ((kind, index) for name, index in named.items() if (kind := plane_kind(name)) and index != image)
    return image, tuple(extra)


def find_layout(hdus: Sequence[Hdu], labels: Sequence[str], survey_labels: Sequence[str]) -> Layout:
    """Find the bands of a file that holds all of them.

    Parameters
    ----------
    labels : sequence of str
        Wanted bands as the survey writes them, "" for bands it does not have.
    survey_labels : sequence of str
        All bands of the survey, in the order of a cube's planes if its header has no BAND1 ... BANDn.

    Raises
    ------
    StampError
        WRONG_BANDS if no band is found, WRONG_SHAPE if an image has a shape that no stamp has.
    """
    cube = next((hdu for hdu in hdus if _has_pixels(hdu) and len(hdu.shape) == 3), None)
    if cube is not None:
        return _cube_layout(cube, labels, survey_labels)
    named = {hdu.header.name: hdu.index for hdu in hdus if _has_pixels(hdu)}
    image = tuple(_find_band(named, label) for label in labels)
    if max(image, default=-1) < 0 and len(survey_labels) == 1 and any(labels):
        index, extra = single_image(hdus)
        return Layout(tuple(index if label else -1 for label in labels), (-1,) * len(labels), (extra,) * len(labels))
    if max(image, default=-1) < 0:
        raise StampError(Status.WRONG_BANDS, f"no extension is named like one of {', '.join(labels)}")
    for index in image:
        if index >= 0 and len(hdus[index].shape) != 2:
            raise StampError(Status.WRONG_SHAPE, f"HDU {index} has shape {hdus[index].shape}")
    return Layout(image, (-1,) * len(labels), tuple(_find_planes(named, label) for label in labels))


def _find_band(named: dict[str, int], label: str) -> int:
    if not label:
        return -1
    words = [label.upper()]
    words += [f"{label}_{suffix}".upper() for suffix in IMAGE_NAMES]
    words += [f"{suffix}_{label}".upper() for suffix in IMAGE_NAMES]
    return next((named[word] for word in words if word in named), -1)


def _find_planes(named: dict[str, int], label: str) -> tuple[tuple[str, int], ...]:
    if not label:
        return ()
    found = []
    for name, index in named.items():
        before, _, after = name.rpartition("_")
        first, _, rest = name.partition("_")
        kind = plane_kind(after) if before == label.upper() else plane_kind(first) if rest == label.upper() else None
        if kind:
            found.append((kind, index))
    return tuple(found)


def _cube_layout(cube: Hdu, labels: Sequence[str], survey_labels: Sequence[str]) -> Layout:
    planes = cube.shape[0]
    stated = [cube.header.text(f"BAND{number}").upper() for number in range(1, planes + 1)]
    order = stated if all(stated) else [label.upper() for label in survey_labels]
    if len(order) != planes:
        raise StampError(Status.WRONG_BANDS, f"{planes} planes for {len(order)} bands and no BAND1 ... in the header")
    plane = tuple(order.index(label.upper()) if label.upper() in order else -1 for label in labels)
    if max(plane, default=-1) < 0:
        raise StampError(Status.WRONG_BANDS, "the cube holds none of the wanted bands")
    image = tuple(cube.index if number >= 0 else -1 for number in plane)
    return Layout(image, plane, ((),) * len(labels))
