"""Everything wrong with a data folder at once, where `freeanchor.data.coco` stops at the first problem.

for problem in check_folder(Path("data/shapes")):
    print(problem)
"""

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from freeanchor.data.image_names import ImageNames, name_problem
from freeanchor.data.images import opened, orientation, size_difference, to_rgb
from freeanchor.data.json_check import ImageEntry, JsonContent, check_json, split_paths
from freeanchor.errors import FileError, Problem, problem_lines

UPRIGHT = (None, 0, 1)
MAX_THREADS = 8  # decoding lets go of Python's lock, so threads share the work
SPLITS = ("train", "val")
_error, _warning = Problem.error, Problem.warning


@dataclass(frozen=True, kw_only=True)
class _Split:
    """What was found out about a split; `images` is its image folder, if it is there."""

    name: str
    content: JsonContent
    images: Path | None
    problems: tuple[Problem, ...]


def check_folder(directory: Path, *, splits: Sequence[str] = SPLITS, decode: bool = True) -> list[Problem]:
    """All that is wrong with the `splits` of a COCO-format folder, in either layout of `freeanchor.data`.

    Errors keep it from being read, trained on or evaluated rightly; warnings say what happens in spite of them. With
    `decode` every image is read to its end, as training would; without, only its header. Never raises for what
    the folder holds; a folder without any error can be read by `read_split`, and its images loaded.
    """
    found, common = _examine(directory, splits, decode)
    return [problem for split in found for problem in split.problems] + common


def report_folder(directory: Path, *, splits: Sequence[str] = SPLITS, decode: bool = True) -> tuple[list[str], bool]:
    """What `check_folder` finds as lines to print, and whether the folder can be used.

    Many problems of one kind are cut short; a line for each split ends the report, "fine" where nothing was found.
    """
    found, common = _examine(directory, splits, decode)
    problems = [problem for split in found for problem in split.problems] + common
    lines = problem_lines(problems) + [_summary(split) for split in found]
    return lines, all(problem.severity == "warning" for problem in problems)


def _examine(directory: Path, splits: Sequence[str], decode: bool) -> tuple[list[_Split], list[Problem]]:
    if not directory.is_dir():
        remedy = "give one that holds train.json, val.json and images/"
        return [], [_error("missing files", str(directory), "no such data folder", remedy)]
    found = [_split(directory, name, decode) for name in splits]
    return found, [*_differences(found), *_unlisted(found)]


def _split(directory: Path, name: str, decode: bool) -> _Split:
    path, images = split_paths(directory, name)
    if not path.is_file():
        remedy = "write the boxes there in COCO format, or give another folder"
        problem = _error("missing files", str(directory), f"holds no {name}.json", remedy)
        content = JsonContent(where=f"{name}.json", problems=())
        return _Split(name=name, content=content, images=None, problems=(problem,))
    content = check_json(path, path.relative_to(directory).as_posix())
    if not images.is_dir():
        remedy = f"the images of {path.name} belong there"
        problem = _error("missing files", f"{images.name}/", "no such folder", remedy)
        return _Split(name=name, content=content, images=None, problems=(*content.problems, problem))
    names = {entry.file_name for entry in content.entries}
    known = ImageNames(images)
    files = known.matched(names)
    spelt = [name_problem(files, len(names), content.where)] if files else []
    entries = tuple(replace(entry, file_name=files.get(entry.file_name, entry.file_name)) for entry in content.entries)
    found = [_with_hint(problem, known) for problem in image_problems(entries, images, decode=decode, desc=name)]
    problems = (*content.problems, *spelt, *found)
    return _Split(name=name, content=replace(content, entries=entries), images=images, problems=problems)


def _with_hint(problem: Problem, known: ImageNames) -> Problem:
    """A missing image with the file that it may be, where one or more are called alike."""
    if problem.kind != "missing images" or not (alike := known.alike(problem.where.partition("/")[2])):
        return problem
    others = f" and {len(alike) - 1:,} more" if alike[1:] else ""
    what = f"{problem.what}, but there is {alike[0]!r}{others}"
    return replace(problem, what=what, remedy="if that is it, write its name into the json, each into one entry")


def _differences(found: Sequence[_Split]) -> Iterator[Problem]:
    """What does not go together in two splits: other categories, the same images."""
    readable = [split for split in found if split.content.categories is not None]
    for one, other in pairwise(readable):
        where = f"{one.content.where}, {other.content.where}"
        if one.content.categories != other.content.categories:
            what = _category_difference(one, other)
            yield _error("categories that differ", where, what, "give both the same list")
        names = {entry.file_name for entry in one.content.entries}
        for entry in other.content.entries:
            if entry.file_name in names:
                here = f"{other.content.where}: image {entry.image_id}"
                what = f"{entry.file_name!r} is listed in {one.content.where} as well"
                remedy = "if it is the same image, take it out of one, or what is measured is what was learned"
                yield _warning("images in two splits", here, what, remedy)


def _category_difference(one: _Split, other: _Split) -> str:
    """The first category in which two splits differ."""
    first, second = (dict(split.content.categories or {}) for split in (one, other))
    identity = min(i for i in first.keys() | second.keys() if first.get(i) != second.get(i))
    names = [repr(names[identity]) if identity in names else "missing" for names in (first, second)]
    return f"categories differ: {identity} is {names[0]} in {one.name}, {names[1]} in {other.name}"


def _unlisted(found: Sequence[_Split]) -> Iterator[Problem]:
    """Files of the image folders that no split lists; not asked where a json that may list them was not read."""
    folders = {split.images for split in found if split.images is not None}
    for folder in sorted(folders):
        users = [split for split in found if split.images in (folder, None)]
        if all(split.content.categories is not None for split in users):
            yield from unlisted_problems({e.file_name for split in users for e in split.content.entries}, folder)


def _summary(split: _Split) -> str:
    content = split.content
    counts = [
        f"{count:,} {word}{'' if count == 1 else 's'}"
        for word in ("error", "warning")
        if (count := sum(problem.severity == word for problem in split.problems))
    ]
    is_usable = all(problem.severity == "warning" for problem in split.problems)
    state = " but for ".join(["fine", *counts]) if is_usable else ", ".join(counts)
    if content.categories is None:
        return f"{split.name}: {state}"
    crowds = f" and {content.num_crowds:,} crowd regions" if content.num_crowds else ""
    return (
        f"{split.name}: {len(content.entries):,} images, {content.num_objects:,} objects{crowds}, "
        f"{len(content.categories)} categories: {state}"
    )


def image_problems(
    entries: Sequence[ImageEntry], folder: Path, *, decode: bool = True, desc: str = "images"
) -> list[Problem]:
    """Problems of the listed images, in their order; with `decode`, each is read to its end.

    Without, only headers are read: much faster, but blind to files that are cut short. Progress goes to stderr.
    """
    executor = ThreadPoolExecutor(max_workers=min(MAX_THREADS, os.cpu_count() or 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on large or odd files, which are read all the same
        try:
            found = executor.map(lambda entry: _problems(entry, folder, decode), entries)
            bar = tqdm(found, total=len(entries), desc=f"check {desc}", unit="image", disable=None)
            return [problem for problems in bar for problem in problems]
        finally:
            executor.shutdown(cancel_futures=True)  # an interruption does not wait for the rest


def _problems(entry: ImageEntry, folder: Path, decode: bool) -> list[Problem]:
    where = f"{folder.name}/{entry.file_name}"
    try:
        with opened(folder / entry.file_name) as image:
            size, flag = image.size, orientation(image)
            if decode:
                to_rgb(image)
    except FileError as error:
        return [_error("missing images" if error.is_missing else "unreadable images", where, error.what, error.remedy)]
    problems = []
    if entry.size is not None and size != entry.size:  # boxes would lie in the wrong places
        problems.append(_error("images of another size", where, *size_difference(size, entry.size, flag)))
    if flag not in UPRIGHT:
        what = f"viewers turn it (EXIF orientation {flag}), here it is read as stored"
        remedy = "see that its boxes were drawn on the stored pixels, or store it turned"
        problems.append(_warning("images turned by a flag", where, what, remedy))
    return problems


def unlisted_problems(listed: Collection[str], folder: Path) -> Iterator[Problem]:
    """The files of an image folder that no json lists, as one problem; hidden files do not count."""
    unlisted = [
        name
        for base, folders, names in os.walk(folder)
        for name in ((Path(base) / name).relative_to(folder).as_posix() for name in names)
        if name not in listed and not name.split("/")[-1].startswith(".")
    ]
    if unlisted:
        what = f"{len(unlisted):,} files are in no json, {min(unlisted)!r} for one"
        yield _warning("files that are not listed", f"{folder.name}/", what, "they are not used")
