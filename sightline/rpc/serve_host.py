"""The Ray Serve host: a servicer behind Serve's gRPC ingress. Serve offers no TLS here; end it in front."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from ray import serve
from ray.serve import Application
from ray.serve.config import gRPCOptions
from ray.serve.grpc_util import RayServegRPCContext
from ray.util.metrics import Gauge

from sightline.errors import NotReady, SettingInvalid, SightlineError
from sightline.rpc.context import REQUEST_ID_KEY, IncomingCall
from sightline.rpc.dispatch import Dispatcher
from sightline.rpc.host_settings import HostSettings, read_host_settings
from sightline.rpc.services import APPLICATIONS, SERVICE_NAMES, Servicer, service_methods
from sightline.rpc.status import clip, error_trailers, status_code
from sightline.rpc.telemetry import LogSettings, MetricsMirror, configure_logging
from sightline.rpc.tokens import TokenCheck
from sightline.settings import read_settings

DEFAULT_PORT = 9000


def grpc_options(*, port: int = DEFAULT_PORT, request_timeout_s: float | None = None) -> gRPCOptions:
    """Serve's gRPC options that admit every service of the contract.

    `request_timeout_s` bounds every call of every application, streams too;
    None leaves it to the callers' deadlines.
    """
    return gRPCOptions(port=port, grpc_servicer_functions=servicer_functions(), request_timeout_s=request_timeout_s)


def servicer_functions() -> list[str]:
    """Import paths of the functions by which Serve's proxy learns the services."""
    return [f"sightline.rpc.serve_proxy.add_{APPLICATIONS[service]}_service" for service in SERVICE_NAMES]


def deployment_class(
    servicer_factory: Callable[[], Servicer],
    service_name: str,
    *,
    settings_factory: Callable[[], HostSettings] = read_host_settings,
) -> type[Any]:
    """A class for `serve.deployment` that answers the RPCs of `service_name`, each by a method of its name.

    Both factories run in the replica. The replica counts as started once the
    servicer's `start` is done. Serve restarts a replica whose health check fails,
    which helps no servicer that waits for its first release: such a one answers
    NOT_READY, and the check fails only where a servicer was ready and is no more.
    """
    methods = {
        method.name: _serve_method(method.name, is_streamed=method.is_streamed)
        for method in service_methods(service_name)
    }

    class Hosted(_Hosted):
        async def __init__(self) -> None:  # type: ignore[misc]  # Serve awaits it
            await self._open(servicer_factory, service_name, settings_factory())

    return type(service_name, (Hosted,), {"__doc__": f"{service_name} under Ray Serve.", **methods})


class ReplicaSettings(Protocol):
    """What the settings of every service say of its replicas."""

    @property
    def num_replicas(self) -> int:
        """How many there are."""

    @property
    def num_cpus(self) -> float:
        """Cores that Ray books for each."""

    @property
    def max_ongoing_requests(self) -> int:
        """Calls in one at once."""

    @property
    def shutdown_s(self) -> float:
        """Longest time that one which is replaced gets to finish its calls."""


SettingsT = TypeVar("SettingsT", bound=ReplicaSettings)


def serve_application(
    service_name: str, *, settings: SettingsT, build: Callable[[SettingsT], Servicer], **actor_options: Any
) -> Application:
    """The application that answers `service_name`; the settings travel to every replica. Raises nothing before it runs.

    `actor_options` are Ray's, beside the cores.
    """
    deployment = serve.deployment(
        deployment_class(partial(build, settings), service_name),
        name=service_name,
        num_replicas=settings.num_replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        # A bounded queue of its own in every proxy, so that a full service refuses instead of hoarding requests.
        max_queued_requests=settings.max_ongoing_requests,
        graceful_shutdown_timeout_s=settings.shutdown_s,
        ray_actor_options={"num_cpus": settings.num_cpus, **actor_options},
    )
    return deployment.bind()


class _Hosted:
    """What every replica has beside its RPCs."""

    _servicer: Servicer | None = None
    _was_ready = False

    async def _open(self, servicer_factory: Callable[[], Servicer], service_name: str, settings: HostSettings) -> None:
        if settings.is_tls:
            raise SettingInvalid("tls_cert_file: Ray Serve's gRPC port speaks no TLS; end TLS in front of it")
        configure_logging(read_settings(LogSettings, section="log"))
        self._methods = {method.name: method for method in service_methods(service_name)}
        self._dispatcher = Dispatcher(
            tokens=TokenCheck(settings.read_tokens()),
            max_concurrent=settings.max_concurrent,
            max_request_bytes=settings.max_message_bytes,
        )
        # Ray exports it as `ray_sightline_*` from the port that tells of all of its metrics.
        self._metrics = MetricsMirror(Gauge)
        servicer = servicer_factory()
        await servicer.start()
        self._servicer = servicer
        self._dispatcher.mark_started()

    async def check_health(self) -> None:
        """Tell the metrics, and raise NotReady if the servicer was ready and is no more; every ten seconds by Serve."""
        self._metrics.copy()
        is_ready = self._servicer is not None and self._servicer.is_ready()
        if self._was_ready and not is_ready:
            raise NotReady("the servicer is not ready any more")
        self._was_ready = is_ready

    async def _close(self) -> None:
        servicer, self._servicer = self._servicer, None
        if servicer is not None:
            await servicer.stop()

    def __del__(self) -> Any:
        # Serve calls this by name once no call runs, and awaits what it returns. The
        # garbage collector calls it again later, when nothing is left to close.
        return self._close() if self._servicer is not None else None


def _serve_method(name: str, *, is_streamed: bool) -> Callable[..., Any]:
    # Serve finds the RPC by the method's name and passes the context by the
    # parameter's name, and tells a stream by its being an async generator.
    async def unary(self: _Hosted, request: Message, grpc_context: RayServegRPCContext) -> Message:
        call, method = _incoming(grpc_context), self._methods[name]
        handler = getattr(self._servicer, name)
        try:
            return await self._dispatcher.unary(method, handler, request=request, call=call)
        except SightlineError as error:
            _set_error(grpc_context, error, call=call)
            return method.response()

    async def streamed(self: _Hosted, request: Message, grpc_context: RayServegRPCContext) -> AsyncIterator[Message]:
        call, method = _incoming(grpc_context), self._methods[name]
        handler = getattr(self._servicer, name)
        try:
            async for frame in self._dispatcher.stream(method, handler, request=request, call=call):
                yield frame
        except SightlineError as error:
            _set_error(grpc_context, error, call=call)
            yield method.response()

    return streamed if is_streamed else unary


def _incoming(context: RayServegRPCContext) -> IncomingCall:
    metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    call = IncomingCall(metadata, peer=context.peer())
    context.set_trailing_metadata([(REQUEST_ID_KEY, call.request_id)])
    return call


def _set_error(context: RayServegRPCContext, error: SightlineError, *, call: IncomingCall) -> None:
    # Serve drops trailing metadata when a method raises, and carries the context
    # only along with a message. So the error is set here and an empty message
    # follows; our callers pass over empty frames.
    context.set_code(status_code(error))
    context.set_details(clip(error.message))
    context.set_trailing_metadata([(REQUEST_ID_KEY, call.request_id), *error_trailers(error)])
