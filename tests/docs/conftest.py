"""The site, built once for all tests that look at it."""

import os

import forked
import pytest
from filelock import FileLock
from site_parts import DOCS, ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id):
    """Folder of the built site, shared by all workers. A warning ends the build with an error, as in `make docs`."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    folder, built = shared / "site", shared / "site-is-built"
    with FileLock(shared / "site.lock"):
        if not built.exists():
            words = ["-W", "--keep-going", "-q", str(DOCS), str(folder)]
            variables = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = forked.run(forked.run_module, "sphinx", words, folder=ROOT, variables=variables)
            assert done.returncode == 0, done.stderr[-3000:]
            built.touch()
    return folder
