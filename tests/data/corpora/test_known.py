"""Public sets by name, against a server on this machine that breaks off, lies and answers with errors."""

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqgen.core.errors import DataError
from seqgen.data.corpora import known
from seqgen.data.text import read_lines, read_records

CONTENT = b"".join(b"line %d of a public set\n" % number for number in range(40_000))
SHA = hashlib.sha256(CONTENT).hexdigest()
PACKED = gzip.compress(CONTENT, 1)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under any name, as its options say; remembers the ranges asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = CONTENT
        self.break_off_after = 0  # bytes of the next answer, 0: answer in full
        self.ranges = True
        self.status = 200
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.txt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers["Range"])
        body, start = self.server.body, 0
        if self.headers["Range"] and self.server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if self.server.status != 200 or start >= len(body):
            self.send_error(self.server.status if self.server.status != 200 else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end, self.server.break_off_after = self.server.break_off_after or len(body), 0
        self.wfile.write(body[start:end])

    def log_message(self, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def catalogue(
    tmp_path: Path, url: str, sha256: str = SHA, key: str = "sha256", path: str = "text/set.txt"
) -> dict[str, known.KnownSet]:
    file = tmp_path / "known.toml"
    head = '[set]\nabout = "a set"\nkind = "text"\nlicence = "free"\npage = "its page"\n'
    entry = f'[[set.files]]\npart = "all"\npath = "{path}"\n{key} = "{sha256}"\n' + (f'url = "{url}"\n' if url else "")
    file.write_text(head + entry, encoding="utf-8")
    return known.read_catalogue(file)


def test_a_set_is_fetched_once_and_then_found(server: Server, tmp_path: Path) -> None:
    sets, out = catalogue(tmp_path, server.url), tmp_path / "out"
    calls: list[tuple[str, int, int]] = []
    paths = known.get("set", out, catalogue=sets, progress=lambda *call: calls.append(call))
    assert paths == {"all": out / "text" / "set.txt"}
    assert paths["all"].read_bytes() == CONTENT
    assert calls[-1] == ("set.txt", len(CONTENT), len(CONTENT))
    assert [path.name for path in (out / "text").iterdir()] == ["set.txt"]
    assert known.get("set", out, catalogue=sets) == paths
    assert server.asked == [None]
    assert known.find("set", folder=out, catalogue=sets) == paths


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_continued(server: Server, tmp_path: Path, ranges: bool) -> None:
    sets, out = catalogue(tmp_path, server.url), tmp_path / "out"
    server.break_off_after, server.ranges = 300_000, ranges
    with pytest.raises(DataError) as caught:
        known.get("set", out, catalogue=sets)
    assert str(caught.value) == (
        f"set: cannot fetch {server.url} (broke off after 300000 of {len(CONTENT)} bytes); "
        f"try again later to continue, or put a copy with SHA-256 {SHA} at {out}/text/set.txt (see its page)"
    )
    assert not (out / "text" / "set.txt").exists()
    assert known.get("set", out, catalogue=sets)["all"].read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_part_that_is_whole_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "out" / "text" / ".set.txt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    paths = known.get("set", tmp_path / "out", catalogue=catalogue(tmp_path, server.url))
    assert paths["all"].read_bytes() == CONTENT
    assert not part.exists()


def test_another_content_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    sets, out = catalogue(tmp_path, server.url), tmp_path / "out"
    server.body = CONTENT.replace(b"line 7 ", b"line 8 ")
    actual = hashlib.sha256(server.body).hexdigest()
    message = f"{server.url}: SHA-256 is {actual}, expected {SHA}; the source has changed; see its page"
    with pytest.raises(DataError) as caught:
        known.get("set", out, catalogue=sets)
    assert str(caught.value) == message
    assert list((out / "text").iterdir()) == []
    server.body = CONTENT
    assert known.get("set", out, catalogue=sets)["all"].read_bytes() == CONTENT


def test_the_content_of_a_gz_counts_not_its_wrapper(server: Server, tmp_path: Path) -> None:
    sets, out = catalogue(tmp_path, server.url, key="unpacked_sha256", path="images/set.gz"), tmp_path / "out"
    server.body = PACKED
    path = known.get("set", out, catalogue=sets)["all"]
    path.write_bytes(gzip.compress(CONTENT, 9))
    assert known.find("set", folder=out, catalogue=sets) == {"all": path}
    path.write_bytes(PACKED[:-10])
    with pytest.raises(DataError, match=r"set\.gz: not a whole gzip file \(.*\); replace it by a good copy$"):
        known.find("set", folder=out, catalogue=sets)


def test_the_offline_error_says_how_to_put_a_copy(tmp_path: Path) -> None:
    with Server() as closed:
        url = closed.url
    sets = catalogue(tmp_path, url)
    with pytest.raises(DataError) as caught:
        known.get("set", tmp_path / "out", catalogue=sets)
    message = str(caught.value)
    assert message.startswith(f"set: cannot fetch {url} (")
    assert message.endswith(
        f"; try again later to continue, or put a copy with SHA-256 {SHA} at {tmp_path}/out/text/set.txt (see its page)"
    )
    assert "\n" not in message


def test_an_answer_of_the_server_is_told(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DataError, match=r"\(the server answers 404 Not Found\)"):
        known.get("set", tmp_path / "out", catalogue=catalogue(tmp_path, server.url))


def test_a_set_without_address_must_be_put_there(tmp_path: Path) -> None:
    sets, out = catalogue(tmp_path, ""), tmp_path / "out"
    with pytest.raises(DataError) as caught:
        known.get("set", out, catalogue=sets)
    assert str(caught.value) == (
        f"set cannot be fetched; see its page, and put a copy with SHA-256 {SHA} at {out}/text/set.txt"
    )
    (out / "text").mkdir(parents=True)
    (out / "text" / "set.txt").write_bytes(CONTENT)
    assert known.get("set", out, catalogue=sets) == {"all": out / "text" / "set.txt"}


def test_find_names_what_is_missing_or_altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = catalogue(tmp_path, "http://x")
    monkeypatch.delenv("SEQGEN_DATA", raising=False)
    with pytest.raises(DataError) as caught:
        known.find("set", catalogue=sets)
    assert str(caught.value) == (
        "set: no data/text/set.txt; put a copy there, or set SEQGEN_DATA to a folder with text/set.txt, or run: "
        "seqgen corpus get set"
    )
    monkeypatch.setenv("SEQGEN_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        known.find("set", catalogue=sets)
    assert str(caught.value) == (
        f"set: no {tmp_path}/text/set.txt; put a copy there (SEQGEN_DATA), or run: seqgen corpus get set"
    )
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "set.txt").write_bytes(b"")
    empty = hashlib.sha256(b"").hexdigest()
    with pytest.raises(DataError) as caught:
        known.find("set", catalogue=sets)
    assert str(caught.value) == (
        f"{tmp_path}/text/set.txt: SHA-256 is {empty}, expected {SHA}; replace it by a good copy"
    )


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match=r"^unknown set 'image-cocoa'; did you mean 'image-coco'\?$"):
        known.find("image-cocoa")
    with pytest.raises(DataError, match=r"^unknown set 'q'; known: captions, verse-zh, reviews, image-coco, "):
        known.get("q", "somewhere")


def test_the_catalogue_is_sound() -> None:
    sets = known.read_catalogue()
    text = {"image-coco", "snli", "wikitext-2", "tinyshakespeare", "tang-poems", "names", "zinc-smiles"}
    shipped = {"captions", "verse-zh", "reviews"}
    text |= shipped | {"multi30k", "multi30k-en", "multi30k-de", "hdfs-logs", "moses"}
    assert set(sets) == text | {"mnist", "fashion-mnist", "jsb-chorales"}
    assert {name for name, entry in sets.items() if entry.shipped} == shipped
    assert {name for name, entry in sets.items() if entry.kind == "text"} == text
    for entry in sets.values():
        assert {file.use for file in entry.files} <= {"train", "test", "valid", "scaffolds", "filters"}
        assert set(entry.settings) <= {"data", "tokenizer"}
    files = [file for entry in sets.values() if not entry.shipped for file in entry.files]
    both = {(file.path, file.sha256) for file in files}  # a set may have files of another: multi30k those of its halves
    assert len({path for path, _ in both}) == len({sha256 for _, sha256 in both}) == len(both)
    for file in files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.unpacked == (file.path.endswith(".gz") and not file.member)
        assert file.path.startswith(("text/", "images/"))
        assert ".." not in file.path
        assert not file.url or file.url.startswith(("https://", "http://"))


@pytest.mark.parametrize("name", sorted(known.read_catalogue()))
def test_copies_at_hand_are_those_of_the_catalogue(name: str) -> None:
    try:
        paths = known.find(name)
    except DataError as error:
        pytest.skip(str(error))
    assert paths


@pytest.mark.parametrize("name", sorted(known.shipped()))
def test_the_parts_of_a_set_share_no_text(name: str) -> None:
    train, test = (read_records(known.expanded([name], use)).texts for use in ("train", "test"))  # type: ignore[list-item]
    assert len(train) in (5000, 5001, 10_000)
    assert len(test) in (1000, 1001)
    assert set(train) & set(test) <= {"label\ttext"}


def test_a_name_stands_for_its_parts_and_a_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora = known.corpora_folder()
    assert known.expanded(["captions", "other.txt"], "train") == [corpora / "captions.txt", "other.txt"]
    assert read_lines("captions") == (corpora / "test" / "captions.txt").read_text(encoding="utf-8").splitlines()
    monkeypatch.chdir(tmp_path)
    Path("captions").write_text("mine\n", encoding="utf-8")
    assert known.expanded(["captions"], "train") == ["captions"]
    assert read_lines("captions") == ["mine"]


def test_labels_of_images_are_found_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_check", lambda *_: None)
    monkeypatch.setenv("SEQGEN_DATA", str(tmp_path))
    (tmp_path / "images" / "mnist").mkdir(parents=True)
    for file in known.read_catalogue()["mnist"].files[:3]:
        (tmp_path / file.path).touch()
    train = known.expanded(["mnist"], "train", "images")
    assert train == [tmp_path / "images" / "mnist" / "train-images-idx3-ubyte.gz"]
    with pytest.raises(DataError, match=r"^mnist: no .*/t10k-labels-idx1-ubyte\.gz; put a copy there"):
        known.expanded(["mnist"], "test", "images")


def test_what_no_file_and_no_set_is_called_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match=r"^captoins: no such file, and no set is called so; did you mean captions\?$"):
        read_lines("captoins")
    with pytest.raises(DataError, match=r"^qq: no such file, and no set is called so; known: captions, verse-zh, rev"):
        read_lines("qq")
    with pytest.raises(DataError, match=r"^captoins\.txt: no such file$"):
        read_lines("captoins.txt")
    with pytest.raises(DataError, match=r"^mnist is a set of images; expected text$"):
        read_lines("mnist")


def test_corpora_are_found_in_a_checkout_and_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"captions", "verse-zh", "reviews"} <= set(known.shipped())
    for place in ("seqgen", "."):  # as the wheel has them, and as a checkout has them
        root = tmp_path / place.replace(".", "checkout")
        module = root / "seqgen" / "data" / "corpora" / "known.py"
        module.parent.mkdir(parents=True)
        (root / place / "corpora").mkdir()
        monkeypatch.setattr(known, "__file__", str(module))
        assert known.corpora_folder() == (root / place / "corpora").resolve()
