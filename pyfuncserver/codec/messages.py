"""Protobuf messages from a committed descriptor set, in a descriptor pool of their own.

Two copies of one file collide in protobuf's default pool, whatever imports them and when; and no
version of the runtime refuses a descriptor set, as it does generated code.
"""

from __future__ import annotations

from importlib import resources
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def file_set(name: str) -> FileDescriptorSet:
    """Give a compiled set (``upi.binpb``), with all that its files import."""
    data = resources.files("pyfuncserver.codec").joinpath(name).read_bytes()
    return FileDescriptorSet.FromString(data)


def pool_of(files: FileDescriptorSet) -> descriptor_pool.DescriptorPool:
    """Make a new pool that holds these files."""
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def classes_of(files: FileDescriptorSet, package: str) -> Any:
    """Make the message classes of a package, as the attributes of what is returned."""
    own = [file.name for file in files.file if file.package == package]
    classes = message_factory.GetMessageClassesForFiles(own, pool_of(files))
    return SimpleNamespace(**{name.rpartition(".")[2]: cls for name, cls in classes.items()})
