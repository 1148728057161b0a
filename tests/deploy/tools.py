"""Runs with the Python of requirements/deploy.txt, as `python tools.py chart|compose` with JSON on stdin.

It has packages that the tests have not, so it imports nothing of theirs.
"""

import json
import sys
from pathlib import Path

import yaml
from compose_spec import PyCompose
from helm_python import Chart
from kubernetes_validate import SchemaNotFoundError, latest_version, validate

DEPLOY = Path(__file__).parents[2] / "deploy"


def chart(asked: str) -> str:
    """What the chart renders with these values, as a list of objects. Raises if a cluster would refuse one."""
    rendered = Chart.load(DEPLOY / "helm" / "blockyard").render(json.loads(asked), name="prod", namespace="platform")
    objects = [found for text in rendered.values() for found in yaml.safe_load_all(text) if found]
    for each in objects:
        try:
            validate(each, latest_version(), strict=True)
        except SchemaNotFoundError:
            if each["kind"] != "ServiceMonitor":  # the operator's own kind, which no schema of Kubernetes has
                raise
    return json.dumps(objects)


def compose(text: str) -> str:
    """Raises if it is no compose file."""
    PyCompose.from_yaml(text)
    return "{}"


if __name__ == "__main__":
    print({"chart": chart, "compose": compose}[sys.argv[1]](sys.stdin.read()))  # noqa: T201 - its answer
