"""A script agent: doubles the first whole number of train.py that it has not doubled yet.

metaresearch run stock --researcher command \
    --command "/usr/bin/python3 ./doubler.py {prompt_file}" --set agent_paths=./doubler.py
"""

import re
import sys
from pathlib import Path

brief = Path(sys.argv[1]).read_text()  # everything an agent is told; not needed here
tried = Path("results.tsv").read_text()
source = Path("train.py").read_text()
for line, name, value in re.findall(r"(?m)^(([A-Z_]+) = (\d+)\b)", source):
    if f"double {name}" not in tried:
        Path("train.py").write_text(source.replace(line, f"{name} = {2 * int(value)}", 1))
        Path("MOVE.md").write_text(f"DESCRIPTION: double {name}\nHYPOTHESIS: more may help\n")
        break
