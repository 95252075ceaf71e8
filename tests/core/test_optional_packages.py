"""The command that installs an extra works for how the package itself was installed."""

import json

import pytest

from sb3_pgx.core.optional_packages import install_command


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "sb3_pgx[zoo]"'),
        ({"url": "file:///home/me/my%20clone", "dir_info": {"editable": True}}, 'pip install -e "/home/me/my clone[zoo]"'),
        ({"url": "file:///home/me/clone", "dir_info": {}}, 'pip install "/home/me/clone[zoo]"'),
        ({"url": "file:///tmp/x.whl", "archive_info": {}}, 'pip install "sb3_pgx[zoo] @ file:///tmp/x.whl"'),
        (
            {"url": "https://host/repo.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            'pip install "sb3_pgx[zoo] @ git+https://host/repo.git@abc"',
        ),
    ],
)
def test_an_extra_comes_from_where_the_package_came_from(tmp_path, monkeypatch, origin, command):
    metadata = tmp_path / "sb3_pgx-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sb3_pgx\nVersion: 0.1.0\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path)
    assert install_command("zoo") == command
