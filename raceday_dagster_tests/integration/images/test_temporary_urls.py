"""URLs that live as long as their image."""

from __future__ import annotations

import socket

import pytest
import requests

from raceday_dagster.errors import ImagesError
from raceday_dagster.images.temporary_urls import TemporaryUrls
from raceday_dagster_tests.waiting import PATIENCE_S


def get(url: str) -> requests.Response:
    return requests.get(url, timeout=PATIENCE_S)


def test_a_url_lives_from_publish_to_withdraw() -> None:
    with TemporaryUrls() as urls:
        name = urls.publish(b"jpeg")
        answer = get(urls.find_url(name))
        assert (answer.status_code, answer.content) == (200, b"jpeg")
        assert answer.headers["content-type"] == "image/jpeg"
        assert requests.head(urls.find_url(name), timeout=PATIENCE_S).headers["content-length"] == "4"
        urls.withdraw(name)
        assert get(urls.find_url(name)).status_code == 404
        urls.withdraw(name)


def test_names_cannot_be_guessed_and_nothing_else_is_served() -> None:
    with TemporaryUrls() as urls:
        names = {urls.publish(b"jpeg") for _ in range(20)}
        assert len(names) == 20
        assert min(map(len, names)) >= 36
        for path in ("", "..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%00"):
            assert get(urls.find_url(path)).status_code == 404


def test_a_proxy_in_front_may_put_its_path_before_the_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    base = f"http://127.0.0.1:{port}/images"
    with TemporaryUrls(base, listen=f"127.0.0.1:{port}") as urls:
        url = urls.find_url(urls.publish(b"jpeg"))
        assert url.startswith(f"{base}/")
        assert get(url).content == b"jpeg"


def test_an_address_that_cannot_be_used_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ImagesError, match=rf"^cannot listen on {listen} \(IMAGE_LISTEN\): Address"):
            TemporaryUrls(listen=listen).__enter__()
