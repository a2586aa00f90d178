"""Where a model comes from: an address, made into files on this machine.

::

    address       what may stand in --model_dir; which of it is remote; local paths
    source        what an address means now: an alias becomes a version, a version a location
    listing       the files that are there, with their sizes and versions
    download      the files into a draft, several at a time, again where the line broke
    cache         drafts and entries: an entry appears whole, by one rename
    progress      a bar on a terminal, lines in a log
    failure       which error passes by itself; any error as one line
    redaction     no credentials in what is logged, raised or named
    fetching      all of these, one after the other

MLflow's artifact repositories talk to the stores, for MLflow knows them all and how each is
authenticated. MLflow is imported where one is asked for, and by nothing before: these modules can
be imported by processes that are to stay free of it.
"""

from __future__ import annotations

from pyfuncserver.model.addresses.address import is_remote, local
from pyfuncserver.model.addresses.cache import directory, hold
from pyfuncserver.model.addresses.fetching import fetch
from pyfuncserver.model.addresses.redaction import shown

__all__ = ["directory", "fetch", "hold", "is_remote", "local", "shown"]
