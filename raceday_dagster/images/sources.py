"""Where an image comes from: a file, the files of a folder, an http(s) URL, or the silks of a runner."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raceday_dagster.errors import ImagesError
from raceday_dagster.racing.records import Record

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
"""What is taken for an image in a folder; a file that is named by itself may be called anything."""


class ImageSource(Record):
    """One image that is wanted: a file, or the URLs to try in turn until one of them is there."""

    name: str
    """How the image is called in tables and files: the file's name or the URL's last part."""
    path: Path | None = None
    urls: tuple[str, ...] = ()
    private_host: str | None = None
    """The one ``host:port`` at which a loopback or private address may be read; ``None``: nowhere."""
    known_as: str = ""
    """What its description is kept under, where that is not the path or the first URL."""

    @property
    def place(self) -> str:
        """What its description is kept under."""
        return self.known_as or (str(self.path) if self.path else self.urls[0])


def find_sources(places: Iterable[str | Path | ImageSource]) -> tuple[ImageSource, ...]:
    """The images at ``places`` in their order, each once: files, URLs, and the image files in folders, by name.

    A file that is not there is a source too, which fails when it is read; a folder inside a folder is left out.

    Raises:
        ImagesError: There is no image at all, or a URL cannot be used.
    """
    places = tuple(places)
    found = {(source.path, source.urls): source for place in places for source in _find(place)}
    if not found:
        named = ", ".join(str(place) for place in places)
        raise ImagesError(f"no images to describe: {named or 'nothing was named'}; name files, folders or URLs")
    return tuple(found.values())


def build_silk_source(
    name: str, urls: Sequence[str | None], *, private_host: str | None = None, known_as: str = ""
) -> ImageSource | None:
    """The silks of a runner from its URLs, best first (128 pixels, 64, the alternative ones); ``None`` without any.

    ``private_host``: the feed's own ``host:port`` when it is a simulator on this machine.
    """
    given = tuple(dict.fromkeys(url for url in urls if url))
    return ImageSource(name=name, urls=given, private_host=private_host, known_as=known_as) if given else None


def _find(place: str | Path | ImageSource) -> Iterator[ImageSource]:
    if isinstance(place, ImageSource):
        yield place
    elif isinstance(place, str) and "://" in place:
        yield _read_url(place)
    elif Path(place).is_dir():
        try:
            inside = sorted(Path(place).iterdir())
        except OSError as error:
            raise ImagesError(f"{place} cannot be listed: {error.strerror}") from error
        for path in inside:
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir():
                yield ImageSource(name=path.name, path=path.absolute())
    else:
        yield ImageSource(name=Path(place).name or str(place), path=Path(place).absolute())


def _read_url(url: str) -> ImageSource:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ImagesError(f"{url[:200]} is not a URL") from None
    if parts.scheme not in {"http", "https"} or not host or "@" in parts.netloc:
        raise ImagesError("an image's URL must be http:// or https:// with a host and without a user or a password")
    return ImageSource(
        name=unquote(parts.path.rstrip("/").rpartition("/")[2]) or host,
        urls=(url,),
        private_host=name_host(host, port, parts.scheme) if _is_said_to_be_private(host) else None,
    )


def name_host(host: str, port: int | None, scheme: str) -> str:
    """``host:port`` with the scheme's own port filled in."""
    return f"{host.lower()}:{port or (443 if scheme == 'https' else 80)}"


def _is_said_to_be_private(host: str) -> bool:
    """Whether whoever wrote the host knows it for a private one; a public name that leads to one does not count."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host  # localhost, or a name of the local network
