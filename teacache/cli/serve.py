"""`teacache serve`: an image server with OpenAI's interface."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import ipaddress
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..environment import BACKEND_VARIABLE, CONFIG_VARIABLE, TEACACHE, resolve_cache_config
from ..errors import UserError
from ..workflows.fields import FIELDS
from .options import WORKFLOW_HELP, add_comfyui_option, say, whole_number
from .pipeline_options import (
    LARGEST,
    STEPS,
    add_cache_backend_options,
    add_loading_options,
    add_model_option,
)
from .replica_options import add_replica_options, check_replica_options, replicas_of

if TYPE_CHECKING:
    from ..config import TeaCacheConfig
    from ..serving.app import Service
    from ..serving.executors import Executor
    from ..serving.models import ModelDescription
    from ..serving.sources import ModelSource

PORT = 8091
KEY_VARIABLE = "TEACACHE_API_KEY"
PACKAGES = ("fastapi", "uvicorn", "pydantic", "prometheus_client", "python_multipart")
INSTALL = "teacache serve needs an extra: pip install 'teacache-studio[serve]'"
MIB = 2**20


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="an image server with OpenAI's interface",
        description="Serves a diffusers pipeline, or a ComfyUI workflow, over HTTP as OpenAI's "
        "image service: POST /v1/images/generations, POST /v1/images/edits, GET /v1/models, "
        "/health, /metrics.",
        epilog=f"{BACKEND_VARIABLE}={TEACACHE} and {CONFIG_VARIABLE} (JSON) turn the cache on "
        "without an option; an option wins.",
    )
    add_model_option(parser, required=False)
    parser.add_argument("--workflow", type=Path, metavar="FILE", help=WORKFLOW_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s: this machine)")
    parser.add_argument(
        "--port",
        type=whole_number(0, 65535),
        default=PORT,
        help="(default: %(default)s); 0 for any that is free",
    )
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"that requests must carry (default: ${KEY_VARIABLE}, else none)",
    )
    parser.add_argument(
        "--served-model-name", metavar="NAME", help="(default: that of the folder or file)"
    )
    add_cache_backend_options(parser)
    add_limits(parser.add_argument_group("limits of a request"))
    add_replica_options(parser.add_argument_group("replicas, by Ray Serve"))
    add_loading_options(parser.add_argument_group("pipelines"))
    workflows = parser.add_argument_group("workflows")
    workflows.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FIELD=NODE.INPUT",
        help=f"which input a field sets, where that is not clear: {', '.join(FIELDS)}; repeatable",
    )
    workflows.add_argument(
        "--picture", metavar="NODE", help="which node's pictures, where several are saved or shown"
    )
    workflows.add_argument(
        "--custom-nodes", action="store_true", help="load the other packs of that ComfyUI as well"
    )
    add_comfyui_option(workflows)
    parser.add_argument(
        "--verbose", action="store_true", help="show each request, and the libraries' logs"
    )
    parser.set_defaults(run=run)


def add_limits(group: Any) -> None:
    group.add_argument(
        "--max-queue",
        type=whole_number(0, 100_000),
        default=16,
        metavar="N",
        help="requests that wait; more are answered 429 (default: %(default)s)",
    )
    group.add_argument(
        "--max-side",
        type=whole_number(16, LARGEST),
        default=2048,
        metavar="PIXELS",
        help="longest side of a picture (default: %(default)s)",
    )
    group.add_argument(
        "--max-steps", type=whole_number(1, 10_000), default=200, metavar="N",
        help="sampling steps (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max-n", type=whole_number(1, 1000), default=8, metavar="N",
        help="pictures (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max-request",
        type=whole_number(1, 4096),
        default=32,
        metavar="MIB",
        help="size of a request with pictures to edit (default: %(default)s)",
    )
    group.add_argument(
        "--steps",
        type=whole_number(1, 10_000),
        default=STEPS,
        help="of a request to a pipeline that names none (default: %(default)s)",
    )
    group.add_argument(
        "--serve-files",
        type=whole_number(1, 1_000_000),
        metavar="MIB",
        help="also answer with URLs: keep pictures for an hour in so much main memory",
    )


def run(args: argparse.Namespace) -> int:
    check(args)
    cache = resolve_cache_config(
        os.environ, args.cache_backend, args.cache_config, args.tea_cache_rel_l1_thresh
    )

    from ..serving.server import bind, serve, stops_by_signal, url_of

    with stops_by_signal(), contextlib.closing(bind(args.host, args.port)) as taken:
        if not args.api_key and not is_loopback(taken.getsockname()[0]):
            say(f"no --api-key: whoever reaches {url_of(taken)} can use this server")
        source = source_of(args, cache)
        with (
            tempfile.TemporaryDirectory(prefix="teacache-serve-") as folder,
            opened(args, source, Path(folder)) as (description, executor),
        ):
            for line in description.lines:
                say(line)
            service = service_of(args, description, executor)
            say(f"serving {description.name} on {url_of(taken)}/v1 (Ctrl-C ends it)")
            serve(service, taken, args.verbose)
            if executor.busy:
                leave(folder)
    return 0


def leave(folder: str) -> NoReturn:
    """Ends the process in spite of a step that goes on in a thread of it.

    Args:
        folder: of temporary files, removed before.
    """
    shutil.rmtree(folder, ignore_errors=True)
    sys.stderr.flush()
    os._exit(0)


def check(args: argparse.Namespace) -> None:
    """Refuses options that do not go together, and a missing extra."""
    if (args.model is None) == (args.workflow is None):
        raise UserError("serve: give one of --model DIR and --workflow FILE")
    if args.workflow is None:
        for option, given in (
            ("--map", args.map),
            ("--picture", args.picture),
            ("--custom-nodes", args.custom_nodes),
        ):
            if given:
                raise UserError(f"{option}: needs --workflow FILE")
    if args.steps > args.max_steps:
        raise UserError(f"--steps {args.steps}: is above --max-steps {args.max_steps}")
    check_replica_options(args)
    args.api_key = os.environ.get(KEY_VARIABLE, "") if args.api_key is None else args.api_key
    if any(importlib.util.find_spec(package) is None for package in PACKAGES):
        raise UserError(INSTALL)


def is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def service_of(
    args: argparse.Namespace, description: ModelDescription, executor: Executor
) -> Service:
    """The server with the options' limits."""
    from ..serving.app import Service
    from ..serving.kept import KeptPictures
    from ..serving.limits import Limits
    from ..serving.metrics import Metrics
    from ..serving.queue import JobQueue

    metrics = Metrics()
    return Service(
        description,
        JobQueue(executor, args.max_queue, metrics),
        metrics,
        Limits(args.max_side, args.max_steps, args.max_n, args.max_request * MIB),
        None if args.serve_files is None else KeptPictures(args.serve_files * MIB),
        args.api_key,
    )


def source_of(args: argparse.Namespace, cache: TeaCacheConfig | None) -> ModelSource:
    """What --model or --workflow names, checked as far as that is possible before it is loaded."""
    from ..serving.sources import PipelineSource, WorkflowSource

    if args.workflow is None:
        from ..hosts.diffusers.loading import require_diffusers
        from ..serving.pipelines import name_of

        require_diffusers()
        return PipelineSource(
            model=absolute(args.model),
            name=args.served_model_name or name_of(args.model),
            cache=cache,
            steps=args.steps,
            precision=args.precision or "auto",
            placement=args.placement or "auto",
            online=bool(args.download),
            verbose=args.verbose,
        )

    from ..hosts.comfyui.headless.boot import find_comfyui

    return WorkflowSource.read(
        args.workflow,
        args.served_model_name,
        cache=cache,
        comfyui=find_comfyui(args.comfyui),
        told=tuple(args.map),
        picture=args.picture,
        custom_nodes=args.custom_nodes,
        verbose=args.verbose,
    )


def absolute(model: str) -> str:
    """--model, a folder by its whole path: replicas have another current folder."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


@contextlib.contextmanager
def opened(
    args: argparse.Namespace, source: ModelSource, folder: Path
) -> Iterator[tuple[ModelDescription, Executor]]:
    """The model in this process, or on replicas with --ray."""
    if args.ray is not None:
        from ..serving.cluster import deployed

        say(f"loading {source.what} on Ray ({args.ray}) …")
        with deployed(args.ray, source, replicas_of(args), say, args.verbose) as both:
            yield both
        return

    from ..serving.executors import LocalExecutor

    say(f"loading {source.what} …")
    with source.opened(folder) as model:
        yield model.description, LocalExecutor(model)
