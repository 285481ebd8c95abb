#!/usr/bin/env python3
"""Whether the OpenAPI document is one, by PyPI's openapi-spec-validator.

usage: check_openapi.py OPENAPI_MAIN

Exit status 77 (skipped) where the validator is not installed.
"""
import json
import subprocess
import sys

try:
    from openapi_spec_validator import OpenAPIV31SpecValidator
except ImportError:
    print("openapi-spec-validator is not installed")
    sys.exit(77)


def main():
    document = json.loads(subprocess.run([sys.argv[1]], check=True, capture_output=True).stdout)
    errors = [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}"
              for error in OpenAPIV31SpecValidator(document).iter_errors()]
    # What is wrong with a planted document must be found, or the check means nothing.
    operation = next(iter(next(iter(document["paths"].values())).values()))
    del operation["responses"]["default"]["$ref"]
    planted = list(OpenAPIV31SpecValidator(document).iter_errors())
    for error in errors:
        print(error)
    if not planted:
        print("the validator finds nothing")
    return 1 if errors or not planted else 0


if __name__ == "__main__":
    sys.exit(main())
