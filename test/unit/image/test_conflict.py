from __future__ import annotations

from pyfuncserver.image import conflict
from pyfuncserver.image.conflict import Conflict

# As pip 23 to 25 write it.
CONSTRAINED = """\
INFO: pip is looking at multiple versions of pyfuncserver to determine which version is compatible
ERROR: Cannot install pyfuncserver==0.1.0 because these package versions have conflicting \
dependencies.

The conflict is caused by:
    pyfuncserver 0.1.0 depends on tornado>=6.2
    The user requested (constraint) tornado==5.1

To fix this you could try to:
1. loosen the range of package versions you've specified
"""
AMONG_THEMSELVES = """\
ERROR: Cannot install -r /tmp/x.txt (line 1) and a==1 because these package versions have \
conflicting dependencies.

The conflict is caused by:
    a 1.0 depends on c<2
    b 1.0 depends on c>=2

To fix this you could try to:
"""


def test_a_constraint_and_who_needs_another() -> None:
    found = conflict.find(CONSTRAINED)
    assert found == Conflict("tornado==5.1", "pyfuncserver 0.1.0", "tornado>=6.2")
    assert found.name == "tornado"


def test_two_that_need_different_versions_of_a_third() -> None:
    assert conflict.find(AMONG_THEMSELVES) == Conflict("a 1.0 (needs c<2)", "b 1.0", "c>=2")


def test_a_line_of_the_requirements_themselves() -> None:
    output = AMONG_THEMSELVES.replace("a 1.0 depends on c<2", "The user requested c==1.5")
    assert conflict.find(output) == Conflict("c==1.5", "b 1.0", "c>=2")


def test_one_package_twice() -> None:
    output = CONSTRAINED.replace("pyfuncserver 0.1.0 depends on", "The user requested")
    found = conflict.find(output)
    assert found == Conflict("tornado>=6.2", "tornado==5.1")
    assert found.opponent == "tornado==5.1"


def test_another_failure() -> None:
    output = "Collecting nothing\nERROR: No matching distribution found for nothing==1\n"
    assert conflict.find(output) is None
    assert conflict.last_error(output) == "No matching distribution found for nothing==1"
    assert conflict.last_error("Killed") == ""
