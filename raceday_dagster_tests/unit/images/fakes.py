"""What stands in for the world around a batch of images: no server, no vision API, a clock that is moved by hand."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence

from PIL import Image

from raceday_dagster.errors import ImageError
from raceday_dagster.images.records import Description, ImageResult
from raceday_dagster.images.sources import ImageSource
from raceday_dagster.images.stages import ImageStages

VALID = json.dumps(
    {
        "title": "Bright silken jacket of a racing day against a clean white background",
        "keywords": [f"keyword {number}" for number in range(30)],
        "category": 18,
    }
)


def draw(width: int = 40, height: int = 30, colour: str = "teal", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, kind)
    return file.getvalue()


PNG = draw()


def name_sources(count: int) -> list[ImageSource]:
    return [
        ImageSource(name=f"{number}.png", urls=(f"https://images.example/{number}.png",)) for number in range(count)
    ]


class FakeClock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class FakeReader:
    """Gives every source the same bytes, or does for a name what it was told to."""

    def __init__(self, **by_name: Callable[[], bytes]) -> None:
        self.by_name = by_name
        self.asked: list[str] = []
        self.closed = False

    def read(self, source: ImageSource, timeout_s: float) -> bytes:
        self.asked.append(source.name)
        return self.by_name.get(source.name.removesuffix(".png"), lambda: PNG)()

    def close(self) -> None:
        self.closed = True


class FakeUrls:
    """Keeps what is published in a dictionary."""

    def __init__(self) -> None:
        self.live: dict[str, bytes] = {}
        self.published = 0
        self.lock = threading.Lock()

    def publish(self, jpeg: bytes) -> str:
        with self.lock:
            self.published += 1
            name = f"temporary-{self.published}"
            self.live[name] = jpeg
        return name

    def find_url(self, name: str) -> str:
        return f"http://temporary.example/{name}"

    def withdraw(self, name: str) -> None:
        self.live.pop(name, None)


class FakeVision:
    """Answers the n-th call with the n-th of ``answers``, the last one for ever; an error among them is raised."""

    model = "fake"

    def __init__(self, *answers: str | ImageError | Callable[[], str]) -> None:
        self.answers: Sequence[str | ImageError | Callable[[], str]] = answers or (VALID,)
        self.urls: list[str] = []
        self.prompts: list[str] = []
        self.timeouts_s: list[float] = []
        self.lock = threading.Lock()
        self.closed = False

    def ask(self, image_url: str, prompt: str, timeout_s: float) -> str:
        with self.lock:
            self.urls.append(image_url)
            self.prompts.append(prompt)
            self.timeouts_s.append(timeout_s)
            answer = self.answers[min(len(self.urls), len(self.answers)) - 1]
        if isinstance(answer, ImageError):
            raise answer
        return answer if isinstance(answer, str) else answer()

    def close(self) -> None:
        self.closed = True


class FakeDescriptions:
    """Keeps what images came to in a dictionary; an error is raised instead."""

    def __init__(self, error: ImageError | None = None) -> None:
        self.kept: dict[str, ImageResult] = {}
        self.error = error

    def find(self, content_hash: str) -> Description | None:
        found = [result for result in self.kept.values() if result.facts and result.facts.content_hash == content_hash]
        return found[0].description if found else None

    def keep(self, result: ImageResult) -> None:
        if self.error is not None:
            raise self.error
        self.kept[result.source.place] = result


class Workshop:
    """The stages over fakes."""

    def __init__(
        self,
        vision: FakeVision | None = None,
        reader: FakeReader | None = None,
        descriptions: FakeDescriptions | None = None,
    ) -> None:
        self.urls, self.vision, self.reader = FakeUrls(), vision or FakeVision(), reader or FakeReader()
        self.clock = FakeClock()
        self.pauses_s: list[float] = []
        self.stages = ImageStages(
            self.urls,
            self.vision,
            reader=self.reader,
            descriptions=descriptions,
            monotonic=self.clock,
            pause=self.pause,
        )

    def pause(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self.clock.advance(seconds)


def fail_describe(message: str = "answered 503", **verdict: object) -> ImageError:
    return ImageError(message, stage="describe", **{"retryable": True, **verdict})
