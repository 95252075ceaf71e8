"""The doctor finds no false fault in the default environments of well-known packages."""

import pytest
from support.environment_packages import ENVIRONMENTS, examine, false_faults, missing


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_default_environments_have_no_false_faults(env_id):
    if (reason := missing(env_id)) is not None:
        pytest.skip(reason)
    found = examine(env_id)
    if isinstance(found, str):
        pytest.skip(found)
    assert not false_faults(env_id, found), found
