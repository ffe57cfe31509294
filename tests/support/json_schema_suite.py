"""The required cases of the official JSON Schema test suite, drafts 4 to 2020-12.

`python -m tests.support.json_schema_suite FOLDER` writes the data file from the suite's folder `tests`, which stands in
`json` of the source distribution of the package `jsonschema`, here of version 4.26.0.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = Any

DRAFTS: Mapping[str, str] = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
DATA = Path(__file__).parent / "data" / "json_schema_test_suite.jsonl"


@dataclass(frozen=True, slots=True)
class Group:
    """One schema, which names its draft, and instances with whether they are valid."""

    name: str
    schema: dict[str, Json]
    instances: Sequence[tuple[Json, bool]]


def groups(draft: str) -> Sequence[Group]:
    """All groups of a draft; true and false stand within an `allOf`, as a request's schema is an object."""
    found: list[Group] = []
    for line in DATA.read_text(encoding="utf-8").splitlines():
        group = json.loads(line)
        if draft in group["drafts"]:
            schema = group["schema"]
            schema = schema if isinstance(schema, dict) else {"allOf": [schema]}
            found.append(Group(group["name"], {"$schema": DRAFTS[draft], **schema}, group["tests"]))
    return found


def _write(folder: Path) -> None:
    found: dict[str, dict[str, Json]] = {}
    for draft, address in DRAFTS.items():
        for file in sorted((folder / draft).glob("*.json")):
            for group in json.loads(file.read_text(encoding="utf-8")):
                schema = group["schema"]
                if isinstance(schema, dict) and schema.get("$schema", "").rstrip("#") == address.rstrip("#"):
                    del schema["$schema"]
                one = {
                    "name": f"{file.stem}: {group['description']}",
                    "schema": schema,
                    "tests": [[test["data"], test["valid"]] for test in group["tests"]],
                }
                # What several drafts share stands in the file once.
                found.setdefault(json.dumps(one), {"drafts": [], **one})["drafts"].append(draft)
    lines = [json.dumps(group, separators=(",", ":")) for group in found.values()]
    DATA.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
