"""URLs that live as long as their image, and a folder that is empty afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from raceday_dagster.errors import ImagesError
from raceday_dagster.images.temporary_urls import TemporaryUrls
from raceday_dagster_tests.waiting import PATIENCE_S

KEEPER = """
import sys
from pathlib import Path
from raceday_dagster.images.temporary_urls import TemporaryUrls
with TemporaryUrls(folder=Path(sys.argv[1])) as urls:
    urls.publish(b"jpeg")
    print("published", flush=True)
    sys.stdin.read()
"""


def get(url: str) -> requests.Response:
    return requests.get(url, timeout=PATIENCE_S)


def test_a_url_lives_from_publish_to_withdraw(tmp_path: Path) -> None:
    with TemporaryUrls(folder=tmp_path) as urls:
        name = urls.publish(b"jpeg")
        answer = get(urls.find_url(name))
        assert (answer.status_code, answer.content) == (200, b"jpeg")
        assert answer.headers["content-type"] == "image/jpeg"
        assert requests.head(urls.find_url(name), timeout=PATIENCE_S).headers["content-length"] == "4"
        urls.withdraw(name)
        assert get(urls.find_url(name)).status_code == 404
        urls.withdraw(name)
        assert list(tmp_path.rglob("*.jpg")) == []
    assert list(tmp_path.iterdir()) == []


def test_names_cannot_be_guessed_and_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    with TemporaryUrls(folder=tmp_path / "shared") as urls:
        names = {urls.publish(b"jpeg") for _ in range(20)}
        assert len(names) == 20
        assert min(map(len, names)) >= 36
        for path in ("", "..%2f..%2fsecret.jpg", "../../secret.jpg", "%00"):
            assert get(urls.find_url(path)).status_code == 404


def test_a_proxy_in_front_may_put_its_path_before_the_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    base = f"http://127.0.0.1:{port}/images"
    with TemporaryUrls(base, listen=f"127.0.0.1:{port}", folder=tmp_path) as urls:
        url = urls.find_url(urls.publish(b"jpeg"))
        assert url.startswith(f"{base}/")
        assert get(url).content == b"jpeg"


def test_what_a_killed_process_left_is_removed_at_the_next_start_and_what_a_living_one_keeps_is_not(
    tmp_path: Path,
) -> None:
    keepers = [
        subprocess.Popen([sys.executable, "-c", KEEPER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for keeper in keepers:
        assert keeper.stdout.readline() == b"published\n"
    keepers[0].kill()
    keepers[0].communicate()
    assert len(list(tmp_path.rglob("*.jpg"))) == 2
    with TemporaryUrls(folder=tmp_path):
        (left,) = tmp_path.rglob("*.jpg")
        assert left.parent.name.startswith(f"{keepers[1].pid}-")
    keepers[1].communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_an_address_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImagesError, match=r"^temporary images cannot be kept in .*file: "):
        TemporaryUrls(folder=tmp_path / "file").__enter__()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ImagesError, match=rf"^cannot listen on {listen} \(IMAGE_LISTEN\): Address"):
            TemporaryUrls(listen=listen, folder=tmp_path / "shared").__enter__()
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of somebody else")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, 65_534, 65_534)
    with pytest.raises(ImagesError, match="it belongs to somebody else"):
        TemporaryUrls(folder=shared).__enter__()
