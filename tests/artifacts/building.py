"""Versions for tests, made of any bytes."""

from __future__ import annotations

from redisai_py.artifacts import Store, Version

__all__ = ["blobs_of", "contents_of", "version_of"]


def version_of(store: Store, name: str, *contents: bytes, kind: str = "artifact") -> Version:
    """A version whose layers are these contents."""
    with store.lease() as lease:
        layers = [
            store.put_layer(content, "application/x", f"layer-{place}", lease) for place, content in enumerate(contents)
        ]
        return store.commit(kind, name, store.manifest({"of": name}, layers, lease), lease)


def contents_of(store: Store, reference: str, kind: str = "artifact") -> list[bytes]:
    """What the layers hold."""
    _, manifest = store.open(kind, reference)
    return [store.read(layer) for layer in manifest.layers]


def blobs_of(store: Store) -> set[str]:
    """Digests of all blobs in Redis."""
    return {key.decode()[8:] for key in store.redis.scan_iter("ai:blob:*", count=1000)}
