"""``python -m stem_ae.simulate FOLDER`` works on one calculation: what the queue starts, on any machine."""

import pathlib
import sys

from stem_ae.simulate.running import run_folder

if __name__ == "__main__":
    sys.exit(run_folder(pathlib.Path(sys.argv[1]), owns_process=True))
