"""Archives: OCI image layouts in S3, GCS, Azure or a directory, addressed by URL.

`index.json` is the only object that changes. It is replaced only if nobody has changed it since it was read (If-Match;
in a directory, under a lock), so it also serves as the lock between pushes and collections: a push looks for its blobs
after it has read the index, and writes the index only if it is unchanged.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redisai_py.artifacts.digest import Buffer, Hasher, is_digest
from redisai_py.artifacts.errors import (
    ArchiveError,
    ArtifactError,
    Corrupt,
    Invalid,
    Malformed,
    Missing,
    needing,
    reading,
)
from redisai_py.artifacts.layout import INDEX, LAYOUT, LAYOUT_CONTENT, MAX_INDEX, Index, blob_path
from redisai_py.artifacts.manifest import MAX_MANIFEST, Manifest

__all__ = ["RETRY_S", "Archive"]

RETRY_S = 5
"""Maximum time for which a request is retried."""
_BLOBS = "blobs/sha256"
_CHUNK = 16 * 1024 * 1024
_CONCURRENCY = 4
_REQUEST_TIMEOUT = "5m"
_CONNECT_TIMEOUT = "5s"

_ADVICE = (
    (r"404|NoSuchBucket", "the bucket does not exist, or the endpoint is another service's"),
    (r"40[13]|Unauthenticated|PermissionDenied|AccessDenied|SignatureDoesNotMatch", "check the credentials "
     "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), the region, and what the bucket's policy allows"),
    (r"30[1278]|redirect", "check the region: AWS_REGION"),
    (r"5\d\d|SlowDown", "the service is busy or broken; run it again, what arrived is not sent again"),
    (r"connect|dns|error sending request|timed? ?out", "check the network and the endpoint (AWS_ENDPOINT_URL)"),
    (r"credential|metadata", "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
)  # fmt: skip
"""Hints for errors, by status (matched as a whole word) or by words in the message."""
_STATUS = re.compile(r"status(?: code)?:? (\d{3})|\((\d{3}) ")


class Archive:
    """An archive.

    url: `s3://BUCKET/PREFIX`, `gs://...`, `az://...`, `file:///DIRECTORY` or a path.
    endpoint: of an S3-compatible service; by default AWS_ENDPOINT_URL.
    options: obstore's options for the store, for example `aws_server_side_encryption="aws:kms"` and
             `aws_sse_kms_key_id=...`. Credentials come from the environment variables of the clouds' own tools.

    Raises: Invalid: not such a URL, or obstore is not installed.
    """

    def __init__(self, url: str | os.PathLike[str], endpoint: str | None = None, **options: Any) -> None:
        text = os.fspath(url)
        self.folder = _folder_of(text)
        self.url = f"file://{self.folder}" if self.folder else text.rstrip("/")
        self._store = _open(self.url, self.folder, endpoint, options)
        self._checked = False

    # -- blobs ---------------------------------------------------------------------------------------------------------

    def size(self, digest: str) -> int | None:
        """Size of a blob in bytes, None if it does not exist."""
        path = blob_path(digest)
        try:
            with self._telling("look for", path):
                return int(self._store.head(path)["size"])
        except Missing:
            return None

    def blobs(self) -> dict[str, tuple[int, float]]:
        """All blobs: size in bytes, and time of writing in seconds since 1970."""
        found = {}
        with self._telling("list", _BLOBS):
            for item in itertools.chain.from_iterable(self._store.list(prefix=_BLOBS)):
                digest = f"sha256:{item['path'].rpartition('/')[2]}"
                if is_digest(digest):
                    found[digest] = (item["size"], item["last_modified"].timestamp())
        return found

    def put(self, digest: str, chunks: Iterable[Buffer], size: int) -> None:
        """Store a blob whose digest the caller has checked; a large one in several requests.

        Raises: ArchiveError; or what `chunks` raises, and then nothing was stored.
        """
        failure: list[BaseException] = []
        path, large = blob_path(digest), size > _CHUNK
        source: Any = _guarded(chunks, failure) if large else b"".join(chunks)
        try:
            with self._telling("write", path):
                self._store.put(path, source, use_multipart=large, chunk_size=_CHUNK, max_concurrency=_CONCURRENCY)
        except ArtifactError:
            if failure:
                raise failure[0] from None
            raise

    def stream(self, digest: str, what: str = "blob") -> Iterator[bytes]:
        """A blob in pieces. The digest is checked before the last piece is yielded.

        Raises: Missing, Corrupt, ArchiveError.
        """
        whole = Hasher()
        held: bytes | None = None
        for piece in self.file(blob_path(digest)):
            if held is not None:
                yield held
            held = piece
            whole.update(held)
        if whole.digest != digest:
            raise Corrupt(what, digest, whole.digest, self.url)
        if held is not None:
            yield held

    def get(self, digest: str, limit: int = MAX_MANIFEST, what: str = "blob") -> bytes:
        """A small blob. Raises: Missing, Corrupt, ArchiveError; Malformed: larger than `limit` bytes."""
        size = self.size(digest)
        if size is None:
            raise Missing(f"{what}: {self.url} has no blob {digest}")
        if size > limit:
            raise Malformed(f"{what} has {size} bytes; the maximum is {limit}")
        return b"".join(self.stream(digest, what))

    def file(self, name: str) -> Iterator[bytes]:
        """Any object below the URL, in pieces, unchecked. Raises: Missing, ArchiveError."""
        with self._telling("read", name):
            for piece in self._store.get(name).stream(min_chunk_size=_CHUNK):
                yield bytes(piece)

    @reading()
    def manifest(self, digest: str, what: str) -> Manifest:
        """A manifest. Raises: Missing, Corrupt, ArchiveError, Malformed."""
        return Manifest.decode(what, self.get(digest, MAX_MANIFEST, f"{what}: manifest"))

    def delete(self, digests: Iterable[str]) -> None:
        """Delete blobs, in bulk if the service supports that."""
        paths = [blob_path(digest) for digest in digests]
        if paths:
            with self._telling("delete", _BLOBS):
                self._store.delete(paths)

    # -- the index -----------------------------------------------------------------------------------------------------

    def index(self) -> tuple[Index, Any]:
        """The index, and a token for `replace`; (empty, None) if there is no index."""
        try:
            with self._telling("read", INDEX):
                found = self._store.get(INDEX)
                if found.meta["size"] > MAX_INDEX:
                    raise Malformed(f"{self.url}/{INDEX} has {found.meta['size']} bytes; the maximum is {MAX_INDEX}")
                data = bytes(found.bytes())
        except Missing:
            return Index(), None
        seen = {"e_tag": found.meta.get("e_tag"), "version": found.meta.get("version"), "data": data}
        return Index.decode(f"{self.url}/{INDEX}", data), seen

    def replace(self, index: Index, seen: Any) -> bool:
        """Write the index if it is unchanged since `seen`. Returns: whether it was written."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        data = index.encode()
        if not self._checked:
            with self._telling("write", LAYOUT):
                self._store.put(LAYOUT, LAYOUT_CONTENT)
            self._checked = True
        if self.folder:
            with self._locked():
                if self.index()[1] != seen:
                    return False
                with self._telling("write", INDEX):
                    self._store.put(INDEX, data)
            return True
        mode: Any = "create"
        if seen is not None:
            mode = {name: seen[name] for name in ("e_tag", "version") if seen[name] is not None}
        with self._telling("write", INDEX), suppress(AlreadyExistsError, PreconditionError):
            self._store.put(INDEX, data, mode=mode, use_multipart=False)
            return True
        return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        assert self.folder is not None
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # -- failures ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _telling(self, verb: str, path: str) -> Iterator[None]:
        """The store works inside. Raises: Missing; ArchiveError, with the place, the status and a hint."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" not in str(error):
                raise Missing(f"{self.url} has no {path}") from None
            raise self._failure(verb, path, error) from error
        except ArtifactError:
            raise
        except Exception as error:
            raise self._failure(verb, path, error) from error

    def _failure(self, verb: str, path: str, error: Exception) -> ArchiveError:
        full = str(error)
        text = full.partition("\n")[0][:500]
        found = _STATUS.search(full)
        status = (found[1] or found[2]) if found else ""
        words = re.sub(r"\d+", "", full)  # durations and ports are not statuses
        advice = next((a for p, a in _ADVICE if re.fullmatch(p, status) or re.search(p, words, re.IGNORECASE)), "")
        code = f"HTTP {status}: " if status else ""
        return ArchiveError(f"cannot {verb} {path} in {self.url}: {code}{text}{f'; {advice}' if advice else ''}")


def _guarded(chunks: Iterable[Buffer], failure: list[BaseException]) -> Iterator[Buffer]:
    """The chunks. Keeps the exception they raise, because the store would wrap it."""
    try:
        yield from chunks
    except BaseException as error:
        failure.append(error)
        raise


def _folder_of(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise Invalid(f"{url}: a folder's URL begins with file:/// and its absolute path")
        return Path(parts.path).absolute()
    return Path(url).absolute() if "://" not in url else None


def _open(url: str, folder: Path | None, endpoint: str | None, options: Mapping[str, Any]) -> Any:
    with needing("archives need obstore", "archive"):
        from obstore import store as stores
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArchiveError(f"cannot make the folder {folder}: {error.strerror}") from None
        return stores.LocalStore(folder)
    settings = dict(options)
    opened: Any = stores.from_url  # its overloads need to know the kind of store
    where = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if url.startswith("s3") and where:
        settings["aws_endpoint"] = where
    try:
        return opened(
            url,
            config=settings or None,
            client_options={
                "allow_http": where.startswith("http://"),
                "timeout": _REQUEST_TIMEOUT,
                "connect_timeout": _CONNECT_TIMEOUT,
            },
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=RETRY_S)},
        )
    except Exception as error:
        text = str(error).partition("\n")[0]
        raise Invalid(
            f"{url} is not an archive: {text}; use s3://BUCKET/PREFIX, gs://, az:// or file:///DIRECTORY"
        ) from None
