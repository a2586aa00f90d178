"""Makes a conda environment of what a model's ``conda.yaml`` asks conda for, with rattler.

A process of its own, ``python -m pyfuncserver.image.conda``: rattler's threads do not end before
the interpreter does, and now and then one of them takes it down (hence ``os._exit``).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import rattler
from rattler import exceptions

from pyfuncserver.errors import StartupError

_CHANNEL_ALIAS = "https://conda.anaconda.org"
# conda's `default_channels`, and where the channels of these names are.
_DEFAULTS, _ANACONDA = ("pkgs/main", "pkgs/r"), "https://repo.anaconda.com"
_REQUEST_TIMEOUT = timedelta(minutes=30)
_BRANCHES = " │├└─"


def main(argv: list[str]) -> int:
    """Make the environment; give the exit status. What failed is the last line, ``ERROR: ...``."""
    parser = argparse.ArgumentParser(prog="python -m pyfuncserver.image.conda", description=__doc__)
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--channel", action="append", default=[])
    parser.add_argument("--spec", action="append", default=[])
    try:
        asyncio.run(_make(parser.parse_args(argv)))
    except (
        exceptions.GatewayError,
        exceptions.InstallerError,
        exceptions.InvalidChannelError,
        exceptions.InvalidMatchSpecError,
        exceptions.SolverError,
        StartupError,
    ) as error:
        sys.stdout.write(f"ERROR: {_in_one_line(str(error))}\n")
        return 1
    return 0


async def _make(arguments: argparse.Namespace) -> None:
    alias = os.environ.get("CONDA_CHANNEL_ALIAS") or _CHANNEL_ALIAS
    specs = [rattler.MatchSpec(with_url(spec, alias)) for spec in arguments.spec]
    if not any(str(spec.name.normalized) == "python" and spec.version for spec in specs):
        specs.append(rattler.MatchSpec(f"python=3.{sys.version_info.minor}"))
    channels = [*urls(arguments.channel or ["defaults"], alias)]
    channels += [spec.channel.base_url for spec in specs if spec.channel is not None]
    client = rattler.Client.default_client(timeout=int(_REQUEST_TIMEOUT.total_seconds()))
    records = await rattler.solve(
        [rattler.Channel(url) for url in channels],
        specs,
        gateway=rattler.Gateway(arguments.cache / "channels", client=client),
        constraints=[f"python {arguments.python}"],
        virtual_packages=rattler.VirtualPackage.detect(rattler.VirtualPackageOverrides.from_env()),
        # As conda has it, where nobody sets it up otherwise.
        channel_priority=rattler.ChannelPriority.Flexible,
        # A channel may name others, which the file does not.
        channel_relations="disabled",
    )
    for record in sorted(records, key=lambda record: record.name.normalized):
        sys.stdout.write(f"{record.name.normalized} {record.version} {record.build}\n")
    sys.stdout.flush()
    scripts = _Scripts()  # type: ignore[abstract]  # rattler's methods have only docstrings
    await rattler.install(
        records,
        arguments.prefix,
        arguments.cache / "packages",
        client=client,
        execute_link_scripts=True,  # conda does, and what is installed will run anyway
        reporter=scripts,
    )
    if scripts.failed:
        raise StartupError(f"the post-link script of {', '.join(scripts.failed)} failed")


class _Scripts(rattler.InstallerReporter):
    """Notes which packages' scripts fail; rattler goes on as if they had not."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self._packages: list[str] = []

    def on_post_link_start(self, package_name: str, script_path: str) -> int:  # noqa: ARG002
        self._packages.append(package_name)
        return len(self._packages) - 1

    def on_post_link_complete(self, index: int, success: bool) -> None:
        if not success:
            self.failed.append(self._packages[index])


def urls(channels: Iterable[str], alias: str) -> Iterator[str]:
    """Give the addresses of channels, most of which have only a name."""
    for channel in channels:
        if channel == "defaults":
            yield from (_url(name, alias) for name in _DEFAULTS)
        elif channel != "nodefaults":
            yield _url(channel, alias)


def _url(channel: str, alias: str) -> str:
    if "://" in channel:
        return channel
    base = _ANACONDA if channel.startswith("pkgs/") else alias
    return f"{base.rstrip('/')}/{channel}"


def with_url(spec: str, alias: str) -> str:
    """Give ``channel::package`` the channel's address."""
    channel, separator, package = spec.rpartition("::")
    name = _DEFAULTS[0] if channel == "defaults" else channel
    return f"{_url(name, alias)}::{package}" if separator else spec


def _in_one_line(text: str) -> str:
    """Join rattler's lines: a chain of causes, or a tree of packages that do not go together."""
    joined, depth = "", 0
    for line in text.replace("\nCaused by: ", ": ").splitlines():
        bare = line.lstrip(_BRANCHES)
        indent = len(line) - len(bare)
        link = ": " if indent > depth else "; "
        joined = f"{joined.rstrip(':')}{link}{bare}" if joined else bare
        depth = indent
    return joined


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
