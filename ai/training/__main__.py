"""All steps from nothing to a measured pack, each one skipping or continuing what the cache already holds.

Place in the flow: the one command of README.md. Rule: seeds and numbers of steps are fixed; README.md says how the committed pack differs.
"""

import subprocess
import sys

STEPS = [["corpus", "--shards", "0-37"], ["train", "--steps", "2400"], ["pack"], ["evaluate"]]

for step in STEPS:
    print("==", " ".join(step), flush=True)
    subprocess.run([sys.executable, "-m", "training." + step[0], *step[1:]], check=True)
