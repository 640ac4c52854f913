"""Large images outside of the backend store: in a folder, and in a bucket."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import obstore
import pytest
from click.testing import CliRunner, Result
from obstore.store import LocalStore, ObjectStore, from_url

from attractor_server.cli.main import main
from attractor_server.errors import SettingsError, StoreDamaged, StoreFailed
from attractor_server.memories.records import Change, Entry, Image, NewMemory, StoredMemory
from attractor_server.memories.settings import MemorySettings
from attractor_server.storage import offload
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.database import number
from attractor_server.storage.memory_store import SqlMemoryStore

WAIT_S = 60
LARGE = np.random.default_rng(0).bytes(offload.LARGE_BYTES + 1)
SMALL = b"weights"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1"}


class S3:
    """moto's server, in a process of its own, with one bucket."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.1)
        pytest.fail("moto's server did not start")

    def make(self, bucket: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{bucket}", method="PUT")
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            assert answer.status == 200

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(WAIT_S)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    pytest.importorskip("moto.server", reason="moto is not installed")
    server = S3()
    yield server
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | str:
    if request.param == "folder":
        return tmp_path / "artifacts"
    server: S3 = request.getfixturevalue("s3")
    for name, value in {**KEYS, "AWS_ENDPOINT": f"http://127.0.0.1:{server.port}", "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{time.monotonic_ns()}"
    server.make(name)
    return f"s3://{name}/below"


class Kept:
    """A store, beside its artifacts."""

    def __init__(self, store_uri: str, bucket: Path | str) -> None:
        self.store_uri, self.bucket = store_uri, bucket
        store = open_store(store_uri)
        self.database = store
        self.journal = SqlMemoryStore(self.database, artifacts=Artifacts(bucket))

    def made(self, name: str) -> StoredMemory:
        new = NewMemory(name=name, model="m", model_digest="sha256:1", settings=MemorySettings(page_patterns=1))
        return self.journal.create([new])[0]

    def store(self, memory: int, version: int = 1, image: bytes = LARGE, *, retained: bool = True) -> None:
        entry = Entry(page=0, version=version, written=version, values=np.ones((1, 4), np.float32))
        self.journal.commit(
            [
                Change(
                    memory=memory,
                    version=version,
                    patterns=version,
                    pages={0: version},
                    entries=[entry] if retained else [],
                    images=[Image(page=0, version=version, content=image)],
                )
            ]
        )

    def image(self, memory: int) -> bytes:
        found = self.journal.page(memory, 0).image
        assert found is not None
        return found.content

    @property
    def objects(self) -> list[str]:
        return [one["path"] for portion in obstore.list(opened(self.bucket)) for one in portion]

    def verified(self) -> Result:
        options = ["--backend-store-uri", self.store_uri, "--artifact-store", str(self.bucket)]
        return CliRunner().invoke(main, ["verify", *options])


def opened(bucket: Path | str) -> ObjectStore:
    return LocalStore(bucket) if isinstance(bucket, Path) else from_url(bucket)


@pytest.fixture
def kept(backend_uri: str, bucket: Path | str) -> Iterator[Kept]:
    made = Kept(backend_uri, bucket)
    with closing(made.database):
        yield made


def test_large_images_are_outside_and_small_ones_inside(kept: Kept) -> None:
    large, small = kept.made("large").id, kept.made("small").id
    kept.store(large)
    kept.store(small, image=SMALL)
    assert (kept.image(large), kept.image(small)) == (LARGE, SMALL)
    assert len(kept.objects) == 1
    with kept.database.read() as cursor:
        assert number(cursor.execute("SELECT count(*) FROM images WHERE weights IS NULL")) == 1
    assert "2 images; nothing wrong" in kept.verified().output


def test_what_is_deleted_or_replaced_leaves_no_object(kept: Kept) -> None:
    memory, other = kept.made("a").id, kept.made("other").id
    kept.store(memory)
    kept.store(other)
    assert len(kept.objects) == 2
    kept.store(memory, 2, image=LARGE[::-1])
    kept.journal.purge()
    assert len(kept.objects) == 2
    assert kept.image(memory) == LARGE[::-1]
    kept.journal.commit([Change(memory=other, version=2, patterns=0, dropped=[0])])
    assert len(kept.objects) == 1
    kept.journal.delete(memory)
    assert kept.objects == []


def test_an_object_that_forks_share_goes_with_the_last_of_them(kept: Kept) -> None:
    memory = kept.made("a").id
    kept.store(memory)
    fork = kept.journal.fork(memory, "fork").id
    kept.store(fork, 2, image=SMALL)  # a page of its own from now on
    kept.journal.purge()
    assert (kept.image(memory), kept.image(fork)) == (LARGE, SMALL)
    other = kept.journal.fork(memory, "other").id
    kept.journal.delete(memory)
    assert kept.image(other) == LARGE
    kept.journal.delete(other)
    assert kept.objects == []


def test_an_object_that_is_gone_or_damaged_is_named(kept: Kept) -> None:
    gone, damaged = kept.made("gone").id, kept.made("damaged").id
    kept.store(gone, retained=False)
    (lost,) = kept.objects
    kept.store(damaged, retained=False)
    (bent,) = {*kept.objects} - {lost}
    obstore.delete(opened(kept.bucket), lost)
    obstore.put(opened(kept.bucket), bent, LARGE[:-1] + b"x")
    with pytest.raises(
        StoreDamaged, match=r"is not in .*: restore it, rebuild the memory if its patterns are kept, or delete it"
    ):
        kept.image(gone)
    with pytest.raises(StoreDamaged, match="is not what was put there"):
        kept.image(damaged)
    result = kept.verified()
    assert result.exit_code == 1
    assert "memory 'gone', page 0: the image of version 1: " in result.output
    assert "memory 'damaged', page 0: the image of version 1: " in result.output


@pytest.mark.parametrize("image", [SMALL, LARGE], ids=["row", "object"])
def test_a_page_whose_image_is_damaged_follows_from_its_patterns(
    kept: Kept, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    memory = kept.made("a").id
    kept.store(memory, image=image)
    for location in kept.objects:
        obstore.put(opened(kept.bucket), location, image[:-1])
    if image is SMALL:
        with kept.database.transaction() as cursor:
            cursor.execute("UPDATE images SET weights = ?", (image[:-1],))
    page = kept.journal.page(memory, 0)
    assert page.image is None
    assert [len(entry.values) for entry in page.entries] == [1]
    assert "memory 'a', page 0 is written anew from its patterns" in caplog.text
    assert "memory 'a', page 0: the image of version 1" in kept.verified().output


def test_an_object_of_a_commit_that_failed_is_found(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = kept.made("a").id
    kept.store(memory)
    with pytest.raises(StoreFailed):
        kept.store(memory)  # that version is there
    assert kept.image(memory) == LARGE
    assert "nothing wrong" in kept.verified().output  # it may be of a commit that is under way
    monkeypatch.setattr(offload, "UNDER_WAY_S", -5.0)
    result = kept.verified()
    assert result.exit_code == 1
    assert "no page has it; delete it" in result.output
    assert result.output.count("no page has it") == 1


def test_an_image_that_is_not_read_back_as_it_was_put_is_not_committed(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = kept.made("a").id
    with monkeypatch.context() as patched:
        put = obstore.put
        patched.setattr(obstore, "put", lambda store, path, content: put(store, path, content[:-1]))
        with pytest.raises(StoreFailed, match=r"was not kept in .* as it was put there"):
            kept.store(memory)
    found = kept.journal.find("a")
    assert found is not None
    assert (found.version, found.pages) == (0, [])
    kept.store(memory)
    assert kept.image(memory) == LARGE


def test_objects_that_cannot_be_deleted_now_are_deleted_later(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = kept.made("a").id
    kept.store(memory)
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise OSError("the network is down")

        patched.setattr(obstore, "delete", fail)
        kept.journal.delete(memory)
    assert len(kept.objects) == 1
    kept.journal.purge()
    assert kept.objects == []


def test_a_folder_is_synchronised_up_to_its_root_before_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronised = list[Path]()
    fsync = os.fsync

    def noted(file: int) -> None:
        synchronised.append(Path(f"/proc/self/fd/{file}").resolve())
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    location = Artifacts(tmp_path).put("images", LARGE)
    path = tmp_path / location
    assert synchronised == [path, path.parent, path.parent.parent, tmp_path]


def test_a_bucket_that_does_not_answer_fails_stores_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**KEYS, "AWS_ENDPOINT": "http://127.0.0.1:1", "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    kept = Kept(uri_of(tmp_path / "data"), "s3://nowhere")
    with closing(kept.database):
        memory = kept.made("a").id
        kept.store(memory, image=SMALL)
        with pytest.raises(StoreFailed, match="the artifact store s3://nowhere failed at images/"):
            kept.store(memory, 2)
        assert kept.image(memory) == SMALL
        assert kept.verified().exit_code == 2


def test_a_bucket_that_is_not_there_is_told(tmp_path: Path, bucket: Path | str) -> None:
    if isinstance(bucket, Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(SettingsError, match=r"artifact_store: saw '.*/file/below': Not a directory"):
            Artifacts(tmp_path / "file" / "below")
    else:
        with pytest.raises(StoreFailed, match="the artifact store s3://other failed at images/"):
            Artifacts("s3://other").put("images", LARGE)


def test_an_address_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"artifact_store: saw 'ftp://host/x'.*; expected a folder, or s3://, gs://"
    ):
        Artifacts("ftp://host/x")


def test_an_image_outside_of_a_store_whose_artifacts_are_not_named_is_told(kept: Kept) -> None:
    memory = kept.made("a").id
    kept.store(memory)
    with pytest.raises(StoreFailed, match="is in an artifact store: name it to the server, by --artifact-store"):
        SqlMemoryStore(kept.database).page(memory, 0)


def test_many_put_at_a_time_are_all_there(kept: Kept) -> None:
    artifacts, locations = Artifacts(kept.bucket), list[str]()
    threads = [threading.Thread(target=lambda: locations.append(artifacts.put("images", LARGE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len({*locations}) == 8
    assert {artifacts.get(location) == LARGE for location in locations} == {True}


def test_a_copy_of_a_store_has_what_is_in_its_artifact_store(tmp_path: Path, bucket: Path | str) -> None:
    kept = Kept(uri_of(tmp_path / "data"), bucket)
    with closing(kept.database):
        memory = kept.made("a").id
        kept.store(memory)
        Artifacts(bucket).put_at("models/aa.safetensors", b"of a model")
        options = ["--backend-store-uri", kept.store_uri, "--artifact-store", str(bucket)]
        told = CliRunner().invoke(main, ["backup", str(tmp_path / "copy"), *options])
        assert told.exit_code == 0, told.output
        kept.journal.delete(memory)
    copy = Kept(uri_of(tmp_path / "copy"), tmp_path / "copy" / "artifacts")
    with closing(copy.database):
        assert copy.image(memory) == LARGE
        assert copy.verified().exit_code == 0
        assert "models/aa.safetensors" in copy.objects


def test_a_copy_without_an_object_that_its_store_has_lost_is_said_to_be_damaged(tmp_path: Path) -> None:
    kept = Kept(uri_of(tmp_path / "data"), tmp_path / "artifacts")
    with closing(kept.database):
        kept.store(kept.made("a").id)
        obstore.delete(opened(kept.bucket), kept.objects[0])
        options = ["--backend-store-uri", kept.store_uri, "--artifact-store", str(kept.bucket)]
        told = CliRunner().invoke(main, ["backup", str(tmp_path / "copy"), *options])
    assert told.exit_code == 1
    assert "memory 'a'" in told.output
