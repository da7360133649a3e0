"""A Space that shows the reports of hardened models on the Hub; it opens no folder."""

import os

os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # visitors must not read what the owner of the Space can read

from hf_selfdestruct.jobs.viewer import viewer_of

viewer = viewer_of()

if __name__ == "__main__":
    viewer.launch(footer_links=[], run_history=False, enable_monitoring=False)
