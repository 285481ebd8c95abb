#!/usr/bin/env python3
"""Draws answers under JSON schemas and lets PyPI jsonschema judge them.

Usage: check_constraints.py CONSTRAIN_MAIN MODEL [ANSWERS]
The schemas are those of tests/core/constraint/walk_schemas.h; ANSWERS (default 50) are drawn for each with MODEL's
vocabulary. The last line counts answers and those that are not JSON or do not satisfy their schema; the exit status is 1
if there are any. Formats are checked as far as jsonschema has the packages for them.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import jsonschema

SCHEMAS = pathlib.Path(__file__).resolve().parents[1] / "core/constraint/walk_schemas.h"


def as_draft_2020(schema):
    """OpenAPI's nullable, which jsonschema does not know, as a type."""
    if isinstance(schema, list):
        return [as_draft_2020(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: as_draft_2020(value) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable") is True and "type" in out:
        out["type"] = [out["type"], "null"] if isinstance(out["type"], str) else out["type"] + ["null"]
    return out


def main():
    binary, model = sys.argv[1:3]
    answers = sys.argv[3] if len(sys.argv) > 3 else "50"
    text = SCHEMAS.read_text(encoding="utf-8")
    texts = re.findall(r'R"\((.*?)\)"(?=,\n)', text, re.DOTALL)
    schemas = [json.loads(text) for text in texts]
    assert len(schemas) > 30, "the schemas are where they were"
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps(schema) + "\n" for schema in schemas)
        file.flush()
        drawn = subprocess.run([binary, model, file.name, answers], check=True, capture_output=True).stdout
    validators = [jsonschema.Draft202012Validator(as_draft_2020(schema),
                                                  format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
                  for schema in schemas]
    count, wrong, ended = 0, 0, set()
    for line in drawn.splitlines():
        entry = json.loads(line)
        count += 1
        ended.add(entry["schema"])
        try:
            errors = [error.message for error in validators[entry["schema"]].iter_errors(json.loads(entry["answer"]))]
        except ValueError as error:
            errors = [str(error)]
        if errors:
            wrong += 1
            print(f"{texts[entry['schema']]}\n  gave {entry['answer']}\n  {errors[0]}")
    print(f"{len(schemas)} schemas ({len(ended)} with answers), {count} answers, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
