"""What is named on a command line or in the feed, and the images it means."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest

from raceday_dagster.errors import ImageError, ImagesError
from raceday_dagster.images import ImageSource, build_silk_source, find_sources
from raceday_dagster.images.reading import SourceReader, is_public


def test_a_folder_is_its_image_files_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [source.name for source in find_sources([tmp_path])] == ["a.png", "b.JPG"]


def test_an_image_that_is_named_twice_is_described_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    url = "https://images.example/a.png"
    assert len(find_sources([tmp_path, tmp_path / "a.png", url, url])) == 2


def test_a_file_that_is_not_there_is_a_source_that_fails_when_it_is_read(tmp_path: Path) -> None:
    (source,) = find_sources([tmp_path / "nowhere.png"])
    with pytest.raises(ImageError, match=r"^cannot be read: No such file"):
        SourceReader().read(source, 1)


def test_a_url_is_called_by_its_last_part() -> None:
    names = [
        source.name for source in find_sources(["https://h.example/x/my%20cat.jpg?key=secret", "https://h.example"])
    ]
    assert names == ["my cat.jpg", "h.example"]


@pytest.mark.parametrize("url", ["ftp://h.example/a.png", "file:///etc/passwd", "https://u:hunter2@h.example/a.png"])
def test_a_url_of_another_kind_or_with_a_password_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ImagesError) as caught:
        find_sources([url])
    assert "hunter2" not in str(caught.value)


def test_a_folder_without_images_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    for places, said in (([tmp_path], str(tmp_path)), ([], "nothing was named")):
        with pytest.raises(ImagesError, match=f"^no images to describe: {said}"):
            find_sources(places)


def test_silks_are_tried_from_the_best_url_to_the_last_and_greyhounds_have_none() -> None:
    source = build_silk_source("R1 3", ["u128", "", "u64", None, "u64", "alt"])
    assert source is not None
    assert source.urls == ("u128", "u64", "alt")
    assert source.private_host is None
    assert build_silk_source("R1 4", ["", None]) is None


@pytest.mark.parametrize(
    ("url", "private_host"),
    [
        ("http://127.0.0.1:8000/a.png", "127.0.0.1:8000"),
        ("https://LOCALHOST/a.png", "localhost:443"),
        ("http://nas/a.png", "nas:80"),
        ("http://[::1]:8000/a.png", "::1:8000"),
        ("http://images.example/a.png", None),
        ("http://93.184.216.34/a.png", None),
    ],
)
def test_only_who_names_a_private_host_is_let_to_it(url: str, private_host: str | None) -> None:
    (source,) = find_sources([url])
    assert source.private_host == private_host


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "2002:7f00:1::", "64:ff9b::7f00:1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_of_the_open_internet_is_known(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_an_address_of_the_open_internet_is_known(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"]])
def test_a_public_name_that_leads_to_a_private_address_is_refused_before_anything_is_sent(addresses: list[str]) -> None:
    reader = SourceReader(resolve=lambda _host, _port: [ipaddress.ip_address(address) for address in addresses])
    with pytest.raises(ImageError, match=r"^images\.example is a loopback or private address: refused") as caught:
        reader.read(ImageSource(name="a", urls=("http://images.example/a.png",)), 5)
    assert not caught.value.retryable


def test_a_file_that_is_too_large_empty_or_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(101))
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    reader = SourceReader(max_bytes=100)
    complaints = []
    for name in ("large.png", "empty.png", "pipe.png"):
        with pytest.raises(ImageError) as caught:
            reader.read(ImageSource(name=name, path=tmp_path / name), 1)
        complaints.append(caught.value.message)
    assert complaints == ["larger than 0.0001 MB", "empty", "not a file"]
    with pytest.raises(ImageError, match=r"^not a file"):
        reader.read(ImageSource(name="zero", path=Path("/dev/zero")), 1)
