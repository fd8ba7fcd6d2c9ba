"""The jobs of `teacache generate`: a job's options over the command's, and what is written."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

from ..config import TeaCacheConfig
from ..environment import TEACACHE, resolve_cache_config
from ..errors import UserError, listing, nearest
from ..files import write_atomically
from .generate_worker import GenerateMade, GenerateTask
from .job_plan import Entry, Plan, as_text
from .job_runs import digest_of
from .options import say
from .pipeline_options import (
    add_cache_backend_options,
    add_model_option,
    add_pipeline_options,
    add_seed_option,
    read_image,
)

ELSEWHERE = ("out", "report", "jobs", "vary", "ray", "workers", "gpus_per_worker", "retries", "run")
"""Options that say nothing about a picture."""
COMPARED = ("speedup", "uncached_seconds", "identical", "psnr", "ssim", "lpips")


class ColumnParser(argparse.ArgumentParser):
    """Reads the values of a job as the command line's."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


@cache
def column_parser() -> ColumnParser:
    """The options of `generate` that a job may have of its own."""
    parser = ColumnParser(add_help=False, allow_abbrev=False)
    add_model_option(parser, required=False)
    parser.add_argument("--prompt")
    add_seed_option(parser)
    add_pipeline_options(parser)
    add_cache_backend_options(parser)
    return parser


def columns() -> list[str]:
    actions = column_parser()._actions
    return [action.dest for action in actions if action.nargs != 0]  # flags are the command's


def cache_of(options: dict[str, Any]) -> TeaCacheConfig | None:
    """The cache that the options, or the environment, ask for."""
    return resolve_cache_config(
        os.environ,
        options["cache_backend"],
        options["cache_config"],
        options["tea_cache_rel_l1_thresh"],
    )


@dataclass
class PipelineJobs:
    """What the jobs of a command mean."""

    args: argparse.Namespace
    plan: Plan
    _said: set[str] = field(default_factory=set)

    def options(self, values: dict[str, Any]) -> dict[str, Any]:
        """The options of the command that say what a picture is, with a job's over them.

        Raises:
            UserError: there is no such option, or a value is unusable.
        """
        given = {name: value for name, value in vars(self.args).items() if name not in ELSEWHERE}
        arguments = []
        for name, value in values.items():
            known = columns()
            column = name.replace("-", "_")
            if column not in known:
                hint = nearest(column, known) or f". Columns: {listing(known, 20)}"
                raise UserError(f"no option {name!r} of a job{hint}")
            if isinstance(value, bool):
                raise UserError(f"{name}: must be a number or a text, not {as_text(value)}")
            arguments.append(f"--{column.replace('_', '-')}={as_text(value)}")
        own = vars(column_parser().parse_args(arguments))
        return given | {name: own[name] for name in (key.replace("-", "_") for key in values)}

    def key(self) -> dict[str, Any]:
        """What the pictures depend on beside the jobs."""
        options = self.options({})
        told = {name: options[name] for name in options if name not in ("verbose", "download")}
        return {"command": "generate", "options": digest_of(told), "cache": repr(cache_of(options))}

    def check(self, entry: Entry) -> None:
        try:
            options = self.options(entry.values)
            cache = cache_of(options)
            if options["prompt"] is None:
                raise UserError("--prompt: is required, for every job")
            if options["compare"] and (cache is None or cache.rel_l1_thresh == 0):
                raise UserError(f"--compare: no cache is on; add --cache-backend {TEACACHE}")
            if options["image"] is not None:
                read_image(options["image"])
        except UserError as error:
            raise entry.error(str(error)) from None

    def models(self, entry: Entry) -> str:
        options = self.options(entry.values)
        wanted = (options[name] for name in ("model", "precision", "placement"))
        return "\n".join([*map(str, wanted), str(options["image"] is not None)])

    def payload(self, entry: Entry) -> GenerateTask:
        options = self.options(entry.values)
        image = options["image"]
        return GenerateTask(
            options, None if image is None else read_image(image), cache_of(options)
        )

    def admit(self, about: dict[str, Any]) -> None:
        self._say(about["cache_line"])

    def store(self, entry: Entry, made: GenerateMade) -> tuple[dict[str, Any], str]:
        """Writes the files of a job, over those of an earlier one."""
        self._say(made.cache_line)
        out: Path = self.args.out / entry.folder
        for name, content in made.files.items():
            write_atomically(out / name, partial(Path.write_bytes, data=content))
        report = made.report
        told = {name: report[name] for name in ("seconds", "notes")}
        told |= {name: report[name] for name in COMPARED if name in report}
        told["files"] = [Path(entry.folder, name).as_posix() for name in report["files"]]
        told["runs"] = [report["run"]] if report["run"] else []
        names = "\n".join(f"  {name}" for name in made.files)
        return told, f"{made.text}\nPictures and report: {out}\n{names}"

    def _say(self, line: str) -> None:
        if line and line not in self._said:
            self._said.add(line)
            say(line)
