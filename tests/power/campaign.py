"""Several lives on one disk, each ended by a power cut, and a look at every other cut that could have ended it."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tests.power.disk import SURVIVALS, Disk, Files
from tests.power.life import DATA, Life, Settings, live
from tests.power.promises import Promises
from tests.power.recorder import SHARED_SUFFIX
from tests.power.recovery import Fault, recover

MAX_REPORTED: Final = 20
"""So many violations are kept word by word."""
SHARED_BYTES: Final = 32 * 1024
FOLDER: Final = next((folder for folder in ("/dev/shm",) if Path(folder).is_dir()), None)  # noqa: S108 - own folders
"""In memory where there is such a place: what the disk keeps is worked out here, and need not be waited for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign does. The same plan and seed make the same images."""

    lives: int = 3
    stride: int = 1
    """A look at every so-many-th cut."""
    survivals: Sequence[str] = tuple(SURVIVALS)
    settings: Settings = field(default_factory=Settings)


@dataclass(slots=True)
class Tally:
    """What was seen."""

    cuts: int = 0
    """Points at which the power was cut."""
    images: int = 0
    """Different contents of the disk, or the same with more acknowledged, that a server was started on."""
    ahead: int = 0
    """Images with the batch that was under way."""
    acknowledged: int = 0
    """Batches that were acknowledged."""
    faults: Counter[Fault] = field(default_factory=Counter)
    """Images with each kind of fault."""
    struck: Counter[str] = field(default_factory=Counter)
    """How often the disk failed, by kind."""
    violations: int = 0
    """Images with any fault."""
    reports: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Sums up."""
        self.cuts += other.cuts
        self.images += other.images
        self.ahead += other.ahead
        self.acknowledged += other.acknowledged
        self.faults += other.faults
        self.struck += other.struck
        self.violations += other.violations
        self.reports = (self.reports + other.reports)[:MAX_REPORTED]


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    cut: int
    survival: str
    files: Files


def run_campaign(seed: int, plan: Plan) -> Tally:
    """Lives one after the other; each begins with what an image of the one before it holds."""
    tally = Tally()
    files: Files = {}
    before: Promises | None = None
    for number in range(plan.lives):
        name = f"seed {seed}, life {number}"
        with tempfile.TemporaryDirectory(prefix="blockyard-power-", dir=FOLDER) as folder:
            life = live(Path(folder), files, before, Random(name), plan.settings)
        tally.acknowledged += len(life.promises) - 1
        tally.struck.update(life.struck)
        followed = _look(life, name, plan, tally)
        if followed is None:
            break
        files, before = followed
    return tally


def _look(life: Life, name: str, plan: Plan, tally: Tally) -> tuple[Files, Promises] | None:
    """Recovers from every image of a life. Answers one of them, with what is promised there, to go on with."""
    seen: set[tuple[str, int]] = set()
    random = Random(f"{name}, the next life")
    chosen: tuple[Files, Promises] | None = None
    for image in images(life, name, plan):
        due = life.due(image.cut)
        key = (_digest(image.files), due)
        if key in seen:
            continue
        seen.add(key)
        with tempfile.TemporaryDirectory(prefix="blockyard-power-", dir=FOLDER) as folder:
            found = recover(Path(folder), image.files, life.promises, due)
        if found.faults:
            tally.violations += 1
            tally.faults.update({fault for fault, _ in found.faults})
            what = "; ".join(f"{fault}: {text}" for fault, text in found.faults)
            tally.reports = [*tally.reports, f"{image.name}: {what}"][:MAX_REPORTED]
        elif found.state is not None and not life.promises[found.state].in_doubt:
            tally.ahead += found.state > due
            if random.randrange(len(seen)) == 0:  # each is as likely as any other
                chosen = image.files, life.promises[found.state]
    tally.images += len(seen)
    tally.cuts += len(range(0, len(life.steps) + 1, plan.stride))
    return chosen


def images(life: Life, name: str, plan: Plan) -> Iterator[_Image]:
    """What the disk may hold after each cut."""
    disk = Disk(life.files)
    for cut in range(len(life.steps) + 1):
        if cut:
            disk.take(life.steps[cut - 1])
        if cut % plan.stride:
            continue
        for survival in plan.survivals:
            image = f"{name}, cut {cut}, {survival}"
            random = Random(image)
            files = disk.image(SURVIVALS[survival](disk, random))
            yield _Image(image, cut, survival, {**files, **_shared(life, cut, random)})


def _shared(life: Life, cut: int, random: Random) -> Files:
    """The index of the log may be on the disk or not, as it was once or as nobody ever wrote it."""
    name = DATA + SHARED_SUFFIX
    known = [content for steps, content in life.shared if steps <= cut]
    match random.randrange(3):
        case 0:
            return {}
        case 1 if known:
            return {name: random.choice(known[-10:])}
        case _:
            return {name: random.randbytes(SHARED_BYTES)}


def _digest(files: Files) -> str:
    content = hashlib.sha256()
    for name, data in sorted(files.items()):
        if not name.endswith(SHARED_SUFFIX):
            content.update(f"{name} {len(data)} ".encode() + data)
    return content.hexdigest()
