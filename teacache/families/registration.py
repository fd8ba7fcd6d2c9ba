"""Checking a family before it is registered: everything that can be wrong, in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..config import MAX_THRESHOLD, checked_coefficients, checked_number
from ..errors import ConfigError, listing, nearest
from ..profiles.profile import Profile
from .spec import Family, class_name, unwrap_compiled
from .streams import BlockList, Role


def checked_family(
    family: Family,
    coefficients: Sequence[float] | None,
    rel_l1_thresh: float,
    source: str,
    transformer: nn.Module | None,
) -> Family:
    """`family` with full class names and a profile of its own. Arguments as in `register_family`.

    Raises:
        ConfigError: something is wrong.
    """
    if not isinstance(family, Family):
        raise ConfigError(f"a Family is needed, not {type(family).__name__}")
    if not isinstance(family.id, str) or not family.id.strip() or family.id == "auto":
        raise ConfigError(f"family: id must be a text that is not empty, not {family.id!r}")
    where = f"family {family.id!r}"
    polynomial = () if coefficients is None else checked_coefficients(coefficients)
    profile = Profile(
        name=family.id,
        family=family.id,
        indicator=_indicator(family),
        coefficients=polynomial,
        thresholds=(),
        default_threshold=checked_number("rel_l1_thresh", rel_l1_thresh, 0.0, MAX_THRESHOLD),
        calibrated=coefficients is not None,
        source=source,
    )
    checked = replace(
        family,
        classes=tuple(_class_names(family.classes, where)),
        block_lists=tuple(_checked_list(blocks, where) for blocks in family.block_lists),
        profiles=(profile, *family.profiles),
        default_profile=family.default_profile if family.profiles else None,
        profile_for_run=family.profile_for_run if family.profiles else None,
    )
    if not checked.block_lists:
        raise ConfigError(f"{where}: block_lists is empty; name at least one list of blocks")
    if transformer is not None:
        check_transformer(checked, transformer)
    return checked


def check_transformer(family: Family, transformer: nn.Module) -> None:
    """Check that `family` describes `transformer`.

    Raises:
        ConfigError: the transformer is of another class or lacks one of the block lists.
    """
    where, inner = f"family {family.id!r}", unwrap_compiled(transformer)
    name = class_name(inner)
    if name not in family.classes:
        raise ConfigError(
            f"{where}: the transformer is a {name}, and classes names {listing(family.classes)}"
        )
    modules = dict(inner.named_modules())
    for blocks in family.block_lists:
        container = modules.get(blocks.path)
        if container is None or not len(container._modules):
            lists = [path for path, module in modules.items() if isinstance(module, nn.ModuleList)]
            hint = nearest(blocks.path, lists) or ";"
            raise ConfigError(
                f"{where}: {name} has no blocks in {blocks.path!r}{hint} it has {listing(lists)}"
            )


def _indicator(family: Family) -> str:
    """What the family's own profile reads."""
    if family.modulated_input is not None:
        return "modulated_input"
    return "timestep" if family.embed_timesteps is not None else "stack_input"


def _class_names(classes: Sequence[str | type], where: str) -> list[str]:
    """Full names of the classes, which may be given as classes."""
    if isinstance(classes, (str, type)):
        raise ConfigError(f"{where}: classes must be a list of names or classes, not {classes!r}")
    names = []
    for given in classes:
        if isinstance(given, type) and issubclass(given, nn.Module):
            names.append(f"{given.__module__}.{given.__qualname__}")
        elif isinstance(given, str) and "." in given:
            names.append(given)
        else:
            raise ConfigError(
                f"{where}: classes must hold full names such as 'package.module.Class', or classes "
                f"of torch.nn.Module, not {given!r}"
            )
    if not names:
        raise ConfigError(f"{where}: classes is empty; name at least one transformer class")
    return names


def _checked_list(blocks: BlockList, where: str) -> BlockList:
    if not isinstance(blocks, BlockList):
        raise ConfigError(f"{where}: block_lists must hold BlockList, not {blocks!r}")
    where = f"{where}, block list {blocks.path!r}"
    roles = [stream.role for stream in blocks.inputs]
    if not any(role is not Role.TEXT for role in roles):
        raise ConfigError(f"{where}: inputs must hold a stream that carries the image")
    if not any(role is not Role.TEXT for role in blocks.outputs):
        raise ConfigError(f"{where}: outputs must hold the role that carries the image")
    missing = [role.name for role in blocks.outputs if role not in roles]
    if missing:
        raise ConfigError(f"{where}: outputs holds {listing(missing)}, which inputs lacks")
    return blocks
