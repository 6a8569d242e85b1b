"""The collections of a Qdrant server: one a generation, named `ragline_<generation>`."""

from __future__ import annotations

from typing import Any

from qdrant_client import AsyncQdrantClient, models

from ragline.errors import FailedPrecondition, InvalidArgument, NotFound
from ragline.index.points import INTEGER_FIELDS, KEYWORD_FIELDS, checked_generation
from ragline.index.server_errors import server_errors
from ragline.index.server_requests import DENSE, SPARSE


def collection_name(generation: str) -> str:
    """The generation's collection; raises InvalidArgument."""
    return f"ragline_{checked_generation(generation)}"


class ServerCollections:
    """Makes, finds and drops collections. Every call to the server is bounded by `timeout_s`."""

    def __init__(self, client: AsyncQdrantClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._dimensions: dict[str, int] = {}

    async def create(self, generation: str, dimensions: int) -> None:
        """Make the collection and its payload indexes, where they are missing.

        Raises FailedPrecondition if it is there with other dimensions.
        """
        if dimensions < 1:
            raise InvalidArgument("dimensions", f"{dimensions} is too few; use the embedder's dimensions")
        name = collection_name(generation)
        async with server_errors(f"create {name}", self._timeout_s):
            if not await self._client.collection_exists(name):
                await self._client.create_collection(
                    name,
                    vectors_config={DENSE: models.VectorParams(size=dimensions, distance=models.Distance.COSINE)},
                    sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                )
            # Also when it is there: a crash may have come between the collection and its indexes.
            await self._create_payload_indexes(name)
        there = await self.dimensions(generation)
        if there != dimensions:
            raise FailedPrecondition(
                f"generation {generation} has {there} dimensions, not {dimensions}; "
                "another embedder needs a new generation"
            )

    async def drop(self, generation: str) -> None:
        """Remove the collection, if it is there."""
        name = collection_name(generation)
        self._dimensions.pop(generation, None)
        async with server_errors(f"drop {name}", self._timeout_s):
            if await self._client.collection_exists(name):
                await self._client.delete_collection(name)

    async def dimensions(self, generation: str) -> int:
        """The length of the generation's dense vectors, asked for once; raises NotFound."""
        if generation not in self._dimensions:
            name = collection_name(generation)
            async with server_errors(f"describe {name}", self._timeout_s):
                if not await self._client.collection_exists(name):
                    raise NotFound(f"generation {generation} is not on the Qdrant server; create it first")
                vectors = (await self._client.get_collection(name)).config.params.vectors
            if not isinstance(vectors, dict) or DENSE not in vectors:
                raise FailedPrecondition(f"the collection {name} is not Ragline's: it has no vector named {DENSE}")
            self._dimensions[generation] = vectors[DENSE].size
        return self._dimensions[generation]

    async def _create_payload_indexes(self, name: str) -> None:
        keyword = models.KeywordIndexType.KEYWORD
        schemas: dict[str, Any] = {"tenant": models.KeywordIndexParams(type=keyword, is_tenant=True)}
        schemas |= {key: models.KeywordIndexParams(type=keyword) for key in KEYWORD_FIELDS}
        schemas |= {
            key: models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=True)
            for key in INTEGER_FIELDS
        }
        for key, schema in schemas.items():
            await self._client.create_payload_index(
                name, key, field_schema=schema, wait=True, ordering=models.WriteOrdering.STRONG
            )
