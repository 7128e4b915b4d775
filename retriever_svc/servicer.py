"""RetrieverService: protobuf to the engine's words and back."""

from __future__ import annotations

from collections.abc import Sequence

from retriever_svc.composed import ComposedSearch
from retriever_svc.engine import Ask, Found, RetrieverEngine
from retriever_svc.index import Condition, Hit, ImagePoint, Where
from retriever_svc.paging import page_start, page_token
from retriever_svc.writing import NewImage
from sightline.errors import FieldOutOfRange, FilterInvalid, PictureTooLarge, SightlineError
from sightline.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_CONDITION_VALUES,
    MAX_CONDITIONS,
    MAX_DELETES_PER_CALL,
    MAX_METADATA_CHARS,
    MAX_PAGE_SIZE,
    MAX_PICTURE_BYTES,
    MAX_PICTURES_PER_CALL,
    MAX_SEARCH_K,
)
from sightline.rpc.context import CallContext
from sightline.rpc.edits import edit_from_proto
from sightline.rpc.status import item_status
from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.rpc.timings import StageClock
from sightline.rpc.validate import (
    check_count,
    check_image_id,
    check_metadata,
    check_present,
    check_range,
    check_text,
)
from sightline.rpc.vectors import unit_vector
from sightline.v1 import common_pb2, retriever_pb2

_MASKABLE = ("picture", "vector", "tokens")


class RetrieverServicer:
    """Answers RetrieverService from an engine."""

    def __init__(self, engine: RetrieverEngine) -> None:
        self._engine = engine
        self._is_ready = False

    async def start(self) -> None:
        """Open the index."""
        await self._engine.start()
        self._is_ready = True

    async def stop(self) -> None:
        """Finish the writes that have begun and close the index."""
        self._is_ready = False
        await self._engine.stop()

    def is_ready(self) -> bool:
        """True while the index is open."""
        return self._is_ready

    async def SearchImages(
        self, request: retriever_pb2.SearchImagesRequest, call: CallContext
    ) -> retriever_pb2.SearchImagesResponse:
        """The pictures nearest to a text, a picture, a vector, or what an edit makes of a picture."""
        clock = StageClock()
        found = await self._find(request, ask=_ask(request), call=call, clock=clock)
        images = [_scored(hit) for hit in found.hits]
        return retriever_pb2.SearchImagesResponse(images=images, served=_served(call, clock, space_id=found.space_id))

    async def UpsertImages(
        self, request: retriever_pb2.UpsertImagesRequest, call: CallContext
    ) -> retriever_pb2.UpsertImagesResponse:
        """Store pictures, each with a status of its own."""
        clock = StageClock()
        check_count(len(request.images), field="images", limit=MAX_PICTURES_PER_CALL)
        errors = [_refusal(record) for record in request.images]
        accepted = [number for number, error in enumerate(errors) if error is None]
        if accepted:
            images = [_new_image(request.images[number]) for number in accepted]
            outcomes = await self._engine.upsert(images, call=call, clock=clock)
            for number, outcome in zip(accepted, outcomes, strict=True):
                errors[number] = outcome
        items = [item_status(error) for error in errors]
        return retriever_pb2.UpsertImagesResponse(items=items, served=self._served(call, clock))

    async def DeleteImages(
        self, request: retriever_pb2.DeleteImagesRequest, call: CallContext
    ) -> retriever_pb2.DeleteImagesResponse:
        """Remove pictures; unknown ids are no error."""
        clock = StageClock()
        check_count(len(request.image_ids), field="image_ids", limit=MAX_DELETES_PER_CALL)
        for image_id in request.image_ids:
            check_image_id(image_id, field="image_ids")
        with clock.stage("search"):
            num_deleted = await self._engine.delete(request.image_ids)
        return retriever_pb2.DeleteImagesResponse(num_deleted=num_deleted, served=self._served(call, clock))

    async def GetImage(
        self, request: retriever_pb2.GetImageRequest, call: CallContext
    ) -> retriever_pb2.GetImageResponse:
        """One stored picture."""
        clock = StageClock()
        check_image_id(request.image_id)
        wanted = _wanted_fields(request)
        with clock.stage("search"):
            point = await self._engine.get(
                request.image_id, with_vector="vector" in wanted, with_tokens="tokens" in wanted
            )
        image = _stored(point)
        if "picture" in wanted:
            with clock.stage("retrieve"):
                image.picture.data = await self._engine.picture(point.sha256)
        return retriever_pb2.GetImageResponse(image=image, served=self._served(call, clock))

    async def ListImages(
        self, request: retriever_pb2.ListImagesRequest, call: CallContext
    ) -> retriever_pb2.ListImagesResponse:
        """The stored pictures, a page at a time."""
        clock = StageClock()
        limit = request.page_size or DEFAULT_PAGE_SIZE
        check_range(limit, field="page_size", low=1, high=MAX_PAGE_SIZE)
        where = _where(request)
        start = page_start(request.page_token, where=where)
        with clock.stage("search"):
            page = await self._engine.page(limit=limit, start=start, where=where)
        return retriever_pb2.ListImagesResponse(
            images=[_stored(point) for point in page.points],
            next_page_token=page_token(page.next_id, where=where),
            served=self._served(call, clock),
        )

    async def DescribeIndex(
        self, request: retriever_pb2.DescribeIndexRequest, call: CallContext
    ) -> retriever_pb2.DescribeIndexResponse:
        """What the index holds and in which space it answers."""
        clock = StageClock()
        described = await self._engine.describe()
        move = described.rollout
        return retriever_pb2.DescribeIndexResponse(
            num_images=described.info.num_points,
            num_indexed=described.info.num_indexed,
            dimension=described.space.dimension if described.space is not None else 0,
            driver=described.driver,
            collection=described.collection,
            rollout=retriever_pb2.SpaceRollout(
                target_space_id=move.target_space_id,
                num_done=move.num_done,
                num_total=move.num_total,
                last_error=move.last_error,
            ),
            served=self._served(call, clock),
        )

    async def _find(
        self, request: retriever_pb2.SearchImagesRequest, *, ask: Ask, call: CallContext, clock: StageClock
    ) -> Found:
        kind = request.WhichOneof("query")
        if kind == "text":
            check_text(request.text, field="text")
            return await self._engine.search_text(request.text, ask=ask, call=call, clock=clock)
        if kind == "picture":
            _check_picture(request.picture)
            return await self._engine.search_picture(request.picture.data, ask=ask, call=call, clock=clock)
        if kind == "composed":
            search = _composed(request.composed)
            return await self._engine.search_composed(search, ask=ask, call=call, clock=clock)
        check_present(kind == "vector", field="query")
        check_present(bool(request.embedding_space_id), field="embedding_space_id")
        query_D = unit_vector(tensor_from_proto(request.vector, name="vector"), name="vector")
        return await self._engine.search_vector(query_D, ask=ask, clock=clock)

    def _served(self, call: CallContext, clock: StageClock) -> common_pb2.Served:
        return _served(call, clock, space_id=self._engine.space_id)


def _ask(request: retriever_pb2.SearchImagesRequest) -> Ask:
    check_range(request.k, field="k", low=1, high=MAX_SEARCH_K)
    if request.HasField("min_score"):
        check_range(request.min_score, field="min_score", low=-1.0, high=1.0)
    return Ask(
        k=request.k,
        where=_where(request),
        min_score=request.min_score if request.HasField("min_score") else None,
        with_tokens=request.with_tokens,
        space_id=request.embedding_space_id,
    )


def _where(request: retriever_pb2.SearchImagesRequest | retriever_pb2.ListImagesRequest) -> Where | None:
    if not request.HasField("filter"):
        return None
    return Where(
        must=_conditions(request.filter.must, field="filter.must"),
        must_not=_conditions(request.filter.must_not, field="filter.must_not"),
    )


def _conditions(conditions: Sequence[retriever_pb2.Condition], *, field: str) -> tuple[Condition, ...]:
    if len(conditions) > MAX_CONDITIONS:
        raise _filter_invalid(f"{field}: got {len(conditions)} conditions, limit {MAX_CONDITIONS}")
    for number, condition in enumerate(conditions):
        _check_condition(condition, field=f"{field}[{number}]")
    return tuple(Condition(key=condition.key, any_of=tuple(condition.any_of)) for condition in conditions)


def _check_condition(condition: retriever_pb2.Condition, *, field: str) -> None:
    if not condition.key:
        raise _filter_invalid(f"{field}.key: got nothing, but it must be present")
    if not 1 <= len(condition.any_of) <= MAX_CONDITION_VALUES:
        raise _filter_invalid(f"{field}.any_of: got {len(condition.any_of)} values, limit 1 to {MAX_CONDITION_VALUES}")
    longest = max(len(text) for text in (condition.key, *condition.any_of))
    if longest > MAX_METADATA_CHARS:
        raise _filter_invalid(f"{field}: got {longest} characters, limit {MAX_METADATA_CHARS}")


def _filter_invalid(message: str) -> FilterInvalid:
    return FilterInvalid(message, detail=message)


def _refusal(record: retriever_pb2.ImageRecord) -> SightlineError | None:
    """Why a record cannot be stored, as far as can be told without looking into its picture."""
    try:
        check_image_id(record.image_id)
        check_metadata(record.metadata)
        _check_picture(record.picture)
    except SightlineError as error:
        return error
    return None


def _composed(message: retriever_pb2.ComposedSearch) -> ComposedSearch:
    kind = message.WhichOneof("reference")
    if kind == "picture":
        _check_picture(message.picture, field="composed.picture")
    if kind == "image_id":
        check_image_id(message.image_id, field="composed.image_id")
    return ComposedSearch(
        edit=edit_from_proto(message.edit, field="composed.edit", has_reference=kind is not None),
        picture=message.picture.data,
        image_id=message.image_id,
        keep_reference=message.keep_reference,
    )


def _check_picture(picture: common_pb2.Picture, *, field: str = "picture") -> None:
    check_present(bool(picture.data), field=f"{field}.data")
    if len(picture.data) > MAX_PICTURE_BYTES:
        got, limit = len(picture.data), MAX_PICTURE_BYTES
        raise PictureTooLarge(f"{field}.data: got {got} bytes, limit {limit}", value=got, limit=limit)


def _new_image(record: retriever_pb2.ImageRecord) -> NewImage:
    return NewImage(image_id=record.image_id, data=record.picture.data, metadata=dict(record.metadata))


def _wanted_fields(request: retriever_pb2.GetImageRequest) -> frozenset[str]:
    wanted = frozenset(request.read_mask.paths)
    for path in sorted(wanted):
        if path not in _MASKABLE:
            limit = ", ".join(_MASKABLE)
            raise FieldOutOfRange(
                f"read_mask: got {path[:64]!r}, expected {limit}", field="read_mask", value=path[:64], limit=limit
            )
    return wanted


def _scored(hit: Hit) -> common_pb2.ScoredImage:
    image = common_pb2.ScoredImage(image_id=hit.point.image_id, score=hit.score, metadata=hit.point.metadata)
    if hit.point.tokens is not None:
        image.tokens.CopyFrom(tensor_to_proto(hit.point.tokens))
    return image


def _stored(point: ImagePoint) -> retriever_pb2.StoredImage:
    image = retriever_pb2.StoredImage(image_id=point.image_id, metadata=point.metadata, sha256=point.sha256)
    if point.vector is not None:
        image.vector.CopyFrom(tensor_to_proto(point.vector))
    if point.tokens is not None:
        image.tokens.CopyFrom(tensor_to_proto(point.tokens))
    return image


def _served(call: CallContext, clock: StageClock, *, space_id: str) -> common_pb2.Served:
    return common_pb2.Served(embedding_space_id=space_id, request_id=call.request_id, timings=clock.timings())
