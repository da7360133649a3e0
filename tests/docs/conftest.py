"""The site, built once for all tests that look at it."""

import os

import forked
import pytest
from site_parts import DOCS, ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Folder of the built site. A warning ends the build with an error, as in `make docs`."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    words = ["-W", "--keep-going", "-q", str(DOCS), str(folder)]
    done = forked.run(forked.run_module, "sphinx", words, folder=ROOT, variables={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
