"""`olivine cache`."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import config_option, json_option, one_file, print_json, say

if TYPE_CHECKING:
    from olivine.store.entries import Cache


def _cache_dir(function: Callable[..., Any]) -> Callable[..., Any]:
    """The cache that a command is about: the cache_dir of a config, or --cache-dir."""

    @functools.wraps(function)
    def with_cache(config: Path | None, config_file: Path | None, cache_dir: Path | None, **others: Any) -> Any:
        return function(cache_dir=_named(config, config_file, cache_dir), **others)

    return config_option(
        click.option(
            "--cache-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="The folder itself; without it and without a config, .olive-cache.",
        )(with_cache)
    )


def _named(config: Path | None, config_file: Path | None, cache_dir: Path | None) -> Path:
    if config is None and config_file is None:
        return cache_dir if cache_dir is not None else Path(".olive-cache")
    named = one_file(config, config_file)
    if cache_dir is not None:
        raise click.UsageError(f"two caches are named: that of {named}, and --cache-dir {cache_dir}")
    from olivine.config import load
    from olivine.errors import ConfigError
    from olivine.paths import of_user

    loaded = load(named)
    if loaded.workflow is None:
        raise ConfigError(loaded.problems)
    return of_user(loaded.workflow.cache_dir)


@click.group("cache")
def command() -> None:
    """See what is stored, free space, check every byte."""


@command.command("ls", short_help="List every stored result.")
@json_option
@_cache_dir
def show(cache_dir: Path, as_json: bool) -> int:
    """List every stored result with its size and last use, oldest first."""
    from olivine.workflow.units import readable_bytes

    entries = sorted(_open(cache_dir).entries(), key=lambda entry: entry.last_used)
    if as_json:
        print_json(
            [{"key": e.key, "name": e.name, "size_bytes": e.size_bytes, "last_used": e.last_used} for e in entries]
        )
        return 0
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        click.echo(f"{entry.key[:12]}  {readable_bytes(entry.size_bytes):>8}  {used}  {entry.name}")
    click.echo(f"{len(entries)} results, {readable_bytes(sum(entry.size_bytes for entry in entries))} in {cache_dir}")
    return 0


@command.command("gc", short_help="Remove what no run has used for a while.")
@json_option
@_cache_dir
@click.option("--days", default=30.0, show_default=True, help="Keep what was used within that many days.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def collect(cache_dir: Path, days: float, dry_run: bool, as_json: bool) -> int:
    """Remove results that no run has used for a while; what a run is using stays."""
    from olivine.workflow.units import readable_bytes

    gone = _open(cache_dir).collect_garbage(days, dry_run=dry_run)
    n_bytes = sum(entry.size_bytes for entry in gone)
    if as_json:
        print_json({"removed": [entry.key for entry in gone], "size_bytes": n_bytes, "dry_run": dry_run})
    else:
        verb = "would be removed" if dry_run else "removed"
        click.echo(f"{len(gone)} results {verb}, {readable_bytes(n_bytes)}")
    return 0


@command.command("verify", short_help="Read every byte again.")
@json_option
@_cache_dir
@click.option("--repair", is_flag=True, help="Remove what is damaged; the next run that needs it makes it again.")
def verify(cache_dir: Path, repair: bool, as_json: bool) -> int:
    """Read every byte again, those of the manifests too; exit code 1 when a result is not what it was.

    A run makes a damaged result again. With --repair it is removed now, unless a run is at work on it.
    """
    cache = _open(cache_dir)
    checked = list(cache.verify())
    damaged = [(entry, damage) for entry, damage in checked if damage is not None]
    removed = [entry.key for entry, _ in damaged if repair and cache.remove(entry.key)]
    if as_json:
        found = {entry.key: damage for entry, damage in damaged}
        print_json({"n_entries": len(checked), "damaged": found, "removed": removed})
    else:
        for entry, damage in damaged:
            say(f"{entry.key[:12]} {entry.name}: {damage}", fg="red")
        more = f", {len(removed)} removed" if repair else ""
        click.echo(f"{len(checked)} results, {len(damaged)} damaged{more}")
    return 1 if len(damaged) > len(removed) else 0


def _open(cache_dir: Path) -> "Cache":
    from olivine.store.entries import Cache

    if not (cache_dir / "steps").is_dir():
        raise click.UsageError(
            f"{cache_dir} is no cache of olivine: name the config, or its cache_dir with --cache-dir"
        )
    return Cache(cache_dir)
