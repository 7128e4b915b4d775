"""A loopback server that speaks Qdrant's own gRPC messages, over the client's in-memory engine.

A driver that talks to it runs the same code, stubs and messages as against a
real server. It answers the calls that Sightline makes and UNIMPLEMENTED else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as qdrant
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

Context = grpc.aio.ServicerContext


class FakeQdrant:
    """The server. Its state lives as long as it does."""

    def __init__(self, *, api_key: str = "") -> None:
        self._api_key = api_key
        self._engine = QdrantClient(":memory:")
        self._server: grpc.aio.Server | None = None
        self.port = 0
        self.calls: list[str] = []
        """Bare names of the RPCs that came in, in order."""
        self.requests: list[Any] = []
        """Their requests."""
        self.gate = asyncio.Event()
        """Calls wait while it is cleared."""
        self.gate.set()

    async def start(self) -> None:
        """Listen on a free port of this machine."""
        self._server = grpc.aio.server(interceptors=[_Recorder(self)])
        qdrant.add_CollectionsServicer_to_server(_Collections(self._engine), self._server)
        qdrant.add_PointsServicer_to_server(_Points(self._engine), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening."""
        self.gate.set()
        if self._server is not None:
            await self._server.stop(0)
        self._engine.close()

    async def admit(self, method: str, context: Context[Any, Any], *, request: Any) -> None:
        """Note a call, wait for the gate, and check the key."""
        self.calls.append(method)
        self.requests.append(request)
        await self.gate.wait()
        sent = dict(context.invocation_metadata() or ())
        if self._api_key and sent.get("api-key") != self._api_key:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")


class _Recorder(grpc.aio.ServerInterceptor):
    def __init__(self, fake: FakeQdrant) -> None:
        self._fake = fake

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method.rpartition("/")[2]

        async def answer(request: Any, context: Context[Any, Any]) -> Any:
            await self._fake.admit(method, context, request=request)
            try:
                return await handler.unary_unary(request, context)
            except ValueError as error:
                code = grpc.StatusCode.NOT_FOUND if "not found" in str(error) else grpc.StatusCode.INVALID_ARGUMENT
                await context.abort(code, str(error))

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


class _Collections(qdrant.CollectionsServicer):
    def __init__(self, engine: QdrantClient) -> None:
        self._engine = engine

    async def List(self, request: Any, context: Context[Any, Any]) -> Any:
        found = self._engine.get_collections().collections
        return qdrant.ListCollectionsResponse(collections=[qdrant.CollectionDescription(name=c.name) for c in found])

    async def ListAliases(self, request: Any, context: Context[Any, Any]) -> Any:
        found = self._engine.get_aliases().aliases
        return qdrant.ListAliasesResponse(
            aliases=[qdrant.AliasDescription(alias_name=a.alias_name, collection_name=a.collection_name) for a in found]
        )

    async def CollectionExists(self, request: Any, context: Context[Any, Any]) -> Any:
        exists = self._engine.collection_exists(request.collection_name)
        return qdrant.CollectionExistsResponse(result=qdrant.CollectionExists(exists=exists))

    async def Create(self, request: Any, context: Context[Any, Any]) -> Any:
        vectors = GrpcToRest.convert_vectors_config(request.vectors_config)
        return _done(self._engine.create_collection(request.collection_name, vectors_config=vectors))

    async def Delete(self, request: Any, context: Context[Any, Any]) -> Any:
        return _done(self._engine.delete_collection(request.collection_name))

    async def Get(self, request: Any, context: Context[Any, Any]) -> Any:
        info = self._engine.get_collection(request.collection_name)
        return qdrant.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    async def UpdateAliases(self, request: Any, context: Context[Any, Any]) -> Any:
        actions = [GrpcToRest.convert_alias_operations(action) for action in request.actions]
        return _done(self._engine.update_collection_aliases(actions))


class _Points(qdrant.PointsServicer):
    def __init__(self, engine: QdrantClient) -> None:
        self._engine = engine

    async def CreateFieldIndex(self, request: Any, context: Context[Any, Any]) -> Any:
        # The in-memory engine filters without indexes and would warn of one.
        return _updated()

    async def Upsert(self, request: Any, context: Context[Any, Any]) -> Any:
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        self._engine.upsert(request.collection_name, points)
        return _updated()

    async def Delete(self, request: Any, context: Context[Any, Any]) -> Any:
        self._engine.delete(request.collection_name, GrpcToRest.convert_points_selector(request.points))
        return _updated()

    async def Get(self, request: Any, context: Context[Any, Any]) -> Any:
        records = self._engine.retrieve(
            request.collection_name,
            [GrpcToRest.convert_point_id(point) for point in request.ids],
            with_payload=_payload(request),
            with_vectors=_vectors(request),
        )
        return qdrant.GetResponse(result=[RestToGrpc.convert_record(record) for record in records])

    async def Scroll(self, request: Any, context: Context[Any, Any]) -> Any:
        records, following = self._engine.scroll(
            request.collection_name,
            scroll_filter=_filter(request),
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_payload=_payload(request),
            with_vectors=_vectors(request),
        )
        return qdrant.ScrollResponse(
            result=[RestToGrpc.convert_record(record) for record in records],
            next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
        )

    async def Query(self, request: Any, context: Context[Any, Any]) -> Any:
        reply = self._engine.query_points(
            request.collection_name,
            query=GrpcToRest.convert_query(request.query),
            using=request.using,
            query_filter=_filter(request),
            limit=request.limit,
            score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
            with_payload=_payload(request),
            with_vectors=_vectors(request),
        )
        return qdrant.QueryResponse(result=[RestToGrpc.convert_scored_point(point) for point in reply.points])

    async def Count(self, request: Any, context: Context[Any, Any]) -> Any:
        reply = self._engine.count(request.collection_name, count_filter=_filter(request), exact=True)
        return qdrant.CountResponse(result=qdrant.CountResult(count=reply.count))


def _done(result: bool) -> Any:
    return qdrant.CollectionOperationResponse(result=result)


def _updated() -> Any:
    return qdrant.PointsOperationResponse(
        result=qdrant.UpdateResult(operation_id=0, status=qdrant.UpdateStatus.Completed)
    )


def _filter(request: Any) -> models.Filter | None:
    return GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None


def _payload(request: Any) -> Any:
    return GrpcToRest.convert_with_payload_selector(request.with_payload)


def _vectors(request: Any) -> Any:
    return GrpcToRest.convert_with_vectors_selector(request.with_vectors)
